"""What a trace is handed in the place of a module's output or input, and what it may put there.

Two kinds of :class:`~steersman.nnsight.values.Activation` also answer as the tuples that nnsight and transformers used
to hand out: a block's output (``output[0]`` is the hidden state) and a module's input (``input[0][0]`` is its first
argument). There the old meaning holds inside a trace, where old and new clash.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

import nnsight

from ..errors import InterventionError, MismatchError, UnsupportedError
from .values import Activation, Place, described, in_trace


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
