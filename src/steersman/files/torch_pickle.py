"""What a ``data.pkl`` of PyTorch describes, found out without unpickling it.

The pickle in a file of ``torch.save`` is a small program. Of its instructions only those are followed that put tensors
and dicts of tensors together, over inert values: a name it mentions stays a name, nothing is imported or called. Any
other instruction or name refuses the file. What passes is known to ask ``torch.load`` for nothing but tensors that lie
within their storages, and storages that are as long as the bytes there are.
"""

from __future__ import annotations

import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

from ..errors import FileFormatError
from .foreign import MAX_LAYERS, shown

#: Of a vector a layer, some hundred bytes each.
MAX_PICKLE = 512 * 1024
#: torch's storage classes -> bytes of an element
STORAGES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
}  # fmt: skip
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None}
_PUT, _GET = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """Something the pickle would import."""

    path: str


@dataclass(frozen=True, eq=False)
class _Storage:
    elements: int


@dataclass(frozen=True, eq=False)
class _Tensor:
    elements: int


def check(data: bytes, records: Mapping[str, int], source: Path) -> None:
    """Raise FileFormatError unless the pickle holds tensors only.

    Args:
        data: the pickle.
        records: key of each storage -> its length in bytes.
        source: the file, for messages.
    """
    if len(data) > MAX_PICKLE:
        raise FileFormatError(f"{source} holds a pickle of {len(data)} bytes; vectors need less than {MAX_PICKLE}")
    try:
        found = _Reader(records, source).read(data)
    except FileFormatError:
        raise
    except Exception as error:  # instructions out of order, text that is none: the file is to blame
        raise FileFormatError(f"{source} is damaged: its pickle cannot be followed ({type(error).__name__})") from None
    values = list(cast("dict[Any, Any]", found).values()) if isinstance(found, dict) else [found]
    if not values or len(values) > MAX_LAYERS or not all(isinstance(value, _Tensor) for value in values):
        raise FileFormatError(f"{source} holds something other than a tensor, or a dict of tensors")


class _Reader:
    """Follows the instructions over inert values."""

    def __init__(self, records: Mapping[str, int], source: Path) -> None:
        self.records, self.source = records, source
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            self._step(opcode.name, argument)
            if opcode.name == "STOP":
                break
        (found,) = self.stack
        return found

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "GLOBAL":
            stack.append(self._named(str(argument)))
        elif name in _PUT:
            self.memo[argument] = stack[-1]
        elif name in _GET:
            stack.append(self.memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"):
            count = len(self._above_mark(name)) if name == "TUPLE" else int(name[5:]) if name != "EMPTY_TUPLE" else 0
            self._tuple(count, marked=name == "TUPLE")
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("SETITEM", "SETITEMS"):
            self._set_items(name)
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._called(function, arguments))
        elif name == "PROTO" and argument != 2:
            raise FileFormatError(
                f"{self.source} holds a pickle of protocol {argument}; torch.save writes 2 unless asked"
            )
        elif name not in ("PROTO", "STOP"):
            raise FileFormatError(f"{self.source} holds more than tensors ({name} in its pickle): it is not read")

    def _named(self, argument: str) -> _Name:
        path = argument.replace(" ", ".")
        known = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "collections.OrderedDict")
        if path not in known and path.removeprefix("torch.") not in STORAGES:
            raise FileFormatError(
                f"{self.source} is a pickle of Python objects ({shown(path)}), and loading those runs whatever code "
                "they bring; load it where you trust it, and give its tensors to SteeringVector, or the object to "
                "SteeringVector.from_object"
            )
        return _Name(path)

    def _above_mark(self, name: str) -> list[Any]:
        at = max(i for i, value in enumerate(self.stack) if value is _MARK)
        return self.stack[at + 1 :]

    def _tuple(self, count: int, *, marked: bool) -> None:
        items = tuple(self.stack[len(self.stack) - count :])
        if len(items) != count or any(value is _MARK for value in items):
            raise ValueError("a tuple of more than there is")
        # tuples only as arguments: a tower of them could not be compared or hashed
        within = [inner for value in items if isinstance(value, tuple) for inner in cast("tuple[Any, ...]", value)]
        if any(isinstance(inner, tuple) for inner in within):
            raise ValueError("tuples within tuples within tuples")
        del self.stack[len(self.stack) - count - marked :]
        self.stack.append(items)

    def _set_items(self, name: str) -> None:
        items = self._above_mark(name) if name == "SETITEMS" else self.stack[-2:]
        del self.stack[len(self.stack) - len(items) - (name == "SETITEMS") :]
        target = self.stack[-1]
        keys = items[::2]
        if not isinstance(target, dict) or not all(type(key) in (int, str) for key in keys):
            raise ValueError("items of no dict, or under no plain key")
        cast("dict[Any, Any]", target).update(zip(keys, items[1::2], strict=True))

    def _storage(self, described: Any) -> _Storage:
        kind, name, key, _, elements = described
        size = STORAGES[cast(_Name, name).path.removeprefix("torch.")]
        if kind != "storage" or type(elements) is not int or elements * size != self.records.get(key):
            raise FileFormatError(f"{self.source} declares a tensor of another size than it holds")
        return _Storage(elements)

    def _called(self, function: Any, arguments: Any) -> Any:
        name = cast(_Name, function).path
        if name.endswith("OrderedDict"):
            () = arguments
            return {}
        if name.endswith("_rebuild_parameter"):
            tensor, _, _ = arguments
            return tensor
        storage, offset, size, stride, _, hooks = arguments
        sound = isinstance(storage, _Storage) and hooks in ({}, None) and len(size) == len(stride) <= 4
        sound = sound and all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
        if sound and prod(size):
            reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
            sound = prod(size) <= storage.elements and reach < storage.elements
        if not sound:
            raise FileFormatError(f"{self.source} declares a tensor that reaches beyond its numbers")
        return _Tensor(prod(size))
