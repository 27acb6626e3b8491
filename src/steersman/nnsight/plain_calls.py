"""A word when a model is called plainly that has edits: these act in traces, and a plain call knows nothing of them."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

from torch import nn


class EditNotAppliedWarning(UserWarning):
    """A module was called outside a trace while edits of it are kept, which act in traces only."""


def watch(edited: Any) -> None:
    """Warn at the first plain call of the module whose edits ``edited`` keeps, for as long as it keeps any."""
    root = edited.root
    root_module: nn.Module = root._module
    interleaver, keeper = weakref.ref(root.interleaver), weakref.ref(edited)
    name = vars(root).get("_label") or type(root_module).__name__

    def hook(module: nn.Module, *_: Any) -> None:
        running, kept = interleaver(), keeper()
        if running is not None and (running.interleaving or getattr(running, "knowingly", False)):
            return
        handle.remove()
        if kept is not None and kept._edits:
            warnings.warn(
                f"{name} was called plainly, where the edits made with LanguageModel.edit() do not act: they live in "
                "traces. Use edited.trace(...) or edited.generate(...); for plain calls make the edit with "
                "SteeringModel.edit(plan), whose .hf is a module that is steered wherever it is called",
                EditNotAppliedWarning,
                stacklevel=5,  # past torch's own three
            )

    handle = root_module.register_forward_pre_hook(hook)
