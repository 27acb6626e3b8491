"""Labelled texts: what a probe is fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from .pairs import ContrastPairs, Example, check_example, field_of, read_csv, read_jsonl


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with a label each.

    Attributes:
        texts: texts, chats, or (prompt, response) tuples.
        labels: one for each, of two or more classes: texts, numbers or booleans.
        sources: of each, what it was made from; items of one source are never split between fitting and held-out
            measurement. None: each is a source of its own.
        name: what the labels are about.

    Raises:
        DataError: nothing, an item that is neither text nor a chat, or counts that differ.
    """

    texts: Sequence[Example]
    labels: Sequence[Any]
    sources: Sequence[str] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.texts:
            raise DataError("there is no text; give at least one of each class")
        for number, text in enumerate(self.texts):
            check_example(text, f"text {number}")
        for what, items in (("labels", self.labels), ("sources", self.sources)):
            if items is not None and len(items) != len(self.texts):
                raise DataError(f"{len(items)} {what} for {len(self.texts)} texts; give one for each")

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def from_pairs(cls, pairs: ContrastPairs) -> LabelledTexts:
        """Contrast pairs as two classes, ``"negative"`` and ``"positive"``; both texts of a pair are of one source."""
        positive, negative = pairs.groups()
        labels = ["positive"] * len(pairs.positive) + ["negative"] * len(pairs.negative)
        return cls([*pairs.positive, *pairs.negative], labels, [*positive, *negative], pairs.name)

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, Any]], *, origin: str = "the data", name: str | None = None
    ) -> LabelledTexts:
        """From mappings: ``text`` and ``label`` in each, at times ``source``; or contrast pairs, ``positive`` and
        ``negative``."""
        rows = list(records)
        if not rows:
            raise DataError(f"{origin} is empty")
        columns = set(rows[0])
        if {"positive", "negative"} <= columns:
            return cls.from_pairs(ContrastPairs.from_records(rows, origin=origin, name=name))
        if not {"text", "label"} <= columns:
            raise DataError(
                f"{origin} has the columns {', '.join(sorted(columns))}; it needs text and label, or positive and "
                "negative"
            )
        texts, labels = ([field_of(row, key, i, origin) for i, row in enumerate(rows)] for key in ("text", "label"))
        grouped = "source" in columns
        sources = [str(field_of(row, "source", i, origin)) for i, row in enumerate(rows)] if grouped else None
        return cls(texts, labels, sources, name)

    @classmethod
    def from_jsonl(cls, path: str | Path, *, name: str | None = None) -> LabelledTexts:
        """From a file with one JSON object per line; see :meth:`from_records` for the columns."""
        return cls.from_records(read_jsonl(path), origin=str(path), name=name)

    @classmethod
    def from_csv(cls, path: str | Path, *, name: str | None = None) -> LabelledTexts:
        """From a CSV file with a header; its labels are texts."""
        return cls.from_records(read_csv(path), origin=str(path), name=name)
