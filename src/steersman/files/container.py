"""The native file: one safetensors file that holds tensors and a versioned JSON document. Never pickle.

The safetensors metadata is ``{"format": "steersman", "kind": ..., "format_version": "1", "document": <JSON>}``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileFormatError, InterventionError
from .atomic import replacing

FORMAT_VERSION = 1
#: A header larger than this is no header of ours: a million tensors would fit.
MAX_HEADER = 100 * 1024 * 1024
#: What the tensors of a native file may be; float32 as written.
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

Inspected = TypeVar("Inspected")


def write(path: str | Path, kind: str, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> str:
    """Write tensors and a document atomically; returns the path."""
    target = Path(path)
    if target.suffix != ".safetensors":
        raise FileFormatError(
            f"cannot write {target}: a native file ends in .safetensors, not {target.suffix or 'nothing'}"
        )
    metadata = {
        "format": "steersman",
        "kind": kind,
        "format_version": str(FORMAT_VERSION),
        "document": json.dumps(document, sort_keys=True, allow_nan=False),
    }
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(target) as temporary:
        save_file(plain, temporary, metadata)
    return str(target)


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and document of a native file of this kind.

    Raises:
        FileNotFoundError: when there is none.
        FileFormatError: not safetensors, truncated, not ours, of another kind, or of a newer format.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source}")
    return _load(source, lambda found: _document(source, kind, found))


def tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of any safetensors file, the tensors checked like those of a native one."""
    return _load(Path(path), lambda found: found)


def metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, empty for one that has none or is none."""
    try:
        _check_header(Path(path))
        with safe_open(path, "pt") as opened:
            return cast("dict[str, str]", opened.metadata() or {})
    except (SafetensorError, FileFormatError, OSError, UnicodeDecodeError):
        return {}


def _load(source: Path, inspect: Callable[[dict[str, str]], Inspected]) -> tuple[dict[str, Tensor], Inspected]:
    """The tensors, read after the metadata was found good."""
    _check_header(source)
    try:
        with safe_open(source, "pt") as opened:
            found = inspect(cast("dict[str, str]", opened.metadata() or {}))
            tensors = {name: cast(Tensor, opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{source} is damaged or no safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise FileFormatError(f"{source}: tensor {name!r} is of {tensor.dtype}; real numbers are expected")
        if not bool(torch.isfinite(tensor).all()):
            raise FileFormatError(f"{source}: tensor {name!r} holds NaN or infinite numbers")
    return tensors, found


def as_stored(value: Any, what: str) -> Any:
    """A private copy of JSON-able facts, as a file gives them back: tuples as lists, keys as text.

    Raises:
        InterventionError: when they are no JSON, or hold NaN or infinite numbers.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InterventionError(f"{what} must be JSON values, to be saved: {error}") from None


def _check_header(source: Path) -> None:
    size = source.stat().st_size
    with source.open("rb") as opened:
        start = opened.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
    if length is None or length > size - 8:
        raise FileFormatError(f"{source} is truncated, or no safetensors file ({size} bytes)")
    if length > MAX_HEADER:
        raise FileFormatError(f"{source} declares a header of {length} bytes; more than {MAX_HEADER} is refused")


def _document(source: Path, kind: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("format") != "steersman":
        raise FileFormatError(f"{source} is a safetensors file, but not one of Steersman's")
    if metadata.get("kind") != kind:
        raise FileFormatError(f"{source} holds a {metadata.get('kind')}, not a {kind}")
    version = metadata.get("format_version", "")
    if version != str(FORMAT_VERSION):
        raise FileFormatError(f"{source} has format version {version!r}; this release reads {FORMAT_VERSION}; upgrade")
    try:
        document = json.loads(metadata.get("document", ""), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{source}: its JSON document cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise FileFormatError(f"{source}: its JSON document is no object")
    return cast("dict[str, Any]", document)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
