"""Foreign files made byte by byte: nothing here knows the package under test, nor the package gguf."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"
WIDTH = 16
#: What every fixture was written from: layer -> [16] float32.
TRUTH: dict[int, np.ndarray] = {int(key): value for key, value in np.load(FIXTURES / "truth.npz").items()}

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
_CODES = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}
CONTROL = {"general.architecture": (STRING, "controlvector"), "controlvector.model_hint": (STRING, "llama")}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, value: Any) -> bytes:
    body = text(value) if kind == STRING else value if kind == ARRAY else struct.pack(_CODES[kind], value)
    return text(key) + struct.pack("<I", kind) + body


def info(name: str, shape: Iterable[int], kind: int = 0, offset: int = 0) -> bytes:
    dims = tuple(shape)
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf_file(
    tensors: Mapping[str, np.ndarray] | None = None,
    values: Mapping[str, tuple[int, Any]] = CONTROL,
    *,
    infos: list[bytes] | None = None,
    data: bytes | None = None,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A GGUF file with these tensors, or with whatever is declared of them."""
    tensors = {f"direction.{layer}": value for layer, value in TRUTH.items()} if tensors is None else tensors
    own, body = [], b""
    for name, array in tensors.items():
        kind = {"float32": 0, "float16": 1}[array.dtype.name]
        own.append(info(name, reversed(array.shape), kind, len(body)))
        body += array.tobytes() + bytes(-array.nbytes % 32)
    infos = own if infos is None else infos
    n_tensors, n_pairs = counts or (len(infos), len(values))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs)
    head += b"".join(pair(key, kind, value) for key, (kind, value) in values.items()) + b"".join(infos)
    return head + bytes(-len(head) % 32) + (body if data is None else data)


def llama_cpp(path: Path) -> dict[int, np.ndarray]:
    """What llama.cpp reads from a control vector, by its own rules; ValueError where it refuses the file."""
    import gguf

    found: dict[int, np.ndarray] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        prefix, dot, layer = tensor.name.partition(".")
        if prefix != "direction" or not dot or not layer.isdecimal() or int(layer) < 1:
            raise ValueError(f"invalid direction tensor {tensor.name}")
        if tensor.tensor_type != gguf.GGMLQuantizationType.F32 or len(tensor.shape) != 1:
            raise ValueError(f"{tensor.name} is not 1-D F32")
        if any(len(tensor.data) != len(other) for other in found.values()):
            raise ValueError("widths differ")
        found[int(layer)] = np.array(tensor.data)
    if not found:
        raise ValueError("no direction tensors")
    return found


def svec(path: Path, directions: Any = None, **more: Any) -> Path:
    """A .svec file, by default as IBM's library writes it."""
    rows = {str(layer): value.tolist() for layer, value in TRUTH.items()} if directions is None else directions
    path.write_text(json.dumps({"model_type": "llama", "directions": rows, **more}))
    return path


def repacked(
    source: Path, target: Path, changes: Mapping[str, bytes | None], compression: int = zipfile.ZIP_STORED
) -> Path:
    """A file of torch.save with some of its entries changed, added or (None) left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        folder = old.namelist()[0].partition("/")[0]
        entries = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
        for name, content in {**entries, **changes}.items():
            if content is not None:
                new.writestr(f"{folder}/{name}", content)
    return target


def pickle_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
