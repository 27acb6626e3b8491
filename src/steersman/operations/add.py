"""Adding a direction: steering proper."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..errors import InterventionError
from ..sites import WRITERS
from ..tensors import unit
from ..vector import SteeringVector
from .base import LAST_AND_GENERATION, Direction, Intervention, Layers, ModelShape, Positions, Strength, When
from .maps import AffineMap, Map


@dataclass(frozen=True, eq=False)
class Add(Intervention):
    """``h -> h + s v_l``: activation addition (Turner et al. 2023, arXiv:2308.10248; Rimsky et al. 2023,
    arXiv:2312.06681).

    Args:
        vector: a :class:`SteeringVector`, each layer adding its own direction; or a tensor ``[d_model]``, the same
            direction at each of the layers.
        strength: s, a number or a :func:`steersman.schedule`.
        layers: indices, an inclusive range ``"10-14"``, ``"all"``, or a map layer -> weight that multiplies
            ``strength``; by default the vector's chosen layer.
        unit: what ``strength`` counts. None: the direction as stored. ``"gap"``: the distance between the class means.
            ``"norm"``: the layer's median residual norm, so 0.1 adds a tenth of it.
        site: the component; by default where the vector was read, else ``resid_post``.
        positions: see :mod:`steersman.positions`; ``last+generation`` unless given.
        when: a condition.
    """

    vector: Direction
    strength: Strength = 1.0
    layers: Layers | Any = None
    unit: Literal["norm", "gap"] | None = None
    site: str | None = None
    positions: Positions | Any = None
    when: When | None = None

    operation = "add"
    default_positions = LAST_AND_GENERATION
    plain = ("unit",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_direction()
        if self.site == WRITERS:
            raise InterventionError("Add() at writers would add the vector many times over; name one site")
        if self.unit not in (None, "norm", "gap"):
            raise InterventionError(f'unit={self.unit!r}: use None (as stored), "norm" or "gap"')
        if self.unit and not isinstance(self.vector, SteeringVector):
            raise InterventionError(f"a bare tensor has no {self.unit} to count by; use a SteeringVector, or unit=None")

    @property
    def label(self) -> str:
        """How messages call it, with the vector's name."""
        return f"Add({self.vector.name or 'vector'})" if isinstance(self.vector, SteeringVector) else "Add(tensor)"

    def maps(self, shape: ModelShape) -> Iterable[tuple[str, int, Map, float]]:
        """An addition in each layer, in the unit asked for."""
        component = self._component(self.vector)
        for layer, weight in self._weighted_layers(shape, self.vector):
            direction = self._at(self.vector, layer, component, shape)
            yield component, layer, AffineMap.addition(self._in_unit(direction, layer)), weight

    def _in_unit(self, direction: torch.Tensor, layer: int) -> torch.Tensor:
        if self.unit is None:
            return direction
        assert isinstance(self.vector, SteeringVector)
        sizes = self.vector.gap if self.unit == "gap" else self.vector.norms
        if layer not in sizes:
            why = (
                "it stores no class projections, so it has no gap"
                if self.unit == "gap"
                else "it stores no residual norms"
            )
            raise InterventionError(f'{self.vector.label}: unit="{self.unit}" at layer {layer}, but {why}')
        return unit(direction, self.vector.label) * sizes[layer]
