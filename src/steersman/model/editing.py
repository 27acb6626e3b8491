"""The edits of a model, and a second module tree over the same parameters for its ``hf``."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InterventionError, UnsupportedError
from ..plan import Plan
from .architecture import Architecture


@dataclass(frozen=True)
class Edit:
    """What one call of :meth:`SteeringModel.edit` added.

    Attributes:
        plan: its interventions.
        name: what it can be removed by, or None.
    """

    plan: Plan
    name: str | None = None

    def __repr__(self) -> str:
        return f"Edit({self.plan!r}{f', name={self.name!r}' if self.name else ''})"


def remaining(edits: Sequence[Edit], removed: Sequence[int | str | Edit], model: str) -> tuple[Edit, ...]:
    """The edits without some of them, given by index, name, or themselves.

    Raises:
        InterventionError: there is no such edit, or nothing is named.
    """
    known = ", ".join(repr(edit.name) if edit.name else str(index) for index, edit in enumerate(edits)) or "none"
    if not removed:
        raise InterventionError(f"name the edits of {model} to leave out; it has {known}")
    gone: set[int] = set()
    for which in removed:
        if isinstance(which, int) and not isinstance(which, bool):
            found = [which % len(edits)] if -len(edits) <= which < len(edits) else []
        else:
            found = [index for index, edit in enumerate(edits) if which in (edit, edit.name) and which is not None]  # pyright: ignore[reportUnnecessaryComparison]
        if not found:
            raise InterventionError(f"{model} has no edit {which!r}; it has {known}")
        gone.update(found)
    return tuple(edit for index, edit in enumerate(edits) if index not in gone)


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
