"""A user's own function as an operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import InterventionError, UnsupportedError
from ..sites import WRITERS
from .base import Intervention, Layers, ModelShape, Positions, Strength, When
from .maps import Calling, Map, Tokens


@dataclass(frozen=True, eq=False)
class Custom(Intervention):
    """``h -> fn(h, where)``, for what no operation here expresses. Hook engine only; cannot be saved.

    Args:
        fn: takes float32 tokens ``[n, width]`` and a :class:`~steersman.operations.maps.Tokens` that says which they
            are; returns a tensor of the same shape.
        layers, site, positions: must be named.
        strength, when: as everywhere.
    """

    fn: Callable[[Tensor, Tokens], Tensor]
    strength: Strength = 1.0
    layers: Layers | Any = None
    site: str | None = None
    positions: Positions | Any = None
    when: When | None = None

    operation = "custom"
    default_positions = None
    tensors = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.fn):
            raise InterventionError(f"Custom() needs a function fn(h, where), got {type(self.fn).__name__}")
        if self.layers is None or self.site is None:
            raise InterventionError("Custom() needs layers= and site= named")
        if self.site == WRITERS:
            raise InterventionError("Custom() acts at one site; name it")

    def digest(self) -> str:
        """Unique to the function object, which cannot be compared otherwise."""
        return f"custom-{id(self.fn)}-{super().digest()}"

    def maps(self, shape: ModelShape) -> Iterable[tuple[str, int, Map, float]]:
        """The function in each layer."""
        assert self.site is not None
        for layer, weight in self._weighted_layers(shape, None):
            yield self.site, layer, Calling(self.fn), weight

    def refuse_saving(self) -> UnsupportedError:
        """The error for whoever tries to write it to a file or a spec."""
        return UnsupportedError("a plan with Custom() cannot be saved or sent: a function is not data")
