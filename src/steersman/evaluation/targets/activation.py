"""A target read off activations: what a probe says, or how far they project on a direction.

It shows whether the model *represents* more of something, not whether it says so. Steering at a layer moves what a
probe reads there by construction; read at a later layer, or trust the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ...extraction import activations
from ...extraction.reading import ReadLike
from ...model import SteeringModel
from ...model.tokens import Prompts
from ...plan import PlanLike
from ...probe import LinearProbe
from ...vector import SteeringVector
from ..items import Array
from ..prompting import prefaced
from .base import Measurement, Target, prompt_sources, required

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class ActivationTarget(Target):
    """A reading of one layer's activations at one token of each prompt.

    Attributes:
        reader: a fitted :class:`steersman.LinearProbe` of two classes, whose log-odds are read; or a
            :class:`steersman.SteeringVector`, on whose unit direction activations are projected.
        layer: where; the probe's best or the vector's chosen layer unless given.
        read: which token, as of :func:`steersman.activations`.
        positive: of a probe, the class whose log-odds count; the last unless given.
        instruction: asks for it in words.
    """

    reader: LinearProbe | SteeringVector
    layer: int | None = None
    read: ReadLike = "last"
    positive: Any = None
    instruction: str | None = None
    _layer: int = field(init=False, default=0)

    kind = "activation"

    def __post_init__(self) -> None:
        own = self.reader.layer if isinstance(self.reader, SteeringVector) else self.reader.best_layer
        layer = own if self.layer is None else self.layer
        if layer is None or layer not in self.reader.layers:
            there = ", ".join(map(str, self.reader.layers))
            raise DataError(
                f"name the layer= that is read, one of {there}" + ("" if layer is None else f"; not {layer}")
            )
        object.__setattr__(self, "_layer", layer)
        if isinstance(self.reader, LinearProbe) and len(self.reader.classes) != 2:
            raise DataError(f"a probe of two classes is needed, this one tells {len(self.reader.classes)} apart")
        if self.positive is not None and self.positive not in getattr(self.reader, "classes", ()):
            raise DataError(f"there is no class {self.positive!r}")

    @property
    def unit(self) -> str:
        """Nats of log-odds, or residual units."""
        return "nats of log-odds" if isinstance(self.reader, LinearProbe) else "residual units"

    def measure(
        self,
        model: SteeringModel,
        prompts: Prompts | None = None,
        *,
        steer: PlanLike = None,
        sources: Sequence[str] | None = None,
        preface: str | None = None,
    ) -> Measurement:
        """Read every prompt."""
        given = required(prompts, self)
        groups = prompt_sources(sources, len(given))
        asked = [prefaced(prompt, preface, model.tokens) for prompt in given]
        site = self.reader.site if isinstance(self.reader, SteeringVector) else self.reader.fitted.site
        acts = activations(model, asked, layers=[self._layer], site=site, read=self.read, steer=steer)
        return Measurement(self._values(acts[self._layer]), tuple(groups))

    def _values(self, acts: Tensor) -> Array:
        if isinstance(self.reader, SteeringVector):
            direction = self.reader[self._layer].flatten().double()
            return (acts.flatten(1).double() @ (direction / direction.norm())).numpy()
        chances = self.reader.probabilities(acts, layer=self._layer).numpy()
        logs = np.log(np.clip(chances, 1e-300, 1.0))
        last = self.reader.classes[-1] if self.positive is None else self.positive
        own = list(self.reader.classes).index(last)
        return logs[:, own] - logs[:, 1 - own]

    def describe(self) -> dict[str, Any]:
        """What it measures, as JSON-able values."""
        kind = "probe" if isinstance(self.reader, LinearProbe) else "direction"
        return {**super().describe(), "reads": kind, "layer": self._layer, "read": str(self.read)}

    def in_words(self) -> str | None:
        """The instruction given."""
        return self.instruction
