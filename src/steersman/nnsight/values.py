"""What a running model serves to the code of a trace: tensors that know where they come from.

An :class:`Activation` shares its memory with the model's own tensor, so editing it in place edits the model. Inside a
trace whatever is computed from it is an Activation again; it checks what is written into it, and names the place when
something does not fit. After the trace, its operations give plain tensors, and so do pickling and copying.

Two kinds also answer as the tuples that nnsight and transformers used to hand out: a block's output (``output[0]`` is
the hidden state) and a module's input (``input[0][0]`` is its first argument). There the old meaning holds inside a
trace, where old and new clash.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from greenlet import getcurrent
from nnsight.tracing import tracer as tracing
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.overrides import get_default_nowrap_functions

import nnsight

from ..errors import InterventionError, MismatchError, UnsupportedError


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
            self.served.grad = plain(value)
        else:
            with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
                cast(Any, torch.Tensor.grad).__set__(self, plain(value))

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return repr(self.value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.value.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return copy.deepcopy(self.value, memo)


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


class BlockOutput(Activation):
    """The output of a decoder block: the hidden state ``[batch, seq, d_model]``, whatever transformers returned.

    ``output[0]`` is the whole hidden state, as when blocks returned tuples; ``output[:, -1, :]`` is today's way.

    Attributes:
        rest: what the block returned besides it.
    """

    rest: tuple[Any, ...] = ()

    @property
    def hidden(self) -> Activation:
        """The hidden state, as a tensor and nothing else."""
        return Activation.of(self.value, self.place, self.served)

    def save(self) -> Any:
        """Keep the hidden state after the trace, as a tensor."""
        nnsight.save(self)
        found = self.hidden
        nnsight.save(found)
        return found

    def __getitem__(self, key: Any) -> Any:
        if not in_trace() or not _of_tuple(key):
            return Activation.__getitem__(self, key)
        items = (self.hidden, *self.rest)
        if isinstance(key, slice):
            return items[key]
        if not -len(items) <= key < len(items):
            raise MismatchError(
                f"{self.place}: output[{key}] would be item {key} of the tuple a block used to return, and this block "
                f"returns its hidden state only; write output[0] for it, output[0][{key}] for row {key} of the batch"
            )
        return items[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if in_trace() and _of_tuple(key):
            if key != 0:
                raise UnsupportedError(
                    f"{self.place}: output[{key!r}] = ... names items of the tuple a block used to return; "
                    "write output[0][...] = ... to set some of the hidden state"
                )
            if not isinstance(value, Tensor) or value.data_ptr() != self.data_ptr():  # `output[0] += v` sets itself
                self.hidden[:] = value
            return
        Activation.__setitem__(self, key, value)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.hidden, *self.rest)) if in_trace() else iter(self.value)

    def __len__(self) -> int:
        return 1 + len(self.rest) if in_trace() else len(self.value)


def _of_tuple(key: Any) -> bool:
    """Whether an index speaks of a tuple: an integer, or a slice of some items."""
    if isinstance(key, slice):
        return (key.start not in (None, 0)) or key.stop is not None
    return isinstance(key, int) and not isinstance(key, bool)


class ModuleInput(Activation):
    """The first input of a module. ``input[0]`` are all its positional arguments, ``input[1]`` those by name.

    Attributes:
        arguments: both.
    """

    arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def save(self) -> Any:
        """Keep the first input after the trace, as a tensor."""
        nnsight.save(self)
        found = Activation.of(self.value, self.place, self.served)
        nnsight.save(found)
        return found

    def __getitem__(self, key: Any) -> Any:
        if in_trace() and isinstance(key, int) and not isinstance(key, bool):
            if key in (0, 1):
                return self.arguments[key]
            raise MismatchError(
                f"{self.place}: input[{key}] is neither the positional arguments, input[0], nor those by name, "
                f"input[1]; write input[0][0][{key}] for row {key} of the first one"
            )
        return Activation.__getitem__(self, key)


class Outputs(tuple[Any, ...]):
    """The tuple that a module returned, its tensors as Activations; saved, it has a ``.value`` like them."""

    @property
    def value(self) -> tuple[Any, ...]:
        """A plain tuple of plain tensors."""
        return tuple(plain(item) for item in self)


class Scanned(tuple[Any, ...]):
    """A block's output or a module's input under ``scan``, where tensors have shapes and no values."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self[0] if not isinstance(self[0], tuple) else self[0][0], name)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int) or (isinstance(key, slice) and _of_tuple(key)):
            return tuple.__getitem__(self, key)
        first = tuple.__getitem__(self, 0)
        return (first[0] if isinstance(first, tuple) else first)[key]


def served(value: Any, place: Place) -> Any:
    """What a trace gets to see of a value that the model produced."""
    if detect_fake_mode() is not None:
        return value
    if isinstance(value, Tensor):
        return Activation.of(value, place, value)
    if isinstance(value, tuple) and not hasattr(cast("tuple[Any, ...]", value), "_fields"):
        return Outputs(served(item, place) for item in cast("tuple[Any, ...]", value))
    return value


def served_block(value: Any, place: Place) -> Any:
    """A block's output, as a tuple and as its hidden state."""
    items = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)
    if detect_fake_mode() is not None:
        return Scanned(items)
    found = BlockOutput.of(items[0], place, items[0])
    found.rest = tuple(served(item, place) for item in items[1:])
    return found


def served_input(args: tuple[Any, ...], kwargs: dict[str, Any], place: Place) -> Any:
    """A module's first input, as the arguments and as a tensor."""
    first = args[0] if args else next(iter(kwargs.values()), None)
    positional = args or (first,)
    if detect_fake_mode() is not None:
        return Scanned((positional, kwargs))
    if not isinstance(first, Tensor):
        return first
    found = ModuleInput.of(first, place, first)
    found.arguments = (
        tuple(served(item, place) for item in positional),
        {name: served(item, place) for name, item in kwargs.items()},
    )
    return found


def plain(value: Any) -> Any:
    """The same with plain tensors, in tuples, lists and dictionaries too."""
    if isinstance(value, Activation):
        return value.value
    if isinstance(value, Scanned):
        return value[0] if not isinstance(value[0], tuple) else value[0][0]
    if isinstance(value, (list, tuple)):
        items = [plain(item) for item in cast("list[Any]", value)]
        if isinstance(value, list):
            return items
        kind = type(cast("tuple[Any, ...]", value))
        return kind(*items) if hasattr(kind, "_fields") else tuple(items)
    if type(value) is dict:
        return {key: plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    return value


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


def fitted(value: Any, found: Tensor, place: Place) -> Tensor:
    """``value`` as what can stand in the place of ``found``, the model's own tensor.

    Raises:
        MismatchError: another shape, or float64.
        InterventionError: no tensor, or one without values.
    """
    if not isinstance(value, Tensor):
        raise InterventionError(f"{place} can be replaced by a tensor only, got {type(value).__name__}")
    new = plain(value)
    what = f"{described(new)} put in at {place}"
    if new.is_meta and not found.is_meta:
        raise InterventionError(f"{what} is on the meta device and has no values; load it onto a real device first")
    if new.shape != found.shape:
        raise MismatchError(
            f"{what} has shape {list(new.shape)}, but {list(found.shape)} stands there; give one row for each of the "
            f"batch: {found.shape[0]}, for example by expand_as()"
        )
    if new.dtype == torch.float64 and found.dtype != torch.float64:
        raise MismatchError(
            f"{what} is float64, but the model computes in {str(found.dtype).removeprefix('torch.')}; "
            "give it the same precision: vector.to(torch.float32)"
        )
    return new.to(found.dtype)
