"""The folder of a server: the vectors that requests name, and the presets over them.

Vectors are kept by the same registry, in the same files, as the vLLM engine reads: both may be given one folder.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import spec
from ..errors import FileFormatError, SpecError
from ..files.atomic import replacing
from ..registry import Registry
from ..shape import ModelShape
from ..vector import SteeringVector
from .errors import ApiError, missing

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Vectors:
    """Named vectors, one writer at a time. All of it may be called from several threads."""

    def __init__(self, folder: Path, shape: ModelShape) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.shape = shape
        self.registry = Registry(folder)
        self._lock = threading.RLock()

    def names(self) -> list[str]:
        """The names there are, sorted."""
        return self.registry.names()

    def digests(self, names: Any) -> dict[str, str]:
        """What each name stands for now, as ``sha256-<hex>``.

        Raises:
            ApiError: 404 for a name that stands for nothing.
        """
        with self._lock:
            return {name: self._digest(name) for name in names}

    def _digest(self, name: str) -> str:
        try:
            return self.registry.digest(name)
        except SpecError:
            raise missing("vector", name, self.names(), "steering") from None

    def entry(self, digest: str) -> Any:
        """The vector (or tensor, values, eraser) of a digest or a name."""
        with self._lock:
            return self.registry[digest]

    def vector(self, name: str) -> SteeringVector:
        """A steering vector by name.

        Raises:
            ApiError: 404 for a name that stands for nothing, 400 for one that is no steering vector.
        """
        entry = self.entry(self.digests([name])[name])
        if not isinstance(entry, SteeringVector):
            raise ApiError(400, "invalid_vector", f"{name!r} holds a {type(entry).__name__}, no steering vector")
        return entry

    def put(self, name: str, content: bytes) -> dict[str, Any]:
        """Store an uploaded file under a name, in place of what it stood for.

        Raises:
            SteersmanError: a name that is none; a file that is damaged, hostile, or does not fit the model.
        """
        with self._lock:
            self._check(name, content)
            self.registry.put(name, content)
            return self.describe(name)

    def _check(self, name: str, content: bytes) -> None:
        """Refuse what would not fit the model, before the name stands for it."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            there = Registry(folder)
            there.put(name, content)
            entry = there[name]
        if isinstance(entry, SteeringVector):
            entry.check(self.shape)

    def save(self, name: str, vector: SteeringVector) -> str:
        """Store a vector of the server's own making; returns its digest."""
        with self._lock:
            vector.save(self.registry.folder / f"{checked_name(name, 'vector')}.safetensors")
            return self.registry.digest(name)

    def delete(self, name: str) -> None:
        """Forget a name; requests that use it finish."""
        with self._lock:
            try:
                self.registry.delete(name)
            except SpecError:
                raise missing("vector", name, self.names()) from None

    def describe(self, name: str) -> dict[str, Any]:
        """What is known of a vector, as JSON-able values; of one whose file is damaged, what is wrong."""
        with self._lock:
            try:
                return self.registry.describe(name, self.shape)
            except FileFormatError as error:
                return {"name": name, "object": "vector", "error": str(error)}
            except SpecError:
                raise missing("vector", name, self.names()) from None


class Presets:
    """Named steering, each a small JSON file: ``demo:happy`` as a model."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def names(self) -> list[str]:
        """The names there are, sorted."""
        return sorted(p.stem for p in self.folder.glob("*.json") if _NAME.fullmatch(p.stem))

    def get(self, name: str) -> Any:
        """The steering of a preset, as a request would say it; None if there is no such preset."""
        if not _NAME.fullmatch(name):
            return None
        try:
            return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))["steering"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(f"the preset {name!r} is damaged: {error}; put it anew") from None

    def put(self, name: str, steering: Mapping[str, Any]) -> None:
        """Store steering under a name."""
        with replacing(self.folder / f"{checked_name(name, 'preset')}.json") as temporary:
            temporary.write_text(json.dumps({"steering": spec.validate(steering).model_dump(
                mode="json", exclude_unset=True)}, indent=1) + "\n", encoding="utf-8")  # fmt: skip

    def delete(self, name: str) -> None:
        """Forget a preset."""
        try:
            (self.folder / f"{checked_name(name, 'preset')}.json").unlink()
        except FileNotFoundError:
            raise missing("preset", name, self.names()) from None


def checked_name(name: str, what: str) -> str:
    """A name that can be a file's; ApiError for any other."""
    if not _NAME.fullmatch(name):
        raise ApiError(
            400, "invalid_name",
            f"{name[:140]!r} is no name of a {what}; a name has letters, digits, '.', '_' and '-', begins with a "
            "letter or digit, and has at most 128 characters",
        )  # fmt: skip
    return name
