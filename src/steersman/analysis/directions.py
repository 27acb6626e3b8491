"""A direction as users give it: a steering vector and a layer of it, or a bare tensor."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import InterventionError, MismatchError
from ..model import SteeringModel
from ..tensors import checked
from ..vector import SteeringVector

Direction = SteeringVector | Tensor


@dataclass(frozen=True, eq=False)
class Chosen:
    """One direction at one layer.

    Attributes:
        tensor: float32 on the CPU, of the site's shape.
        layer: None only for a bare tensor that was given none.
        site: the component it belongs to.
        name: what to call it.
        ends: (negative, positive), the class means projected on it, where the vector stores them.
    """

    tensor: Tensor
    layer: int | None
    site: str
    name: str
    ends: tuple[float, float] | None


def choose(model: SteeringModel, vector: Direction, layer: int | None, what: str) -> Chosen:
    """The direction of a layer, checked to fit the model; of a vector, its chosen layer unless one is named.

    Raises:
        MismatchError: another width, another model, or a layer that does not exist.
        InterventionError: no layer is known, or the direction is zero.
    """
    if isinstance(vector, SteeringVector):
        vector.check(model.shape)
        if layer is None:
            layer = vector.layer if vector.layer is not None else _only(vector)
        if layer is None:
            raise InterventionError(f"{what}: {vector.label} has no chosen layer; name one with layer=")
        layer = model.shape.layer(layer, what)
        tensor, ends = vector[layer].detach().cpu(), vector.projections.get(layer)
        chosen = Chosen(tensor, layer, vector.site, vector.name or "the vector", ends)
    else:
        tensor = checked(vector, f"{what}: the direction", (1,)).detach().cpu()
        if len(tensor) != model.d_model:
            raise MismatchError(
                f"{what}: the direction has {len(tensor)} values, but {model.shape.name} has {model.d_model}"
            )
        resolved = None if layer is None else model.shape.layer(layer, what)
        chosen = Chosen(tensor, resolved, "resid_post", "the direction", None)
    if not bool(chosen.tensor.any()):
        raise InterventionError(f"{what}: {chosen.name} is zero at layer {chosen.layer} and points nowhere")
    return chosen


def _only(vector: SteeringVector) -> int | None:
    return vector.layers[0] if len(vector) == 1 else None
