"""Projecting directions out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InterventionError, MismatchError
from ..sites import WRITERS
from ..tensors import unit
from ..vector import SteeringVector
from .base import Direction, Intervention, Layers, ModelShape, Positions, Strength, When
from .maps import AffineMap, Map


@dataclass(frozen=True, eq=False)
class Ablate(Intervention):
    """``h -> h - R R^T h``: directional ablation (Arditi et al. 2024, arXiv:2406.11717).

    Args:
        direction: a tensor ``[d_model]`` (or ``[k, d_model]``, whose span is projected out), the same everywhere; or a
            :class:`SteeringVector` together with ``layers=``, each layer losing its own direction.
        strength: 1 removes the projection, 0.5 halves it, 2 mirrors it.
        layers: without it, one direction is removed from all that writes the residual stream (the embeddings and
            every attention and MLP output), which is what orthogonalising the weights does; with it, from the
            ``resid_post`` of those layers.
        site, positions, when: as everywhere; all tokens unless told otherwise.
    """

    direction: Direction
    strength: Strength = 1.0
    layers: Layers | Any = None
    site: str | None = None
    positions: Positions | Any = None
    when: When | None = None

    operation = "ablate"
    tensors = ("direction",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_direction("direction")
        if isinstance(self.direction, SteeringVector):
            if self.layers is None:
                raise InterventionError(
                    f"Ablate({self.direction.label}): one direction is removed everywhere, and a vector has one for "
                    "each layer; take one, Ablate(vector[12]), or name the layers= that each lose their own"
                )
        else:
            unit(self.direction, "the direction of Ablate()")

    def maps(self, shape: ModelShape) -> Iterable[tuple[str, int, Map, float]]:
        """A projection at every writer, or at the chosen layers."""
        if self.site == WRITERS or (self.site is None and self.layers is None):
            if self.layers is not None:
                raise InterventionError('Ablate(site="writers") acts in every layer; leave layers= out')
            basis = self._basis(self.direction, shape.d_model, shape)
            yield from ((c, layer, AffineMap.projecting_out(basis), 1.0) for c, layer in shape.writers())
            return
        component = self._component(self.direction)
        for layer, weight in self._weighted_layers(shape, self.direction):
            own = self.direction[layer] if isinstance(self.direction, SteeringVector) else self.direction
            basis = self._basis(own, shape.width(component, layer), shape)
            yield component, layer, AffineMap.projecting_out(basis), weight

    def _basis(self, direction: Direction, width: int, shape: ModelShape) -> Tensor:
        assert isinstance(direction, Tensor)
        rows = direction.reshape(1, -1) if direction.numel() == width else direction
        if rows.dim() != 2 or rows.shape[1] != width:
            raise MismatchError(
                f"Ablate(): the direction has shape {tuple(direction.shape)}, but {shape.name} needs [{width}], or "
                f"[k, {width}] for a subspace"
            )
        rows = unit(rows, "the direction of Ablate()")
        if len(rows) == 1:
            return rows.T
        basis, triangle = torch.linalg.qr(rows.double().T)
        if len(rows) > width or bool((triangle.diagonal().abs() < 1e-6).any()):
            raise InterventionError("Ablate(): the directions are linearly dependent; leave the superfluous ones out")
        return basis.float()
