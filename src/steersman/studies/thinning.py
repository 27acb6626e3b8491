"""The last block at the last token only: nothing reads its other tokens.

Its queries, keys and values are still those of all tokens; its output projection and its MLP, most of the block, run at
one. They are modules that map token by token, so that giving them fewer tokens gives those tokens' values; that this
holds for a model is tried on it before it is relied on.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from ..model.architecture import Architecture


def thin_parts(architecture: Architecture) -> list[nn.Module]:
    """What of the last block maps token by token: attention's output projection, and the MLP."""
    last = architecture.shape.n_layers - 1
    found = [architecture.mlp(last)]
    if ("z", last) not in architecture.shape.unavailable:
        found.append(architecture.attention_projection(last))
    return found


@contextmanager
def thinned(parts: list[nn.Module]) -> Generator[None]:
    """Run these modules at the last token of each row in passes that this thread makes inside.

    What they give for the other tokens is zero, which no one reads. A module called in another way than with one tensor
    ``[rows, tokens, width]`` is left alone.
    """
    me = threading.get_ident()
    tokens: dict[nn.Module, int] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tokens.pop(module, None)
        alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and args[0].dim() == 3
        if threading.get_ident() != me or not alone or args[0].shape[1] == 1:
            return None
        tokens[module] = args[0].shape[1]
        return (args[0][:, -1:].contiguous(),), kwargs

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        if threading.get_ident() != me or module not in tokens:
            return None
        several = isinstance(output, tuple)
        items = cast("tuple[Any, ...]", output if several else (output,))
        value = cast(Tensor, items[0])
        whole = value.new_zeros(len(value), tokens.pop(module), value.shape[-1])
        whole[:, -1:] = value
        return (whole, *items[1:]) if several else whole

    handles = [part.register_forward_pre_hook(before, with_kwargs=True) for part in parts]
    handles += [part.register_forward_hook(after) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
