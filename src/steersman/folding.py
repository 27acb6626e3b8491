"""A plan that does nothing but add to the residual stream at every token, folded into one vector.

What a file of directions can say, such as llama.cpp's control vector, is ``h + v_l`` after block l, at all tokens. A
plan says the same if each of its interventions is an :class:`~steersman.operations.Add` at ``resid_post``, at positions
``all``, without condition or schedule: then the strengths multiply and additions at one layer sum.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .conditions import Schedule
from .errors import UnsupportedError
from .operations import Action, Add, Intervention
from .operations.maps import AffineMap
from .shape import ModelShape
from .sites import DEEPEST
from .vector import SteeringVector


def fold(interventions: Iterable[Intervention]) -> SteeringVector:
    """The vector that added once, at strength 1 and every token, is the same as the interventions.

    Raises:
        UnsupportedError: an intervention does something that no vector says; the message names it and why.
    """
    items = [item for item in interventions if not item.dropped]
    for item in items:
        _check(item)
    if not items:
        raise UnsupportedError("the plan does nothing, and a file of directions must have one; give it a strength")
    shape = _shape(items)
    sums: dict[int, Tensor] = {}
    for action in (action for item in items for action in item.actions(shape)):
        own = _addition(action)
        sums[action.layer] = sums[action.layer] + own if action.layer in sums else own
    vectors = [item.vector for item in items if isinstance(item, Add) and isinstance(item.vector, SteeringVector)]
    names = dict.fromkeys(vector.name for vector in vectors if vector.name)
    origin = next((vector.origin for vector in vectors if vector.origin), None)
    directions = {layer: total.float() for layer, total in sums.items()}
    return SteeringVector(directions, name=" + ".join(names) or None, method="folded plan", origin=origin)


def _check(item: Intervention) -> None:
    reason = None
    if not isinstance(item, Add):
        reason = f"it does {item.operation}, and a file of directions only adds"
    elif item.when is not None:
        reason = "it has a condition, and a file of directions acts always; leave when= out"
    elif isinstance(item.strength, Schedule):
        reason = "its strength follows a schedule, and a file of directions has one; give one number"
    elif not item.positions.everywhere:
        reason = (
            f"it acts at positions {item.positions}, but llama.cpp adds a control vector at every token; "
            'use positions="all" if that is meant'
        )
    elif (component := item.site or getattr(item.vector, "site", "resid_post")) != "resid_post":
        reason = f"it acts at {component}, but llama.cpp adds to the output of a block only; use resid_post"
    elif not isinstance(item.vector, SteeringVector) and not isinstance(item.layers, dict):
        reason = "a bare tensor must say at which layers; name them"
    if reason is not None:
        raise UnsupportedError(f"{item.label}: {reason}")


def _shape(items: list[Intervention]) -> ModelShape:
    """The model that the vectors were made for, or one that takes their width and any layer."""
    vectors = [item.vector for item in items if isinstance(item, Add)]
    origin = next((v.origin for v in vectors if isinstance(v, SteeringVector) and v.origin), None)
    width = vectors[0].d_model if isinstance(vectors[0], SteeringVector) else vectors[0].numel()
    for item in items:
        if origin is None and isinstance(item.layers, dict) and min(item.layers) < 0:
            raise UnsupportedError(f"{item.label}: layer {min(item.layers)} counts from the end of an unknown model; "
                                   "name it from 0")  # fmt: skip
    if origin is None:
        return ModelShape("a model of that width", "", "", DEEPEST + 1, width, 1, width, ())
    return ModelShape(
        origin.model, origin.model_type, origin.fingerprint, origin.n_layers, origin.d_model, 1, origin.d_model, ()
    )


def _addition(action: Action) -> Tensor:
    """What an action adds, in float64."""
    if action.layer == 0:
        raise UnsupportedError(f"{action.source}: llama.cpp cannot steer the output of block 0; name layers from 1 on")
    assert isinstance(action.map, AffineMap)
    assert isinstance(action.strength, int | float)
    return action.map.offset.detach().to(torch.float64) * action.strength
