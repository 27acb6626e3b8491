"""What a running model serves to the code of a trace: tensors that know where they come from.

An :class:`Activation` shares its memory with the model's own tensor, so editing it in place edits the model. Inside a
trace whatever is computed from it is an Activation again; it checks what is written into it, and names the place when
something does not fit. After the trace, its operations give plain tensors, and so do pickling and copying.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from greenlet import getcurrent
from nnsight.tracing import tracer as tracing
from torch import Tensor
from torch.overrides import get_default_nowrap_functions

import nnsight

from ..errors import InterventionError, MismatchError


def in_worker() -> bool:
    """Whether the code that runs now is the body of a trace, interleaved with the model."""
    return getattr(getcurrent(), "mediator", None) is not None


def in_trace() -> bool:
    """Whether a trace or a session is being run by this thread."""
    return getattr(tracing._local, "depth", 0) > 0  # pyright: ignore[reportPrivateUsage]


class Place(NamedTuple):
    """Where a value was served: nnsight's location, the model's name, and the location of its list of blocks."""

    location: str
    model: str
    blocks: str

    def __str__(self) -> str:
        found = re.match(re.escape(self.blocks) + r"\.(\d+)\b", self.location) if self.blocks else None
        return f"layer {found[1]} of {self.model} ({self.location})" if found else f"{self.location} of {self.model}"


_NOWRAP = get_default_nowrap_functions()
_DETACH = torch.Tensor.detach
#: methods that write into their first argument, apart from those whose names end in one underscore
_WRITES = frozenset({
    "__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__", "__ipow__", "__imatmul__",
})  # fmt: skip
_ADDS = frozenset({"__setitem__", "__iadd__", "__isub__", "add_", "sub_", "copy_"})


class Activation(torch.Tensor):
    """A tensor of the running model. Edit it in place, compute with it, ``.save()`` it; ``.value`` is the plain tensor.

    Attributes:
        place: where it came from; None for one that was made otherwise.
        served: the model's own tensor, for a value just as it was served.
    """

    place: Place | None = None
    served: Tensor | None = None

    @classmethod
    def of(cls, tensor: Tensor, place: Place | None, served: Tensor | None = None) -> Any:
        """An Activation over the memory of ``tensor``."""
        with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
            found = tensor.as_subclass(cls)
        found.place, found.served = place, served
        return found

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation; inside a trace, check what it writes and hand out Activations."""
        if not in_worker():
            with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
                found = func(*args, **(kwargs or {}))
            return cls.of(found, None) if func is _DETACH else found
        place = next((a.place for a in args if isinstance(a, Activation)), None)
        name = getattr(func, "__name__", "")
        if place is not None and func not in _NOWRAP:
            check_operation(name, place, args)
        try:
            with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
                found = func(*args, **(kwargs or {}))
        except (RuntimeError, IndexError, TypeError) as error:
            if place is None:
                raise
            raise MismatchError(explanation(name, place, args, error)) from error
        if func in _NOWRAP:
            return found
        return _wrapped(found, place)

    def save(self) -> Any:
        """Keep it after the trace: a tensor for every purpose, whose ``.value`` is the plain one."""
        nnsight.save(self)
        return self

    @property
    def value(self) -> Tensor:
        """The plain tensor, over the same memory."""
        with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
            return self.as_subclass(torch.Tensor)

    @property
    def grad(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The gradient: inside ``with loss.backward():`` the one that reaches the model's own tensor."""
        found = (self.value if self.served is None else self.served).grad if in_worker() else _own_grad(self)
        return Activation.of(found, self.place) if isinstance(found, Tensor) and in_worker() else found

    @grad.setter
    def grad(self, value: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if in_worker() and self.served is not None:
            self.served.grad = _plain(value)
        else:
            with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
                cast(Any, torch.Tensor.grad).__set__(self, _plain(value))

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return repr(self.value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.value.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return copy.deepcopy(self.value, memo)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Activation) else value


def _own_grad(tensor: Tensor) -> Tensor | None:
    with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
        return cast(Any, torch.Tensor.grad).__get__(tensor)


def _wrapped(found: Any, place: Place | None) -> Any:
    if isinstance(found, Tensor):
        return found if isinstance(found, Activation) else Activation.of(found, place)
    if isinstance(found, (tuple, list)):
        items = [_wrapped(item, place) for item in cast("list[Any]", found)]
        if isinstance(found, list):
            return items
        kind = type(cast("tuple[Any, ...]", found))
        return kind(items) if kind is tuple or not hasattr(kind, "n_fields") else kind(tuple(items))
    return found


# -- checks ----------------------------------------------------------------------------------------------------------


def check_operation(name: str, place: Place, args: Sequence[Any]) -> None:
    """Refuse operands that torch would take in silence, and that cannot be meant."""
    writes = name in _WRITES or (name.endswith("_") and not name.endswith("__"))
    target = args[0] if args else None
    for operand in args[1:]:
        if not isinstance(operand, Tensor) or isinstance(operand, Activation):
            continue
        what = f"{described(operand)} in {place}"
        if operand.is_meta and not (isinstance(target, Tensor) and target.is_meta):
            raise InterventionError(f"{what} is on the meta device and has no values; load it onto a real device first")
        if not writes or not isinstance(target, Tensor):
            continue
        if operand.dtype == torch.float64 and target.dtype != torch.float64:
            raise MismatchError(
                f"{what} is float64, but the model computes in {str(target.dtype).removeprefix('torch.')}; "
                "give it the same precision: vector.to(torch.float32)"
            )
        width = target.shape[-1] if target.dim() else 1
        if name in _ADDS and name != "__setitem__" and _scalar_per_token(operand, width):
            raise MismatchError(_per_token(what, operand, width))
        if name == "__setitem__" and len(args) == 3 and operand is args[2]:
            _check_setting(args, what, operand, width)
    if name == "__setitem__" and isinstance(target, Tensor) and target.numel():
        _check_selected(target, args[1], place)


def _check_setting(args: Sequence[Any], what: str, operand: Tensor, width: int) -> None:
    with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
        selected = args[0][args[1]]
    if selected.dim() and selected.shape[-1] == width and _scalar_per_token(operand, width):
        raise MismatchError(_per_token(what, operand, width))


def _scalar_per_token(operand: Tensor, width: int) -> bool:
    return width > 1 and operand.dim() > 1 and operand.shape[-1] == 1 and operand.numel() > 1


def _per_token(what: str, operand: Tensor, width: int) -> str:
    return (
        f"{what} has shape {list(operand.shape)}: it would add one number to all {width} values of a token; a vector "
        f"needs shape [{width}]"
    )


def _check_selected(target: Tensor, key: Any, place: Place) -> None:
    with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
        selected = target[key] if not isinstance(key, Tensor) or key.dtype != torch.bool else target
    if selected.numel() == 0:
        raise MismatchError(
            f"{place}: this index selects nothing of shape {list(target.shape)}, so nothing would be set; look at the "
            "heads or positions it names"
        )


def explanation(name: str, place: Place, args: Sequence[Any], error: Exception) -> str:
    """Why an operation failed, with the place and the shapes."""
    target = args[0] if args else None
    operands = [item for item in args[1:] if isinstance(item, Tensor)]
    if not isinstance(target, Tensor) or not operands:
        return f"{place}: {name} failed: {error}"
    operand = operands[-1]
    width = target.shape[-1] if target.dim() else 1
    if operand.dim() and width != operand.shape[-1] != 1:
        return (
            f"{described(operand)} has shape {list(operand.shape)}, but {place} has {width} values per token; a vector "
            f"for it needs shape [{width}]"
        )
    return (
        f"{described(operand)} has shape {list(operand.shape)}, which does not fit {list(target.shape)} at {place}; "
        "sequences of other lengths fit where they share tokens, for example [:, -1, :]"
    )


def described(operand: Tensor) -> str:
    """A tensor as the trace calls it, if it has a name there."""
    mediator = getattr(getcurrent(), "mediator", None)
    scope: Mapping[str, Any] = getattr(mediator() if mediator is not None else None, "lcls", {})
    names = [name for name, value in scope.items() if value is operand]
    alike = [
        name
        for name, value in scope.items()
        if isinstance(value, Tensor) and not isinstance(value, Activation) and value.shape == operand.shape
    ]
    found = names or (alike if len(alike) == 1 else [])
    return f"the vector {found[0]!r}" if found else "the tensor"
