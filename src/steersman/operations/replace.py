"""Putting given values in: patching."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import InterventionError, MismatchError
from ..sites import WRITERS
from ..values import LayerValues, Values, check_values, rows_of
from .base import Intervention, Layers, ModelShape, Positions, Strength, When
from .maps import Map, Setting


@dataclass(frozen=True, eq=False)
class Replace(Intervention):
    """``h -> values``: activation patching.

    Args:
        values: ``[d_model]``, put in at every selected token; ``[n, d_model]``, one row per selected token, in order;
            or a mapping layer -> such a tensor.
        layers: where; may be left out only if ``values`` is a mapping.
        positions: which tokens; must be named.
        strength: 1 replaces; less mixes.
        site, when: as everywhere; ``resid_post`` unless told otherwise.
    """

    values: Values
    strength: Strength = 1.0
    layers: Layers | Any = None
    site: str | None = None
    positions: Positions | Any = None
    when: When | None = None

    operation = "replace"
    default_positions = None
    tensors = ("values",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(values=check_values(self.values, "the values of Replace()"))
        if self.site == WRITERS:
            raise InterventionError("Replace() at writers would put the same values in everywhere; name one site")
        if self.layers is None and not isinstance(self.values, LayerValues):
            raise InterventionError("Replace() needs layers=, for example layers=5")

    def maps(self, shape: ModelShape) -> Iterable[tuple[str, int, Map, float]]:
        """A setting in each layer, one row for all tokens or one for each."""
        known = self.values if isinstance(self.values, LayerValues) else None
        if known is not None and known.origin and known.origin.fingerprint != shape.fingerprint:
            raise MismatchError(f"Replace(): the values were read from {known.origin.model}, but this is {shape.name}")
        component = self.site or (known.site if known else None) or "resid_post"
        if known is not None and self.layers in (None, "all"):
            wanted = [(shape.layer(layer, "Replace()"), 1.0) for layer in known.layers]
        else:
            wanted = self._weighted_layers(shape, None)
        for layer, weight in wanted:
            width = shape.width(component, layer)
            unit = shape.d_head if component == "z" else 1
            rows = rows_of(self.values, layer, width, width, unit, "the tensor of Replace()")
            yield component, layer, Setting(rows, width), weight
