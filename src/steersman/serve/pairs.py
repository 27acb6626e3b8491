"""The contrast pairs that vectors were extracted from, by the content of the vector: for what is shown about them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..data import ContrastPairs
from ..files.atomic import replacing
from .errors import ApiError

_DIGEST = re.compile(r"sha256-[0-9a-f]{64}")


class PairStore:
    """A folder of small JSON files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def put(self, digest: str, pairs: ContrastPairs, read: Any) -> None:
        """Keep the pairs of a vector, and where they were read."""
        document = {
            "positive": list(pairs.positive), "negative": list(pairs.negative), "name": pairs.name, "read": read,
            "paired": pairs.paired,
        }  # fmt: skip
        with replacing(self._path(digest)) as temporary:
            temporary.write_text(json.dumps(document), encoding="utf-8")

    def get(self, digest: str) -> tuple[ContrastPairs, Any]:
        """The pairs of a vector, and where they were read.

        Raises:
            ApiError: 409 when the server does not have them.
        """
        try:
            found = json.loads(self._path(digest).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ApiError(
                409,
                "not_measured",
                "the server does not have the pairs this vector was extracted from; extract it here",
            ) from None
        pairs = ContrastPairs(positive=found["positive"], negative=found["negative"], name=found["name"])
        read = found["read"]
        return pairs, int(read) if isinstance(read, str) and re.fullmatch(r"-?\d+", read) else read

    def has(self, digest: str) -> bool:
        """Whether the pairs of a vector are there."""
        return self._path(digest).is_file()

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ApiError(400, "invalid_value", f"{digest[:80]!r} is no digest")
        return self._folder / f"{digest}.json"
