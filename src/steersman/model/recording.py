"""How each decoder block was called in a forward pass, and which axes of its arguments are rows and tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn
from transformers import Cache

from ..errors import UnsupportedError
from .architecture import Architecture

#: Where a leaf lies among the arguments of a block: the number or name of the argument, then keys inside it.
Path = tuple[int | str, ...]
#: Given where a tensor or a cache lies and what it is: what to hand on instead.
Change = Callable[[Path, Any], Any]


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of one block, the residual stream apart.

    Attributes:
        args, kwargs: as the model passed them, with None in the place of the stream.
        stream: where the residual stream goes: a position among ``args``, or a name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    stream: int | str

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, Tensor]:
        """A call taken apart: its arguments, and the residual stream."""
        if args and isinstance(args[0], Tensor):
            return cls((None, *args[1:]), dict(kwargs), 0), args[0]
        name = next((key for key, value in kwargs.items() if isinstance(value, Tensor)), None)
        if name is None:
            raise UnsupportedError("a decoder block was called without a tensor")
        return cls(args, kwargs | {name: None}, name), kwargs[name]

    def leaves(self) -> Iterator[tuple[Path, Any]]:
        """Every tensor and cache among the arguments."""
        found: list[tuple[Path, Any]] = []
        self._arguments(lambda path, leaf: found.append((path, leaf)))
        return iter(found)

    def again(self, block: nn.Module, stream: Tensor, change: Change) -> Tensor:
        """Call a block with another stream, and every tensor and cache as ``change`` gives it."""
        args, kwargs = self._arguments(change)
        if isinstance(self.stream, int):
            args = (*args[: self.stream], stream, *args[self.stream + 1 :])
        else:
            kwargs |= {self.stream: stream}
        output = block(*args, **kwargs)
        return output[0] if isinstance(output, tuple) else output

    def _arguments(self, change: Change) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = tuple(_mapped((number,), value, change) for number, value in enumerate(self.args))
        return args, {name: _mapped((name,), value, change) for name, value in self.kwargs.items()}


def _mapped(path: Path, value: Any, change: Change) -> Any:
    if isinstance(value, Tensor | Cache):
        return change(path, value)
    if isinstance(value, tuple | list):
        items = cast("Sequence[Any]", value)
        return type(value)(_mapped((*path, number), item, change) for number, item in enumerate(items))
    if isinstance(value, dict):
        entries = cast("Mapping[str, Any]", value)
        return {key: _mapped((*path, key), item, change) for key, item in entries.items()}
    return value


@dataclass
class Recording:
    """What :func:`recording` collects: the calls of the blocks in order, and the stream before those kept."""

    calls: list[Call] = field(default_factory=lambda: [])
    residuals: dict[int, Tensor] = field(default_factory=lambda: {})


@contextmanager
def recording(architecture: Architecture, keep: Sequence[int]) -> Generator[Recording]:
    """Collect how the blocks are called in the forward pass that this thread makes inside.

    ``residuals[l]`` is a copy of the stream as it leaves block ``l - 1``, whatever acts on it there having acted, and
    before anything acts at the entry of block l. Of block 0 it is what enters.
    """
    me, found, wanted = threading.get_ident(), Recording(), set(keep)

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == me:
            found.calls.append(Call.of(args, kwargs)[0])

    def first(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == me and 0 in wanted:
            found.residuals[0] = Call.of(args, kwargs)[1].clone()

    def left(layer: int) -> Callable[..., None]:
        def keep_it(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() == me and layer + 1 in wanted:
                found.residuals[layer + 1] = (output[0] if isinstance(output, tuple) else output).clone()

        return keep_it

    blocks = architecture.blocks
    handles = [block.register_forward_pre_hook(entering, with_kwargs=True) for block in blocks]
    handles += [block.register_forward_hook(left(layer)) for layer, block in enumerate(blocks)]
    handles.append(blocks[0].register_forward_pre_hook(first, with_kwargs=True, prepend=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Axes:
    """Which axis of a tensor counts the rows of the batch (or a multiple of them), and which count its tokens."""

    rows: int | None
    tokens: tuple[int, ...]


class Layout:
    """The axes of every tensor that a model hands to its blocks, as two passes of different shapes show them."""

    def __init__(self, axes: Mapping[tuple[int, Path], Axes]) -> None:
        self._axes = axes

    @classmethod
    def compared(cls, small: Sequence[Call], large: Sequence[Call], shapes: Sequence[tuple[int, int]]) -> Layout:
        """From the calls of two passes of ``shapes`` (rows, tokens); the four numbers share no ratio."""
        (rows, tokens), (more_rows, more_tokens) = shapes
        found: dict[tuple[int, Path], Axes] = {}
        for number, (call, other) in enumerate(zip(small, large, strict=True)):
            others = dict(other.leaves())
            for path, leaf in call.leaves():
                if not isinstance(leaf, Tensor):
                    continue
                sizes = list(enumerate(zip(leaf.shape, others[path].shape, strict=True)))
                of_rows = [axis for axis, (a, b) in sizes if a * more_rows == b * rows]
                of_tokens = [axis for axis, (a, b) in sizes if (a, b) == (tokens, more_tokens)]
                found[number, path] = Axes(of_rows[0] if of_rows else None, tuple(of_tokens))
        return cls(found)

    def axes(self, block: int, path: Path) -> Axes:
        """The axes of a tensor; UnsupportedError if this argument was not there in the passes compared."""
        if (block, path) not in self._axes:
            raise UnsupportedError(f"block {block} was called with an argument {path} that it does not always get")
        return self._axes[block, path]

    def forked(self, block: int, path: Path, leaf: Any, forks: int) -> Any:
        """A tensor for ``forks`` copies of the batch, one after the other."""
        if not isinstance(leaf, Tensor) or forks == 1:
            return leaf
        axis = self.axes(block, path).rows
        if axis is None:
            return leaf
        return leaf.repeat(*(forks if place == axis else 1 for place in range(leaf.dim())))
