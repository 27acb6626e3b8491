"""Norm-preserving rotation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import InterventionError
from ..sites import WRITERS
from ..tensors import check_number, checked, unit
from ..vector import SteeringVector
from .base import LAST_AND_GENERATION, Direction, Intervention, Layers, ModelShape, Positions, Strength, When
from .maps import Map, TurnInPlane, TurnTowards


@dataclass(frozen=True, eq=False)
class Rotate(Intervention):
    """Turns h to an angle, its norm kept: angular steering (Vu and Nguyen 2025, arXiv:2510.26243).

    Without ``plane``, h is turned in the plane of h and v until its angle to v is ``angle``:
    ``h -> |h| (cos(angle) v + sin(angle) u)`` with u the unit part of h orthogonal to v. With a plane (b1, b2), the
    part of h in it is set to ``angle``, counted from b1 towards b2, and the rest is left:
    ``h -> h - Q h + |Q h| (cos(angle) b1 + sin(angle) b2)``. Not affine: only engines that run code take it.

    Args:
        vector: the direction v, or b1 of the plane; a :class:`SteeringVector` or a tensor ``[d_model]``; None with a
            plane given as a pair, whose first then is b1.
        angle: in radians.
        plane: None; or the direction that spans the plane together with ``vector`` (b2 is its part orthogonal to b1);
            or a pair of tensors that span it, in which ``vector``, if given, must lie.
        strength: below 1, part of the way in a straight line: the norm is kept at strength 1 only.
        layers, site, positions, when: as everywhere; ``last+generation`` unless told otherwise.
    """

    vector: Direction | None
    angle: float
    plane: Direction | Sequence[Tensor] | None = None
    strength: Strength = 1.0
    layers: Layers | Any = None
    site: str | None = None
    positions: Positions | Any = None
    when: When | None = None

    operation = "rotate"
    default_positions = LAST_AND_GENERATION
    tensors = ("vector", "plane")
    plain = ("angle",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.plane, tuple | list):
            self._set(**_from_pair(self.vector, self.plane))
        self._check_direction()
        if self.plane is not None and not isinstance(self.plane, SteeringVector):
            self._set(plane=checked(self.plane, "the plane of Rotate()", (1,)))
        self._set(angle=check_number(self.angle, "Rotate(angle=...)"))
        if self.site == WRITERS:
            raise InterventionError("Rotate() at writers would turn each contribution on its own; name one site")

    def maps(self, shape: ModelShape) -> Iterable[tuple[str, int, Map, float]]:
        """A turn in each layer, towards the direction or within the plane."""
        assert self.vector is not None
        assert not isinstance(self.plane, Sequence)
        component = self._component(self.vector)
        if isinstance(self.plane, SteeringVector):
            self.plane.check(shape)
        for layer, weight in self._weighted_layers(shape, self.vector):
            first = unit(self._at(self.vector, layer, component, shape), f"the direction of {self.label}")
            if self.plane is None:
                yield component, layer, TurnTowards(first, self.angle), weight
                continue
            second = _across(first, self._at(self.plane, layer, component, shape))
            yield component, layer, TurnInPlane(first, second, self.angle), weight


def _across(first: Tensor, second: Tensor) -> Tensor:
    """The unit part of ``second`` orthogonal to the unit direction ``first``."""
    second = unit(second, "the second direction of the plane")
    across = second - (second @ first) * first
    if float(across.norm()) <= 1e-5:
        raise InterventionError("Rotate(): the two directions are parallel and span no plane")
    across = across / across.norm()
    return unit(across - (across @ first) * first, "the plane of Rotate()")  # twice: once leaves a rounding error


def _from_pair(vector: Direction | None, pair: Sequence[Tensor]) -> dict[str, Tensor]:
    """b1 and b2 from a pair that spans the plane: b1 is ``vector`` if given, b2 turns the way the pair does."""
    if len(pair) != 2:
        raise InterventionError(f"Rotate(plane=...): a plane is spanned by two directions, got {len(pair)}")
    first, second = (checked(direction, "the plane of Rotate()", (1,)) for direction in pair)
    if vector is None:
        return {"vector": first, "plane": second}
    if isinstance(vector, SteeringVector):
        raise InterventionError("Rotate(): with a pair as plane, give vector=None or one tensor")
    start = checked(vector, "the vector of Rotate()", (1,))
    along = unit(first, "the first direction of the plane")
    across = _across(along, second)
    x, y = start @ along, start @ across
    if float((start - x * along - y * across).norm()) > 1e-4 * float(start.norm()):
        raise InterventionError("Rotate(): the vector does not lie in the plane; give vector=None to count from its b1")
    return {"vector": start, "plane": x * across - y * along}
