"""Files of ``torch.save``: a zip archive of a pickle and the raw numbers it speaks of.

The archive's directory is checked first (nothing compressed, nothing twice, no more bytes than the file has), then the
pickle (:mod:`.torch_pickle`), and what was checked, no more, is put into a fresh archive in memory and given to
``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import FileFormatError
from . import torch_pickle
from .foreign import shown, size_of

MAX_ENTRIES = 5000
Content = Tensor | dict[Any, Tensor]


def read(path: Path) -> Content:
    """The tensor, or the dict of tensors, that a file of ``torch.save`` holds.

    Raises:
        FileFormatError: it holds anything else, declares more than it holds, or is no such file.
    """
    size = size_of(path)
    with path.open("rb") as opened:
        start = opened.read(4)
    if start[:1] == b"\x80":
        raise FileFormatError(
            f"{path} is a plain pickle (or was saved by a PyTorch before 1.6), and loading it would run whatever code "
            "it brings; load it where you trust it and save its tensors with torch.save"
        )
    if start != b"PK\x03\x04":
        raise FileFormatError(f"{path} is no file of torch.save: it does not begin as a zip archive")
    try:
        entries = _entries(path, size)
        archive = _copy(path, entries)
        loaded = torch.load(archive, map_location="cpu", weights_only=True)
    except FileFormatError:
        raise
    except Exception as error:  # a damaged archive fails in zipfile and torch in many ways; the file is to blame
        raise FileFormatError(f"{path} is damaged: {type(error).__name__}: {str(error)[:200]}") from error
    return cast(Content, loaded)


def _entries(path: Path, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by their name below the archive's folder."""
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    if len(infos) > MAX_ENTRIES:
        raise FileFormatError(f"{path} holds {len(infos)} entries; more than {MAX_ENTRIES} are refused")
    if any(info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size for info in infos):
        raise FileFormatError(f"{path} is a compressed archive; torch.save does not compress")
    if sum(info.file_size for info in infos) > size:
        raise FileFormatError(f"{path} declares more bytes than it has: {sum(info.file_size for info in infos)}")
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        folder, _, name = info.filename.partition("/")
        if not folder or folder != infos[0].filename.partition("/")[0] or name.casefold() in found or not name:
            raise FileFormatError(f"{path} is no file of torch.save: it has an entry {shown(info.filename)}")
        found[name.casefold()] = info
    if "data.pkl" not in found or "constants.pkl" in found:
        raise FileFormatError(f"{path} is a zip archive, but no file of torch.save with tensors (no data.pkl)")
    return found


def _copy(path: Path, entries: dict[str, zipfile.ZipInfo]) -> io.BytesIO:
    """The pickle, checked, and its storages in an archive of our own."""
    records = {name.removeprefix("data/"): info for name, info in entries.items() if name.startswith("data/")}
    if entries["data.pkl"].file_size > torch_pickle.MAX_PICKLE:
        raise FileFormatError(f"{path} holds a pickle of {entries['data.pkl'].file_size} bytes: no vector")
    memory = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(memory, "w") as fresh:
        pickle = archive.read(entries["data.pkl"])
        torch_pickle.check(pickle, {key: info.file_size for key, info in records.items()}, path)
        fresh.writestr("archive/data.pkl", pickle)
        fresh.writestr("archive/version", b"3\n")
        fresh.writestr("archive/byteorder", archive.read(entries["byteorder"]) if "byteorder" in entries else b"little")
        for key, info in records.items():
            fresh.writestr(f"archive/data/{key}", archive.read(info))
    memory.seek(0)
    return memory
