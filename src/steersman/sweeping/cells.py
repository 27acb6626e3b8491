"""The plans of a sweep: one operation over layers and strengths, for the vector and for each of its controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import InterventionError
from ..operations import Ablate, Add, Affine, Clamp, Rotate
from ..plan import Plan
from ..vector import SteeringVector

Direction = SteeringVector | Tensor
#: (direction, layer, strength) -> what is tried there
Make = Callable[[Direction, int, float], Any]
OPERATIONS: Mapping[str, Any] = {"add": Add, "ablate": Ablate, "clamp": Clamp, "affine": Affine, "rotate": Rotate}


def maker(operation: str | Make, options: Mapping[str, Any]) -> Make:
    """What makes the plan of a cell.

    Args:
        operation: ``"add"``, ``"ablate"``, ``"clamp"`` (options: ``value``), ``"affine"`` (``alpha``), ``"rotate"``
            (``angle``), or a function of (direction, layer, strength).
        options: passed to the operation: ``positions``, ``site``, ``when``, ``unit`` and its own.
    """
    if callable(operation):
        return operation
    if operation not in OPERATIONS:
        raise InterventionError(f"operation={operation!r}: use one of {', '.join(OPERATIONS)}, or a function")
    kind = OPERATIONS[operation]
    return lambda vector, layer, strength: kind(vector, strength=strength, layers=[layer], **options)


def plan_of(make: Make, vector: Direction, layer: int, strength: float) -> Plan:
    """The plan of one cell."""
    return Plan.of(make(vector, layer, strength))


#: (layer, strength)
Cell = tuple[int, float]


@dataclass(frozen=True, eq=False)
class Grid:
    """All cells of a sweep, and the random directions of its control.

    Attributes:
        make: what makes the plan of a cell.
        vector: the direction.
        layers, strengths: ascending.
        drawn: random directions; tried at the magnitudes of the strengths, they stand mirrored for negative ones.
    """

    make: Make
    vector: Direction
    layers: list[int]
    strengths: list[float]
    drawn: Sequence[Direction] = ()

    @property
    def magnitudes(self) -> list[float]:
        """The sizes of the strengths, 0 left out."""
        return sorted({abs(s) for s in self.strengths if s})

    def plan(self, direction: Direction, layer: int, strength: float) -> Plan:
        """The plan of a cell, for the vector or for a control."""
        return plan_of(self.make, direction, layer, strength)
