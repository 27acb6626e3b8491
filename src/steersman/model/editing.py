"""A second module tree over the same parameters, for the ``hf`` of an edited model."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from ..errors import UnsupportedError
from .architecture import Architecture

_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"),
)


def second_tree(architecture: Architecture) -> Any:
    """A copy of the module tree that shares every parameter and buffer; hooks on either are its own.

    Raises:
        UnsupportedError: for a model that accelerate dispatched or whose weights are quantised: their modules keep
            state that cannot be shared this way.
    """
    hf: Any = architecture.hf
    name = architecture.shape.name
    remedy = "use edited.generate() and edited.logits(), or steer() on the base model"
    if any(hasattr(module, "_hf_hook") for module in hf.modules()):
        raise UnsupportedError(f"{name} is dispatched by accelerate, so its modules cannot stand twice; {remedy}")
    if getattr(hf, "is_quantized", False) or getattr(hf, "hf_quantizer", None) is not None:
        raise UnsupportedError(f"{name} is quantised, so its modules cannot stand twice; {remedy}")
    shared = {id(tensor): tensor for tensor in (*hf.parameters(), *hf.buffers())}
    # Hooks are left behind rather than copied: those of a context in force would drag the whole engine along.
    none = {id(getattr(module, kind)): OrderedDict[int, Any]() for module in hf.modules() for kind in _HOOKS}
    twin = copy.deepcopy(hf, {**shared, **none})
    for module in twin.modules():
        if getattr(module, "_output_capturing_hooks_installed", False):
            module._output_capturing_hooks_installed = False  # transformers installs its own anew when asked
    return twin
