"""Activations on disk, for more rows than the memory holds.

A folder with one safetensors file per layer, ``layer-010.safetensors``, whose only tensor ``activations`` is float32,
``[n, ...]``, and ``activations.json``, written last: a folder without it is not complete. The files have their full
size from the start, so that a disk that is too small is found out at once, and rows are written into their places in
whatever order they are read. ``progress.safetensors`` says which are there; interrupted work goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, FileFormatError, InterventionError
from ..files import container
from ..files.atomic import replacing
from ..model import SteeringModel
from ..vector import Origin
from .activations import Activations, run_work
from .checkpoint import EVERY, work_digest
from .gathering import RowGather
from .progress import ProgressLike
from .reading import Read, Text, prepare
from .work import RunnerLike, Work

INDEX, PROGRESS = "activations.json", "progress.safetensors"
KIND = "activations"
#: Texts that are tokenised at a time.
CHUNK = 65_536


class StoredActivations(Activations):
    """Activations in the files of a folder; ``acts[10]`` is mapped into memory and read as it is used."""

    def __post_init__(self) -> None:
        """Nothing is read before it is asked for."""


class _Layers(Mapping[int, Tensor]):
    """layer -> its tensor, mapped when it is asked for. Writing to it changes no file."""

    def __init__(self, folder: Path, layers: Sequence[int], shape: Sequence[int]) -> None:
        self.folder, self.layers, self.shape = folder, tuple(layers), tuple(shape)

    def __getitem__(self, layer: int) -> Tensor:
        if layer not in self.layers:
            raise KeyError(layer)
        file = layer_file(self.folder, layer)
        return torch.from_numpy(np.memmap(file, np.float32, "c", _offset(file, self.shape), self.shape))

    def __iter__(self) -> Iterator[int]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


def open_folder(folder: str | Path) -> StoredActivations:
    """What :meth:`Activations.open` does."""
    index = Path(folder) / INDEX
    if not index.is_file():
        raise FileNotFoundError(f"there are no complete activations in {folder} (no {INDEX})")
    try:
        document = cast("dict[str, Any]", json.loads(index.read_text(encoding="utf-8")))
        if document["kind"] != KIND or document["format_version"] != container.FORMAT_VERSION:
            raise FileFormatError(f"{index}: kind {document['kind']!r}, format version {document['format_version']!r}")
        layers = [int(layer) for layer in document["layers"]]
        shape = [int(size) for size in document["shape"]]
        origin = Origin(**document["origin"])
        site, metadata = str(document["site"]), dict(document["metadata"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{index} does not describe activations: {error}") from error
    for layer in layers:
        _offset(layer_file(Path(folder), layer), shape)
    return StoredActivations(_Layers(Path(folder), layers, shape), site=site, origin=origin, metadata=metadata)


def write_folder(
    folder: Path,
    model: SteeringModel,
    texts: Sequence[Text],
    read: Read,
    work: Work,
    *,
    runner: RunnerLike = None,
    progress: ProgressLike = None,
) -> StoredActivations:
    """Read texts into a folder, going on with what is there of the same work; see :func:`~.activations.activations`.

    Raises:
        DataError: the folder holds other activations, or files that are none of ours.
    """
    digest = _digest(model, texts, read, work)
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(texts), *((model.shape.n_heads, model.shape.d_head) if work.site == "z" else (_width(model, work),)))
    if (folder / INDEX).is_file():
        known = json.loads((folder / INDEX).read_text(encoding="utf-8")).get("digest")
        if known == digest:
            return open_folder(folder)
        raise DataError(f"{folder} holds other activations; delete it, or name another folder")
    gather = _FileGather(folder, work.layers, shape, digest)
    for start in range(0, len(texts), CHUNK):
        left = [number for number in range(start, min(start + CHUNK, len(texts))) if not gather.finished[number]]
        items = [item.at(left[item.number]) for item in prepare(model, [texts[number] for number in left], read)]
        if items:
            try:
                run_work(model, items, work, gather, runner=runner, progress=progress)
            finally:
                gather.save()
    document = {
        "format": "steersman", "kind": KIND, "format_version": container.FORMAT_VERSION, "digest": digest,
        "site": work.site, "layers": list(work.layers), "shape": list(shape), "origin": asdict(Origin.of(model.shape)),
        "metadata": {"read": str(read)},
    }  # fmt: skip
    with replacing(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
    (folder / PROGRESS).unlink(missing_ok=True)
    return open_folder(folder)


class _FileGather:
    """Writes rows to their places in the files of a folder."""

    def __init__(self, folder: Path, layers: Sequence[int], shape: Sequence[int], digest: str) -> None:
        self.folder, self.digest, self.shape = folder, digest, tuple(shape)
        self.finished = torch.zeros(shape[0], dtype=torch.bool)
        self._resume(layers)
        self._maps = {
            layer: np.memmap(f := layer_file(folder, layer), np.float32, "r+", _offset(f, shape), self.shape)
            for layer in layers
        }
        self._last = time.monotonic()

    def _resume(self, layers: Sequence[int]) -> None:
        """Take up what is there of the same work, or lay the files out."""
        progress = self.folder / PROGRESS
        if progress.is_file():
            state, document = container.read(progress, KIND)
            if document.get("digest") != self.digest:
                raise DataError(
                    f"{self.folder} holds the beginning of other activations; delete it, or name another folder"
                )
            self.finished = state["finished"].bool()
            return
        if any(self.folder.iterdir()):
            raise DataError(f"{self.folder} holds other files; name a new folder")
        for layer in layers:
            _allocate(layer_file(self.folder, layer), self.shape)
        self.save()

    def add(self, numbers: Sequence[int], rows: Mapping[int, Tensor | Sequence[Tensor]]) -> None:
        """See :class:`~.work.Gather`."""
        own = cast("Mapping[int, Tensor]", rows)
        for layer, values in own.items():
            if not bool(values.isfinite().all()):
                raise InterventionError(
                    f"the activations of layer {layer} are NaN or infinite; load the model in bfloat16 or float32, if "
                    "it is in float16"
                )
        for layer, values in own.items():
            self._maps[layer][numbers] = values.reshape(-1, *self.shape[1:]).numpy()
        self.finished[list(numbers)] = True
        if time.monotonic() - self._last > EVERY:
            self.save()

    def add_norms(self, norms: Mapping[int, Tensor]) -> None:
        """None are asked for."""

    def empty(self, numbers: Sequence[int]) -> RowGather:
        """A gather for elsewhere, in memory; its slots are the items' numbers."""
        found = RowGather(())
        found.slots, found.size = {number: number for number in numbers}, len(self.finished)
        return found

    def merge(self, other: RowGather) -> None:
        """See :class:`~.work.Gather`."""
        for numbers, rows in other.parts():
            self.add(numbers, rows)

    def save(self) -> None:
        """Bring to disk what is there, and then write down that it is."""
        for mapped in getattr(self, "_maps", {}).values():
            mapped.flush()
        state = {"finished": self.finished.to(torch.float32)}
        container.write(self.folder / PROGRESS, KIND, state, {"digest": self.digest})
        self._last = time.monotonic()


def layer_file(folder: Path, layer: int) -> Path:
    """The file of a layer."""
    return folder / f"layer-{layer:03d}.safetensors"


def _allocate(path: Path, shape: Sequence[int]) -> None:
    """A safetensors file of one float32 tensor, all of its room on disk reserved, its numbers zero."""
    size = 4 * int(np.prod(shape))
    head = json.dumps({"activations": {"dtype": "F32", "shape": list(shape), "data_offsets": [0, size]}}).encode()
    head += b" " * (-len(head) % 8)
    with replacing(path) as temporary, temporary.open("wb") as opened:
        opened.write(struct.pack("<Q", len(head)) + head)
        try:
            os.posix_fallocate(opened.fileno(), 0, 8 + len(head) + size)
        except AttributeError:  # not on this system: the file grows as it is written
            opened.truncate(8 + len(head) + size)


def _offset(path: Path, shape: Sequence[int]) -> int:
    """Where the numbers begin; FileFormatError if the file is not exactly what it should be."""
    if not path.is_file():
        raise FileFormatError(f"{path} is missing")
    size = 4 * int(np.prod(shape))
    with path.open("rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length < 4096 or path.stat().st_size != 8 + length + size:
            raise FileFormatError(f"{path} is truncated, or holds no activations of shape {list(shape)}")
        try:
            tensor = json.loads(opened.read(length))["activations"]
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(f"{path} holds no activations: {error}") from error
    if tensor != {"dtype": "F32", "shape": list(shape), "data_offsets": [0, size]}:
        raise FileFormatError(f"{path} holds other numbers than float32 of shape {list(shape)}")
    return 8 + length


def _digest(model: SteeringModel, texts: Sequence[Text], read: Read, work: Work) -> str:
    found = hashlib.sha256(work_digest(model, [], work, {"read": str(read)}).encode())
    for text in texts:
        found.update(repr(text).encode())
        found.update(b"\0")
    return found.hexdigest()


def _width(model: SteeringModel, work: Work) -> int:
    widths = {model.shape.width(work.site, layer) for layer in work.layers}
    if len(widths) > 1:
        raise DataError(f"the layers differ in width ({sorted(widths)}); write each to a folder of its own")
    return widths.pop()
