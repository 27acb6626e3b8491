"""The layers that a direction can be tried in."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import MismatchError
from ..shape import ModelShape
from ..sites import Indices, layer_indices
from ..vector import SteeringVector
from .cells import Direction


def layers_of(shape: ModelShape, vector: Direction, layers: str | Indices) -> list[int]:
    """Layers of a model that a direction has, ascending.

    Args:
        shape: of the model.
        vector: a vector, which has a direction in some layers, or a tensor ``[d_model]``, the same in all.
        layers: indices, a range ``"4-8"``, ``"all"``; or ``"auto"``: those between a tenth and nine tenths of the depth
            (the last layers move the output more than they steer).

    Raises:
        MismatchError: the direction does not fit the model, or has none of these layers.
    """
    if isinstance(vector, SteeringVector):
        vector.check(shape)
    elif tuple(vector.shape) != (shape.d_model,):
        raise MismatchError(f"the direction has shape {tuple(vector.shape)}, but {shape.name} needs [{shape.d_model}]")
    own = list(vector.layers) if isinstance(vector, SteeringVector) else list(range(shape.n_layers))
    if layers == "auto":
        return within_depth(own, shape.n_layers)
    indices = layer_indices(layers)
    found = own if indices is None else sorted({shape.layer(i, "layers=") for i in indices})
    missing = [layer for layer in found if layer not in own]
    if missing:
        raise MismatchError(f"the vector has no direction for layer {missing[0]}; it has {own}")
    return found


def within_depth(layers: Sequence[int], n_layers: int) -> list[int]:
    """Those between a tenth and nine tenths of the depth, or all of them if there is none."""
    return [layer for layer in layers if 0.1 * n_layers <= layer < 0.9 * n_layers] or list(layers)
