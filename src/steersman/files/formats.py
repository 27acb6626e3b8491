"""Which reader a foreign file belongs to, by its content first and its name second."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from ..errors import FileFormatError
from ..sites import DEEPEST, check_component
from . import container, control_vector, objects, probe_folder, steering_lite, svec, torch_vectors
from .foreign import Foreign, clean

log = logging.getLogger(__name__)


def is_native(path: str | Path) -> bool:
    """Whether a path is for the native reader: its own files, and whatever looks like no other library's."""
    source = Path(path)
    return not source.is_dir() and _reader_named(source) == "native"


def is_vector_folder(path: str | Path) -> bool:
    """Whether a folder holds the vector of another library, by the names of its files."""
    source = Path(path)
    return source.is_dir() and (probe_folder.is_folder(source) or torch_vectors.is_folder(source))


def read(path: str | Path, *, index_offset: int = 0, site: str | None = None) -> Foreign:
    """The vector of a foreign file or folder.

    Args:
        path: the file, or the folder of files.
        index_offset: added to the layers, where a file counts otherwise than it should.
        site: the component, where the file's own reading of it is wrong or missing.

    Raises:
        FileNotFoundError: when there is none.
        FileFormatError: it is damaged, hostile, or of no known format.
    """
    source = Path(path)
    found = _READERS[_reader_named(source)](source)
    if isinstance(index_offset, bool) or not isinstance(index_offset, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise FileFormatError(f"index_offset={index_offset!r} is no whole number")
    moved = {layer + index_offset: tensor for layer, tensor in found.directions.items()}
    if min(moved) < 0 or max(moved) > DEEPEST:
        raise FileFormatError(
            f"{source}: index_offset={index_offset} moves layer {min(found.directions)} to {min(moved)}; "
            "layers are counted from 0"
        )
    notes = (*found.notes, *(found.hints if site is None and index_offset == 0 else ()))
    for note in notes:
        log.warning("%s: %s", source.name, note)
    name = found.name or clean(source.stem if source.is_file() else source.resolve().name)
    facts = {"format": found.format, **found.facts}
    facts |= {"index_offset": index_offset} if index_offset else {}
    facts |= {"notes": list(notes)} if notes else {}
    where = found.site if site is None else check_component(site)
    return replace(found, directions=moved, site=where, name=name, facts=facts)


def from_object(found: object) -> Foreign:
    """A vector of another library that is in memory already; FileFormatError when it is none."""
    vector = objects.describe(found)
    return replace(vector, facts={"format": vector.format, **vector.facts})


def _reader_named(source: Path) -> str:
    if source.is_dir():
        if probe_folder.is_folder(source):
            return "probe"
        if torch_vectors.is_folder(source):
            return "layers"
        raise FileFormatError(
            f"the folder {source} holds no vector that is known by its name (vec_layer_<l>_<model>.pt, layer_<l>.pt, "
            "probe.json with probe.safetensors); give the file"
        )
    if not source.is_file():
        if source.exists():
            raise FileFormatError(f"{source} is neither a regular file nor a folder; give one of these")
        return "native"
    with source.open("rb") as opened:
        start = opened.read(4)
    if source.suffix == ".safetensors":  # first: the length it begins with can look like anything
        return "steering-lite" if steering_lite.is_metadata(container.metadata(source)) else "native"
    if start == b"GGUF" or source.suffix == ".gguf":
        return "gguf"
    if start == b"PK\x03\x04" or source.suffix in (".pt", ".pth", ".pkl", ".pickle") or start[:2] in _PICKLES:
        return "torch"
    return "svec" if source.suffix == ".svec" else "native"


_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_READERS = {
    "gguf": control_vector.read,
    "layers": torch_vectors.read_folder,
    "probe": probe_folder.read,
    "steering-lite": steering_lite.read,
    "svec": svec.read,
    "torch": torch_vectors.read,
}
