"""Which tokens of a text an activation is read at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError

ReadLike = str | int


@dataclass(frozen=True)
class Read:
    """How a text is read: the last token, the mean over its tokens, or the token at an index.

    Attributes:
        kind: ``"last"``; ``"mean"``, over all but special tokens; ``"index"``.
        index: for ``"index"``: counted from the first token (special tokens included), or from the end if negative.
    """

    kind: str
    index: int = -1

    @classmethod
    def parse(cls, value: ReadLike) -> Read:
        """From ``"last"``, ``"mean"`` or an integer."""
        if isinstance(value, int) and not isinstance(value, bool):
            return cls("index", value)
        if value in ("last", "mean"):
            return cls(str(value))
        raise DataError(f'read={value!r}: use "last", "mean", or the index of a token')

    def __str__(self) -> str:
        return str(self.index) if self.kind == "index" else self.kind

    def tokens(self, ids: Sequence[int], special: frozenset[int], what: str) -> list[int]:
        """The indices of the tokens read.

        Raises:
            DataError: the index does not exist, or nothing but special tokens is there to average.
        """
        if self.kind == "last":
            return [len(ids) - 1]
        if self.kind == "mean":
            kept = [i for i, token in enumerate(ids) if token not in special]
            if not kept:
                raise DataError(f"{what} has no token but special ones, so there is nothing to average")
            return kept
        if not -len(ids) <= self.index < len(ids):
            raise DataError(f"{what} has {len(ids)} tokens, so none at index {self.index}")
        return [self.index % len(ids)]


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The ids of a tokenizer's special tokens."""
    return frozenset(getattr(tokenizer, "all_special_ids", None) or ())
