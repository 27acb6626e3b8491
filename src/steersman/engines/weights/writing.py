"""Writing a changed checkpoint, one tensor in memory at a time."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedError
from .changes import Change, Changes
from .source import DTYPES, INDEX, SINGLE, Source, Stored

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
#: Bytes handed to the system at a time.
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Entry:
    """One tensor of a shard to be written; ``make`` is called when its turn has come."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Bytes."""
        count = 1
        for length in self.shape:
            count *= length
        return count * self.dtype.itemsize


def write_checkpoint(
    source: Source,
    changes: Changes,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the shards of ``source`` to a folder, changed; what is not changed keeps its bits.

    Args:
        source: read lazily: at most one of its tensors is in memory (two for a bias that takes up an offset).
        changes: by name of parameter.
        dtype: of all real tensors; as stored unless given.
        progress: called with the bytes written so far and in all.
    """
    planned = _plan(source, changes, dtype)
    total = sum(entry.size for entries in planned.values() for entry in entries)
    written = 0

    def advance(count: int) -> None:
        nonlocal written
        written += count
        if progress is not None:
            progress(written, total)

    for file, entries in planned.items():
        write_shard(folder / file, entries, advance)
    if len(planned) > 1 or SINGLE not in planned:
        weights = {entry.key: file for file, entries in planned.items() for entry in entries}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_shard(path: Path, entries: Sequence[Entry], advance: Callable[[int], None] = lambda _: None) -> None:
    """One safetensors file, its header first and then each tensor as it is made."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for entry in entries:
        header[entry.key] = {"dtype": _NAMES[entry.dtype], "shape": entry.shape, "data_offsets": [at, at + entry.size]}
        at += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        for entry in entries:
            tensor = entry.make()
            if tuple(tensor.shape) != entry.shape or tensor.dtype != entry.dtype:
                raise RuntimeError(f"{entry.key}: made {tuple(tensor.shape)}, {tensor.dtype} instead of {entry.shape}")
            data = memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]
            for start in range(0, len(data), _BLOCK):
                opened.write(data[start : start + _BLOCK])
            advance(entry.size)
            del tensor, data


def _plan(source: Source, changes: Changes, dtype: torch.dtype | None) -> dict[str, list[Entry]]:
    """What goes into which shard: what was there, in its order, and new parameters where their siblings are."""
    planned: dict[str, list[Entry]] = {}
    for stored in source.stored:
        planned.setdefault(stored.file, []).append(_entry(source, stored, changes, dtype))
    held = {stored.name for stored in source.stored}
    for name, change in changes.items():
        if name not in held:
            sibling = source.find(change.copy_of or _sibling(name))
            planned[sibling.file].append(_new(source, name, change, sibling, dtype))
    return planned


def _entry(source: Source, stored: Stored, changes: Changes, dtype: torch.dtype | None) -> Entry:
    change = changes.get(stored.name)
    stored_dtype, shape = _as_stored(stored, dtype), stored.shape
    if change is None:
        return Entry(_key(stored), stored_dtype, shape, lambda: source.read(stored).to(stored_dtype))
    if change.copy_of is not None:  # a tied output matrix that is stored all the same
        original = source.find(change.copy_of)
        return Entry(_key(stored), stored_dtype, original.shape, lambda: source.read(original).to(stored_dtype))
    if not stored.dtype.is_floating_point or stored.dtype.itemsize < 2:
        raise UnsupportedError(
            f"{stored.key} in {source.folder} is stored as {stored.dtype}, which cannot be rewritten exactly; load the "
            "model in bfloat16 or float32, save it, and bake that"
        )
    return Entry(_key(stored), stored_dtype, shape, lambda: _made(source, source.read(stored), change, stored_dtype))


def _new(source: Source, name: str, change: Change, sibling: Stored, dtype: torch.dtype | None) -> Entry:
    kept = _as_stored(sibling, dtype)
    if change.copy_of is not None:
        return Entry(name, kept, sibling.shape, lambda: source.read(sibling).to(kept))
    assert change.fill is not None
    shape = change.fill
    return Entry(name, kept, shape, lambda: _made(source, torch.zeros(shape), change, kept))


def _made(source: Source, value: Tensor, change: Change, dtype: torch.dtype) -> Tensor:
    matrix = source.read(source.find(change.carried[0])) if change.carried is not None else None
    return change.apply(value, matrix).to(dtype)


def _as_stored(stored: Stored, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and stored.dtype.is_floating_point else stored.dtype


def _key(stored: Stored) -> str:
    """Its name in the new checkpoint: with the prefix of the base model, which some checkpoints leave out."""
    return stored.name if stored.name.endswith(f".{stored.key}") else stored.key


def _sibling(name: str) -> str:
    return f"{name.removesuffix('bias')}weight"
