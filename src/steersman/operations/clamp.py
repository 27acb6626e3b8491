"""Setting the projection on a direction: to a value, or to a point between two class means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InterventionError
from ..sites import WRITERS
from ..tensors import check_number, unit
from ..vector import SteeringVector
from .base import Direction, Intervention, Layers, ModelShape, Positions, Strength, When
from .maps import AffineMap, Map, OneSidedClamp


@dataclass(frozen=True, eq=False)
class Clamp(Intervention):
    """``h -> h + (value - r^T h) r``: the projection on the unit direction r is set to ``value``.

    Args:
        vector: a :class:`SteeringVector` or a tensor ``[d_model]``; only its direction matters.
        value: the projection wanted, in raw residual units (compare ``vector.projections``).
        side: ``"both"``; ``"above"`` to act only where the projection is above ``value``; ``"below"`` where it is
            below. One-sided clamps are not affine: only engines that run code take them.
        strength, layers, site, positions, when: as everywhere; all tokens unless told otherwise.
    """

    vector: Direction
    value: float
    side: Literal["both", "above", "below"] = "both"
    strength: Strength = 1.0
    layers: Layers | Any = None
    site: str | None = None
    positions: Positions | Any = None
    when: When | None = None

    operation = "clamp"
    plain = ("value", "side")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_direction()
        self._set(value=check_number(self.value, "Clamp(value=...)"))
        if self.site == WRITERS:
            raise InterventionError("Clamp() at writers would set each contribution on its own; name one site")
        if self.side not in ("both", "above", "below"):
            raise InterventionError(f'Clamp(side={self.side!r}): use "both", "above" or "below"')

    def maps(self, shape: ModelShape) -> Iterable[tuple[str, int, Map, float]]:
        """A setting of the projection in each layer, or a one-sided clamp."""
        component = self._component(self.vector)
        for layer, weight in self._weighted_layers(shape, self.vector):
            direction = unit(self._at(self.vector, layer, component, shape), f"the direction of {self.label}")
            if self.side == "both":
                yield component, layer, AffineMap.setting(direction, self.value), weight
            else:
                yield component, layer, OneSidedClamp(direction, self.value, self.side == "below"), weight


@dataclass(frozen=True, eq=False)
class Affine(Intervention):
    """Affine concept editing (Marshall et al. 2024, arXiv:2411.09003):
    ``h -> h - r r^T h + ((1 - alpha) mu_neg + alpha mu_pos) r``.

    The projection on the vector's direction is set to a point between the two class means: alpha 0 is how the negative
    class looks, 1 the positive one, whatever the input.

    Args:
        vector: a :class:`SteeringVector` that stores its class projections (two-class methods do).
        alpha: where between the means; values outside [0, 1] go beyond them.
        strength, layers, site, positions, when: as everywhere; all tokens unless told otherwise.
    """

    vector: SteeringVector
    alpha: float
    strength: Strength = 1.0
    layers: Layers | Any = None
    site: str | None = None
    positions: Positions | Any = None
    when: When | None = None

    operation = "affine"
    plain = ("alpha",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(alpha=check_number(self.alpha, "Affine(alpha=...)"))
        if self.site == WRITERS:
            raise InterventionError("Affine() at writers would set each contribution on its own; name one site")
        if not isinstance(self.vector, SteeringVector):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InterventionError(
                "Affine() needs a SteeringVector that knows its class means; for a bare direction use Clamp(value=...)"
            )
        if self.site not in (None, self.vector.site):
            raise InterventionError(
                f"Affine(): the class means of {self.vector.label} were measured at {self.vector.site}, not at "
                f"{self.site}; extract it there"
            )

    def maps(self, shape: ModelShape) -> Iterable[tuple[str, int, Map, float]]:
        """A setting of the projection in each layer, between its own class means."""
        component = self._component(self.vector)
        for layer, weight in self._weighted_layers(shape, self.vector):
            if layer not in self.vector.projections:
                raise InterventionError(
                    f"Affine(): {self.vector.label} stores no class projections for layer {layer}; use Clamp(value=...)"
                )
            negative, positive = self.vector.projections[layer]
            direction = unit(self._at(self.vector, layer, component, shape), f"the direction of {self.label}")
            target = (1 - self.alpha) * negative + self.alpha * positive
            yield component, layer, AffineMap.setting(direction, target), weight
