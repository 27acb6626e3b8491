"""What a long study has measured already, in memory and in a file that is added to line by line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import MismatchError


class Finished:
    """Values by name, each computed once; with a file, once over all runs of the same study.

    Args:
        path: a ``.jsonl`` file, or None to keep them in memory only.
        settings: of the study.

    Raises:
        MismatchError: the file holds a study with other settings.
    """

    def __init__(self, path: str | Path | None, settings: Mapping[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        self._known: dict[str, Any] = {}
        plain = json.loads(json.dumps(settings))
        if self._path is not None and self._path.exists() and self._path.stat().st_size:
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # a line cut off in writing is measured again
            first = json.loads(whole[0])["settings"] if whole else plain
            differ = sorted(key for key in {*first, *plain} if first.get(key) != plain.get(key))
            if differ:
                raise MismatchError(
                    f"{path} was measured with other settings ({', '.join(differ)} differ); give another file"
                )
            self._known = {entry["key"]: entry["value"] for entry in map(json.loads, whole[1:])}
            if len(whole) < len(lines):
                self._path.write_text("".join(whole), encoding="utf-8")
        if self._path is not None and (not self._path.exists() or not self._path.stat().st_size):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps({"settings": plain}) + "\n", encoding="utf-8")

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """A value, computed and written down the first time."""
        if key not in self._known:
            self.put(key, compute())
        return self._known[key]

    def put(self, key: str, value: Any) -> None:
        """Write a value down, unless one is there."""
        if key in self._known:
            return
        self._known[key] = value.tolist() if isinstance(value, np.ndarray | Tensor) else value
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps({"key": key, "value": self._known[key]}) + "\n")
