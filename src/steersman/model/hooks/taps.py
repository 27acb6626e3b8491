"""Reading and writing activations where they pass: one hook per module and side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...errors import ArchitectureError
from ..architecture import Tap

#: Called with the tensor at a tap; returns what is to stand there instead, or None to leave it.
Handler = Callable[[Tensor, Tap], Tensor | None]


def attach(handlers: Mapping[tuple[nn.Module, str], list[tuple[Tap, Handler]]]) -> list[RemovableHandle]:
    """Register one hook for each (module, side), running its handlers in order."""
    return [
        module.register_forward_pre_hook(_pre_hook(entries), with_kwargs=True)
        if side == "input"
        else module.register_forward_hook(_hook(entries))
        for (module, side), entries in handlers.items()
    ]


def _run(tensor: Tensor, entries: list[tuple[Tap, Handler]]) -> Tensor | None:
    """The new tensor, or None if nothing changed. At an in-place tap the tensor itself is changed."""
    changed = False
    for tap, handler in entries:
        result = handler(tensor, tap)
        if result is None:
            continue
        if tap.in_place:
            tensor.copy_(result)
        else:
            tensor, changed = result, True
    return tensor if changed else None


def _pre_hook(entries: list[tuple[Tap, Handler]]) -> Callable[..., Any]:
    def pre_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            result = _run(_tensor(args[0], module), entries)
            return None if result is None else ((result, *args[1:]), kwargs)
        name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        result = _run(_tensor(kwargs[name], module), entries)
        return None if result is None else (args, {**kwargs, name: result})

    return pre_hook


def _hook(entries: list[tuple[Tap, Handler]]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return _run(output, entries)
        items = cast("tuple[Any, ...] | list[Any]", output)
        result = _run(_tensor(items[0], module), entries)
        return None if result is None else type(items)([result, *items[1:]])

    return hook


def _tensor(value: object, module: nn.Module) -> Tensor:
    if not isinstance(value, Tensor):
        raise ArchitectureError(f"{type(module).__name__} passes a {type(value).__name__} where a tensor was expected")
    return value
