"""The header of a GGUF file, read with bounds: what it declares is checked before anything believes it.

The layout is that of ggml's ``docs/gguf.md``, little-endian: magic, version, two counts, key-value pairs, tensor
descriptions, padding, data. Versions 2 and 3 are the same to a reader. All lengths are the writer's word, so each is
held against the bytes that are there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from .foreign import MAX_LAYERS, shown, size_of

MAX_HEADER = 1024**2
MAX_PAIRS = 1024
#: Elements of all arrays together: the package's reader makes an object of each.
MAX_ELEMENTS = 16384
F32 = 0
STRING, ARRAY = 8, 9
#: value type -> how struct reads it
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as declared: dimensions innermost first, ggml type, offset into the data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file declares.

    Attributes:
        values: key -> (value type, value); an array is represented by its length.
        tensors: in the order of the file.
    """

    values: dict[str, tuple[int, Any]]
    tensors: tuple[TensorInfo, ...]

    def text(self, key: str) -> str | None:
        """A string value, None if there is none of that name and type."""
        kind, value = self.values.get(key, (-1, None))
        return value if kind == STRING else None


def read(path: Path) -> Header:
    """The header of a file whose tensors all lie within it, do not overlap and are F32.

    Raises:
        FileFormatError: anything else.
    """
    size = size_of(path)
    with path.open("rb") as opened:
        cursor = _Cursor(path, opened.read(MAX_HEADER), size)
    if cursor.take(4) != b"GGUF":
        raise FileFormatError(f"{path} is no GGUF file: it does not begin with GGUF")
    version = cursor.number("I")
    if version not in (2, 3):
        order = "big-endian, or of" if version & 0xFFFF == 0 else "of"
        raise FileFormatError(f"{path} is {order} an unknown GGUF version; 2 and 3, little-endian, are read")
    count, pairs = cursor.number("Q"), cursor.number("Q")
    if count > MAX_LAYERS or pairs > MAX_PAIRS:
        raise FileFormatError(
            f"{path} declares {count} tensors and {pairs} keys; more than {MAX_LAYERS} and {MAX_PAIRS} are refused"
        )
    values = _distinct(path, "key", pairs, lambda: (cursor.text(), cursor.value()))
    tensors = _distinct(path, "tensor", count, lambda: _tensor(cursor))
    header = Header(values, tuple(tensors.values()))
    _check_data(path, header, cursor.at, size)
    return header


class _Cursor:
    """Reads forward through the beginning of a file, and never past it."""

    def __init__(self, path: Path, data: bytes, size: int) -> None:
        self.path, self.data, self.size, self.at, self.elements = path, data, size, 0, 0

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            if len(self.data) < self.size:
                raise FileFormatError(f"{self.path}: its header is longer than {MAX_HEADER} bytes: no control vector")
            raise FileFormatError(f"{self.path} is truncated, or declares more than it holds ({self.size} bytes)")
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        try:
            return self.take(self.number("Q")).decode()
        except UnicodeDecodeError:
            raise FileFormatError(f"{self.path} holds a name that is no UTF-8 text") from None

    def value(self) -> tuple[int, Any]:
        kind = self.number("I")
        return kind, self._array() if kind == ARRAY else self._single(kind)

    def _single(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind not in SCALARS:
            raise FileFormatError(f"{self.path} holds a value of the unknown type {kind}")
        return self.number(SCALARS[kind])

    def _array(self) -> int:
        kind, length = self.number("I"), self.number("Q")
        self.elements += length
        if kind == ARRAY or self.elements > MAX_ELEMENTS:
            raise FileFormatError(f"{self.path} holds nested or very long arrays: no control vector")
        for _ in range(length):
            self._single(kind)
        return length


def _distinct(path: Path, what: str, count: int, entry: Callable[[], tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(count):
        name, value = entry()
        if name in found:
            raise FileFormatError(f"{path} holds the {what} {shown(name)} twice")
        found[name] = value
    return found


def _tensor(cursor: _Cursor) -> tuple[str, TensorInfo]:
    name, dims = cursor.text(), cursor.number("I")
    if not 1 <= dims <= 4:
        raise FileFormatError(f"{cursor.path}: tensor {shown(name)} declares {dims} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dims))
    return name, TensorInfo(name, shape, cursor.number("I"), cursor.number("Q"))


def _check_data(path: Path, header: Header, end: int, size: int) -> None:
    kind, alignment = header.values.get("general.alignment", (4, 32))
    if kind != 4 or alignment not in (1 << n for n in range(17)):
        raise FileFormatError(f"{path} declares an impossible alignment")
    start = -(-end // alignment) * alignment
    reached = start
    for tensor in sorted(header.tensors, key=lambda t: t.offset):
        what = f"{path}: tensor {shown(tensor.name)}"
        if tensor.type != F32:
            raise FileFormatError(f"{what} is of ggml type {tensor.type}; a control vector is F32; write it as such")
        first = start + tensor.offset
        if first < reached or 0 in tensor.shape or first + 4 * prod(tensor.shape) > size:
            raise FileFormatError(f"{what} {list(tensor.shape)} is empty, overlaps another, or reaches past the end")
        reached = first + 4 * prod(tensor.shape)
