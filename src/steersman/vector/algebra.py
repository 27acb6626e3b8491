"""Sums, multiples and projections of steering vectors, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InterventionError, MismatchError
from ..sites import layer_ranges

if TYPE_CHECKING:
    from .steering_vector import SteeringVector


def scaled(vector: SteeringVector, factor: float) -> SteeringVector:
    """The directions multiplied; a negative factor exchanges the two classes, and zero leaves none."""
    projections = {
        layer: (-positive, -negative) if factor < 0 else (negative, positive)
        for layer, (negative, positive) in vector.projections.items()
        if factor != 0
    }
    directions = {layer: direction * factor for layer, direction in vector.directions.items()}
    return replace(vector, directions=directions, projections=projections, quality=None)


def combined(
    vector: SteeringVector, other: SteeringVector, operation: Callable[[Tensor, Tensor], Tensor], sign: str
) -> SteeringVector:
    """Two vectors made into one in each layer that they share."""
    layers = shared(vector, (other,))
    name = f"{vector.name} {sign} {other.name}" if vector.name and other.name else None
    return _derived(vector, {layer: operation(vector[layer], other[layer]) for layer in layers}, name)


def orthogonal(vector: SteeringVector, others: Sequence[SteeringVector]) -> SteeringVector:
    """A vector without its part in the span of others, in each layer that they share.

    Raises:
        InterventionError: when a direction lies in that span and nothing of it remains.
    """
    directions: dict[int, Tensor] = {}
    for layer in shared(vector, others):
        basis = span([other[layer].flatten().double() for other in others])
        mine = vector[layer].flatten().double()
        rest = mine - basis @ (basis.T @ mine)
        if float(rest.norm()) <= 1e-6 * float(mine.norm()):
            raise InterventionError(f"{vector.label} lies within the others at layer {layer}: nothing is left of it")
        directions[layer] = rest.float().reshape(vector[layer].shape)
    name = vector.name and f"{vector.name} without {', '.join(o.name or 'another' for o in others)}"
    return _derived(vector, directions, name)


def shared(vector: SteeringVector, others: Sequence[SteeringVector]) -> list[int]:
    """The layers all have, the others being of the same site and width.

    Raises:
        InterventionError, MismatchError: no other, none in common, or another site or width.
    """
    if not others:
        raise InterventionError("give at least one other vector")
    for other in others:
        if not isinstance(other, type(vector)):
            raise InterventionError(f"expected a SteeringVector, got {type(other).__name__}")
        if other.site != vector.site:
            raise InterventionError(f"{vector.label} is of {vector.site}, {other.label} of {other.site}")
    layers = [layer for layer in vector.layers if all(layer in other for other in others)]
    for layer, other in ((layer, other) for layer in layers for other in others):
        if other[layer].shape != vector[layer].shape:
            widths = f"{list(vector[layer].shape)}, {other.label} {list(other[layer].shape)}"
            raise MismatchError(f"at layer {layer}, {vector.label} has the shape {widths}")
    if not layers:
        raise InterventionError(
            f"no layer in common: {vector.label} has {layer_ranges(vector.layers)}, "
            + ", ".join(f"{o.label} {layer_ranges(o.layers)}" for o in others)
        )
    return layers


def span(directions: list[Tensor]) -> Tensor:
    """An orthonormal basis ``[width, k]`` of what some directions span; they may depend on each other."""
    kept = [direction / direction.norm() for direction in directions if bool(direction.any())]
    if not kept:
        return directions[0].new_zeros(len(directions[0]), 0)
    basis, sizes, _ = torch.linalg.svd(torch.stack(kept, dim=1), full_matrices=False)
    return basis[:, sizes > 1e-6]


def _derived(vector: SteeringVector, directions: Mapping[int, Tensor], name: str | None) -> SteeringVector:
    """A vector whose classes are no longer known: no projections, hence no gap."""
    layer = vector.layer if vector.layer in directions else None
    return replace(
        vector, directions=directions, name=name, method="algebra", layer=layer, projections={}, quality=None
    )
