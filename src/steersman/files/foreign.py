"""What the readers of other libraries' files share: the words they answer in, and the bounds they keep.

A foreign file is untrusted input. A reader looks at nothing it has not bounded, runs nothing that it finds, and
answers with a :class:`Foreign`, or with one :class:`~steersman.errors.FileFormatError` that names the file, what is
wrong with it and, where there is one, the way out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import FileFormatError
from ..sites import DEEPEST

#: No steering vector is larger: 200 layers of width 100,000 are a tenth of it.
MAX_FILE = 1024**3
#: JSON takes some twenty times its length in memory; the largest models' vectors are below 50 MB.
MAX_JSON = 64 * 1024**2
#: More tensors than this are no layers of a model.
MAX_LAYERS = 4096
_LONGEST_TEXT = 200


@dataclass(frozen=True)
class Foreign:
    """A vector as another library meant it, in the words of this one.

    Attributes:
        format: what the file is, for messages and the vector's metadata.
        directions: layer -> float32 tensor; layer ``l`` is decoder block ``l``, counted from 0.
        site: the component the layers are of.
        name: what the file calls it, if anything.
        method: how it was made, if the file says so.
        facts: what else it holds, as JSON values.
        notes: what was left out, which whoever loads it should be told.
        hints: how else it may be meant, of interest unless the caller says how.
    """

    format: str
    directions: Mapping[int, Tensor]
    site: str = "resid_post"
    name: str | None = None
    method: str | None = None
    facts: Mapping[str, Any] = field(default_factory=lambda: {})
    notes: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


def size_of(path: Path, limit: int = MAX_FILE) -> int:
    """The size of a regular file.

    Raises:
        FileNotFoundError: when there is none.
        FileFormatError: it is empty, too large, or no regular file.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        raise FileFormatError(f"{path} is no regular file")
    size = path.stat().st_size
    if not 0 < size <= limit:
        raise FileFormatError(f"{path} has {size} bytes; a file of 1 to {limit} bytes is expected")
    return size


def layer_from(text: str, source: Path) -> int:
    """The layer that decimal digits name, without sign, space or leading zero."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and str(int(text)) == text and int(text) <= DEEPEST):
        raise FileFormatError(f"{source}: {shown(text)} is no index of a layer")
    return int(text)


def direction(value: Tensor, source: Path, what: str, dims: tuple[int, ...] = (1,)) -> Tensor:
    """A private float32 copy of a direction, its shape and numbers checked.

    Raises:
        FileFormatError: of another dimension, empty, not of real floating-point numbers, or not finite.
    """
    if value.dim() not in dims or value.numel() == 0:
        wanted = " or ".join(f"{n}-D" for n in dims)
        raise FileFormatError(f"{source}: {what} has the shape {list(value.shape)}; a direction is {wanted}")
    if not value.is_floating_point():
        raise FileFormatError(f"{source}: {what} is of {value.dtype}; floating-point numbers are expected")
    copy = value.detach().to(torch.float32, copy=True).contiguous()
    if not bool(torch.isfinite(copy).all()):
        raise FileFormatError(f"{source}: {what} holds NaN or infinite numbers (as float32)")
    return copy


def same_width(directions: Mapping[int, Tensor], source: Path) -> dict[int, Tensor]:
    """The directions in the order of their layers, all of one shape; FileFormatError otherwise."""
    if not directions:
        raise FileFormatError(f"{source} holds no direction")
    if len(directions) > MAX_LAYERS:
        raise FileFormatError(f"{source} holds {len(directions)} layers; more than {MAX_LAYERS} are refused")
    ordered = dict(sorted(directions.items()))
    shapes = {tuple(tensor.shape): layer for layer, tensor in ordered.items()}
    if len(shapes) > 1:
        listed = ", ".join(f"layer {layer}: {list(shape)}" for shape, layer in list(shapes.items())[:3])
        raise FileFormatError(f"{source}: its layers differ in width ({listed})")
    return ordered


def read_json(path: Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object in a file; NaN, repeated keys and anything but an object are refused."""
    size_of(path, limit)
    try:
        found: Any = json.loads(path.read_bytes(), parse_constant=_no_number, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is no JSON that can be read: {str(error)[:_LONGEST_TEXT]}") from None
    if not isinstance(found, dict):
        raise FileFormatError(f"{path} holds a JSON {type(found).__name__}, not an object")
    return cast("dict[str, Any]", found)


def numbers(value: Any, path: Path, key: str) -> dict[str, float] | None:
    """A JSON object of finite numbers, such as the accuracy of each layer; None if there is none."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise FileFormatError(f"{path}: {key} is no object")
    items = cast("dict[str, Any]", value)
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and finite(n) for n in items.values()):
        raise FileFormatError(f"{path}: {key} holds something other than finite numbers")
    return {clean(name) or "?": float(number) for name, number in items.items()}


def finite(number: float) -> bool:
    """Whether a JSON number is finite as a float."""
    try:
        return math.isfinite(float(number))
    except OverflowError:
        return False


def clean(text: object) -> str | None:
    """Text of a foreign file, fit to be printed; None for what is no text or empty."""
    if not isinstance(text, str):
        return None
    return "".join(c for c in text[:_LONGEST_TEXT] if c.isprintable()).strip() or None


def shown(text: str) -> str:
    """Text of a foreign file in quotes, for messages: short, and without control characters."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
