"""From one file of a steering vector to another, and the proof that nothing was lost on the way."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import FileFormatError, InterventionError
from .files import container, control_vector
from .files.foreign import MAX_FILE, size_of
from .folding import fold
from .plan import Plan
from .vector import SteeringVector

TARGETS = (".safetensors", ".gguf")


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        vector: as read from the source (of a plan: folded into one vector).
        source, target: the paths.
        format: what the source was.
        layers: those in the target.
        left_out: layers of the source that the target cannot hold.
        verified: what was read back and found equal bit for bit: the readers that did; empty without the check.
    """

    vector: SteeringVector
    source: str
    target: str
    format: str
    layers: tuple[int, ...]
    left_out: tuple[int, ...]
    verified: tuple[str, ...] = ()


def read(source: str | Path, *, index_offset: int = 0, site: str | None = None) -> tuple[SteeringVector, str]:
    """The vector of any readable file or folder, and what that was; a saved plan is folded into one vector.

    Raises:
        FileNotFoundError, FileFormatError: it is missing, or nothing that can be read.
        UnsupportedError: a plan that does more than add.
    """
    path = Path(source)
    kind = container.metadata(path).get("kind") if path.is_file() and path.suffix == ".safetensors" else None
    if kind == "plan":
        if index_offset != 0 or site is not None:
            raise InterventionError(f"{path} is a plan and says itself where it acts; leave index_offset and site out")
        return fold(Plan.load(path)), "plan"
    vector = SteeringVector.load(path, index_offset=index_offset, site=site)
    return vector, "steersman vector" if kind else str(vector.metadata.get("format", "vector"))


def convert(
    source: str | Path,
    target: str | Path,
    *,
    index_offset: int = 0,
    site: str | None = None,
    strength: float = 1.0,
    check: bool = False,
) -> Conversion:
    """Write a vector, of any format that can be read, as ``.safetensors`` or as a ``.gguf`` control vector.

    Args:
        source: a file or folder; see :meth:`SteeringVector.load`.
        target: ending in ``.safetensors`` or ``.gguf``.
        index_offset: added to the layers of a foreign file.
        site: the component that a foreign file's directions are of.
        strength: multiplied into the directions of a ``.gguf`` file.
        check: read the target back, a ``.gguf`` also with the package ``gguf`` alone, and compare every bit.

    Raises:
        FileFormatError: the source cannot be read, the target has another ending or is the source, or the check failed.
        UnsupportedError: the target's format cannot say what the source says; nothing is written.
    """
    planned = plan_conversion(source, target, index_offset=index_offset, site=site, strength=strength)
    path = Path(planned.target)
    planned.vector.save(path, strength=strength)
    if not check:
        return planned
    return replace(planned, verified=verify(path, _expected(planned.vector, path, strength)))


def plan_conversion(
    source: str | Path, target: str | Path, *, index_offset: int = 0, site: str | None = None, strength: float = 1.0
) -> Conversion:
    """What :func:`convert` would do, everything checked and nothing written."""
    path = check_target(source, target)
    vector, kind = read(source, index_offset=index_offset, site=site)
    if path.suffix != ".gguf" and strength != 1:
        raise InterventionError(f"strength is multiplied into .gguf files, not into {path}; leave it out")
    layers = tuple(_expected(vector, path, strength))
    left_out = tuple(layer for layer in vector.layers if layer not in layers)
    return Conversion(vector, str(source), str(path), kind, layers, left_out)


def _expected(vector: SteeringVector, path: Path, strength: float) -> dict[int, Tensor]:
    if path.suffix != ".gguf":
        return dict(vector.directions)
    return control_vector.writable(vector.directions, site=vector.site, label=vector.label, strength=strength)


def check_target(source: str | Path, target: str | Path) -> Path:
    """The target's path, if it is one that can be written and not the source."""
    path = Path(target)
    if path.suffix not in TARGETS:
        raise FileFormatError(f"cannot write {path}: a vector is written as {' or '.join(TARGETS)}; use one of these")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if path.exists() and os.path.samefile(path, source):
        raise FileFormatError(f"{source} would be overwritten by itself; name another target")
    return path


def verify(path: Path, expected: Mapping[int, Tensor]) -> tuple[str, ...]:
    """Read a vector file back and compare every bit; the names of the readers that found it equal.

    Raises:
        FileFormatError: anything differs.
    """
    readers = {"steersman": dict(SteeringVector.load(path).directions)}
    if path.suffix == ".gguf":
        readers["gguf"] = _with_gguf_alone(path)
    for reader, found in readers.items():
        layers = {layer for layer in found.keys() | expected.keys() if not _same(found.get(layer), expected.get(layer))}
        if layers:
            raise FileFormatError(f"{path}: read back by {reader}, layers {sorted(layers)} are not what was written")
    return tuple(readers)


def _with_gguf_alone(path: Path) -> dict[int, Tensor]:
    size_of(path, MAX_FILE)
    tensors = control_vector.package().GGUFReader(path).tensors
    return {
        int(tensor.name.removeprefix("direction.")): torch.from_numpy(np.array(tensor.data))  # whatever dtype it has
        for tensor in tensors
    }


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))
