"""The vectors that requests name: a folder of safetensors files, one a name.

A name stands for whatever its file holds when a request arrives. That content is kept under its digest beside the
files, and it is the digest that goes to the workers and into the keys of the prefix cache: a file may be replaced while
requests that use the old one are running, and none of them mixes the two.

The folder must be visible to every process of the engine, on all its nodes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .entries import Entry, entry_from, entry_parts
from .errors import FileFormatError, SpecError, SteersmanError, UnknownVectorError
from .files import container
from .files.atomic import replacing
from .shape import ModelShape
from .vector import SteeringVector

#: The kind of a native file that holds a tensor, values or an eraser rather than a steering vector.
KIND = "entry"
#: No upload is larger.
MAX_BYTES = 256 * 1024 * 1024
#: What begins a name that is a digest.
BY_DIGEST = "sha256-"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(rf"{BY_DIGEST}[0-9a-f]{{64}}")
_SUFFIX = ".safetensors"
_KEPT = ".kept"
_REMEMBERED = 256


class _Seen(NamedTuple):
    """A file as it was when it was read."""

    modified: int
    size: int
    inode: int


class Registry(Mapping[str, Any]):
    """Named entries of a folder; as a mapping, from names or digests to vectors, tensors, values and erasers."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._digests: dict[str, tuple[_Seen, str]] = {}
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    # -- names --------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The names there are, sorted; files of other names or kinds are passed over."""
        if not self.folder.is_dir():
            return []
        found = (path.name.removesuffix(_SUFFIX) for path in self.folder.glob(f"*{_SUFFIX}") if path.is_file())
        return sorted(name for name in found if _NAME.fullmatch(name))

    def digest(self, name: str) -> str:
        """``sha256-<hex>`` of what a name stands for now; its content is kept from then on.

        Raises:
            SpecError: a name that is none, or (UnknownVectorError) that there is no file for.
            FileFormatError: the file is damaged, hostile, or holds no vector.
        """
        if _DIGEST.fullmatch(name):
            self[name]
            return name
        path = self._path(name)
        try:
            status = path.stat()
        except OSError:
            raise UnknownVectorError(self._unknown(name)) from None
        seen = _Seen(status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._digests.get(name)
        if known is None or known[0] != seen or not self._kept(known[1]).is_file():
            known = self._digests[name] = seen, self._keep(path.read_bytes(), name)
        return known[1]

    def put(self, name: str, content: bytes) -> str:
        """Store a file under a name, in place of what it stood for; returns its digest.

        Raises:
            SpecError: a name that is none.
            FileFormatError: it is too large, damaged, or holds no vector; nothing is stored then.
        """
        path = self._path(name)
        if len(content) > MAX_BYTES:
            raise FileFormatError(f"{name!r} has {len(content)} bytes; more than {MAX_BYTES} are refused")
        digest = self._keep(content, name)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        return digest

    def delete(self, name: str) -> None:
        """Forget a name. Requests that use it finish; UnknownVectorError when there is none."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise UnknownVectorError(self._unknown(name)) from None
        self._digests.pop(name, None)

    def store(self, entry: Entry) -> str:
        """Keep a vector, tensor, values or eraser under no name; returns its digest."""
        digest = content_digest(entry)
        if not self._kept(digest).is_file():
            kind, parts = KIND, entry_parts(entry)
            if isinstance(entry, SteeringVector):
                kind, parts = "steering vector", entry.parts()
            self._kept(digest).parent.mkdir(parents=True, exist_ok=True)
            container.write(self._kept(digest), kind, *parts)
        self._remember(digest, entry)
        return digest

    def describe(self, name: str, shape: ModelShape) -> dict[str, Any]:
        """What is known of a name, and whether it fits a model, as JSON-able values."""
        digest = self.digest(name)
        entry = self[digest]
        found: dict[str, Any] = {"name": name, "object": "vector", "digest": digest, "type": type(entry).__name__}
        for fact in ("layers", "layer", "site", "d_model", "method"):
            value = getattr(entry, fact, None)
            if value is not None:
                found[fact] = list(value) if isinstance(value, tuple) else value
        origin = getattr(entry, "origin", None)
        found |= {"model": origin.model} if origin else {}
        if not isinstance(entry, SteeringVector):
            return found
        return found | {
            "fits": _fits(entry, shape),
            "norms": {str(layer): norm for layer, norm in entry.norms.items()},
            "gap": {str(layer): gap for layer, gap in entry.gap.items()},
            "quality": entry.quality,
            "metadata": entry.metadata,
        }

    def described(self, shape: ModelShape) -> list[dict[str, Any]]:
        """Every name; one whose file is damaged is listed with what is wrong."""
        found: list[dict[str, Any]] = []
        for name in self.names():
            try:
                found.append(self.describe(name, shape))
            except (FileFormatError, SpecError) as error:
                found.append({"name": name, "object": "vector", "error": str(error)})
        return found

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise SpecError(
                f"{name[:140]!r} is no name of a vector; a name has letters, digits, '.', '_' and '-', begins with a "
                "letter or digit, and has at most 128 characters"
            )
        return self.folder / f"{name}{_SUFFIX}"

    def _unknown(self, name: str) -> str:
        names = self.names()
        close = get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names) or 'none'}"
        return f"no vector named {name!r}; {hint}"

    def path(self, name: str) -> Path:
        """The file of a name; UnknownVectorError when there is none."""
        found = self._path(name)
        if not found.is_file():
            raise UnknownVectorError(self._unknown(name))
        return found

    # -- contents -----------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Entry:
        """The entry of a name, or of a digest that was given out before."""
        digest = name if _DIGEST.fullmatch(name) else self.digest(name)
        if digest not in self._entries:
            path = self._kept(digest)
            if not path.is_file():
                raise SpecError(f"nothing is kept under {digest} in {self.folder}")
            entry = _read(path)
            if content_digest(entry) != digest:
                raise FileFormatError(f"{path} is not what its name says; it was changed or damaged: delete it")
            self._remember(digest, entry)
        self._entries.move_to_end(digest)
        return self._entries[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _kept(self, digest: str) -> Path:
        return self.folder / _KEPT / f"{digest}{_SUFFIX}"

    def _keep(self, content: bytes, name: str) -> str:
        folder = self.folder / _KEPT
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".{secrets.token_hex(8)}{_SUFFIX}"
        try:
            trial.write_bytes(content)
            try:
                entry = _read(trial)
            except FileFormatError as error:
                raise FileFormatError(str(error).replace(str(trial), f"{name!r}")) from None
            digest = content_digest(entry)
            os.replace(trial, self._kept(digest))
        finally:
            trial.unlink(missing_ok=True)
        self._remember(digest, entry)
        return digest

    def _remember(self, digest: str, entry: Entry) -> None:
        self._entries[digest] = entry
        while len(self._entries) > _REMEMBERED:
            self._entries.popitem(last=False)


def content_digest(entry: Entry) -> str:
    """``sha256-<hex>`` over all that an entry says: two files that say the same, in whatever order, have the same."""
    tensors, document = entry_parts(entry)
    hasher = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().to("cpu", torch.float32).contiguous()
        hasher.update(f"{name}/{tuple(plain.shape)}".encode())
        hasher.update(plain.numpy().tobytes())
    return f"{BY_DIGEST}{hasher.hexdigest()}"


def _fits(vector: SteeringVector, shape: ModelShape) -> bool:
    try:
        vector.check(shape)
    except SteersmanError:
        return False
    return True


def _read(path: Path) -> Entry:
    """The entry of a native file."""
    if container.metadata(path).get("kind") == KIND:
        return entry_from(*container.read(path, KIND))
    return SteeringVector.from_parts(*container.read(path, "steering vector"))
