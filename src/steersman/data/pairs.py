"""Contrast pairs: examples with and without what a direction is to capture."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..errors import DataError

#: A prompt (a text or a chat) and the text of the response to it.
Continued = tuple[str | Sequence[Mapping[str, Any]], str]
#: A text, a chat as a list of {"role", "content"}, or a (prompt, response) tuple.
Example = str | Sequence[Mapping[str, Any]] | Continued

_POSITIVE_LABELS = ("1", "positive", "pos", "true", "yes")
_NEGATIVE_LABELS = ("0", "-1", "negative", "neg", "false", "no")


@dataclass(frozen=True)
class ContrastPairs:
    """Positive and negative examples.

    Equally many are pairs, the n-th with the n-th, unless ``paired=False``; unequal numbers are two classes.

    Attributes:
        positive, negative: texts, chats, or (prompt, response) tuples.
        paired: whether they go together one by one.
        sources: of each item, what it was made from (a template, a question); items of one source are never split
            between fitting and held-out measurement. By default each pair (or example) is a source of its own.
        name: what to call the direction.

    Raises:
        DataError: nothing on a side, an item that is neither text nor a chat, or ``paired=True`` of unequal numbers.
    """

    positive: Sequence[Example]
    negative: Sequence[Example]
    paired: bool | None = None
    sources: Sequence[str] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for side in ("positive", "negative"):
            items = getattr(self, side)
            if isinstance(items, str) or not isinstance(items, Iterable):
                raise DataError(f"{side}= takes a list of texts or chats, got {type(items).__name__}")
            own = tuple(cast("Iterable[Example]", items))
            if not own:
                raise DataError(f"there is no {side} example; give at least one on each side")
            for number, item in enumerate(own):
                check_example(item, f"{side} example {number}")
            object.__setattr__(self, side, own)
        equal = len(self.positive) == len(self.negative)
        if self.paired and not equal:
            raise DataError(
                f"{len(self.positive)} positive and {len(self.negative)} negative examples cannot be pairs; make them "
                "equally many, or leave paired= out to treat them as two classes"
            )
        object.__setattr__(self, "paired", equal if self.paired is None else self.paired)
        self._check_sources()

    def _check_sources(self) -> None:
        if self.sources is None:
            return
        need = len(self.positive) + (0 if self.paired else len(self.negative))
        if len(self.sources) != need:
            per = "one per pair" if self.paired else "one per example, the positive ones first"
            raise DataError(f"{len(self.sources)} sources for {need} items; give {per}")
        object.__setattr__(self, "sources", tuple(str(source) for source in self.sources))

    def __len__(self) -> int:
        """The number of pairs, or of examples on the smaller side."""
        return min(len(self.positive), len(self.negative))

    def groups(self) -> tuple[list[str], list[str]]:
        """The source of each positive and each negative example."""
        if self.paired:
            own = list(self.sources or [str(i) for i in range(len(self.positive))])
            return own, own
        if self.sources is not None:
            return list(self.sources[: len(self.positive)]), list(self.sources[len(self.positive) :])
        return [f"+{i}" for i in range(len(self.positive))], [f"-{i}" for i in range(len(self.negative))]

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, Any]], *, origin: str = "the data", **options: Any
    ) -> ContrastPairs:
        """From mappings: either ``positive`` and ``negative`` in each (pairs), or ``text`` and ``label`` (two classes).

        A ``source`` column, if there is one, groups items. Labels are 1/0, positive/negative, true/false.
        """
        rows = list(records)
        if not rows:
            raise DataError(f"{origin} is empty")
        columns = set(rows[0])
        if {"positive", "negative"} <= columns:
            pairs = [
                (field_of(r, "positive", i, origin), field_of(r, "negative", i, origin)) for i, r in enumerate(rows)
            ]
            sources = [str(r["source"]) for r in rows] if "source" in columns else None
            return cls([p for p, _ in pairs], [n for _, n in pairs], paired=True, sources=sources, **options)
        if {"text", "label"} <= columns:
            return cls._from_labelled(rows, "source" in columns, origin, options)
        raise DataError(
            f"{origin} has the columns {', '.join(sorted(columns))}; it needs positive and negative, or text and label"
        )

    @classmethod
    def _from_labelled(
        cls, rows: list[Mapping[str, Any]], sourced: bool, origin: str, options: dict[str, Any]
    ) -> ContrastPairs:
        sides: dict[bool, list[Example]] = {True: [], False: []}
        sources: dict[bool, list[str]] = {True: [], False: []}
        for number, row in enumerate(rows):
            side = _is_positive(field_of(row, "label", number, origin), number, origin)
            sides[side].append(field_of(row, "text", number, origin))
            if sourced:
                sources[side].append(str(field_of(row, "source", number, origin)))
        grouped = [*sources[True], *sources[False]] if sourced else None
        return cls(sides[True], sides[False], paired=False, sources=grouped, **options)

    @classmethod
    def from_jsonl(cls, path: str | Path, **options: Any) -> ContrastPairs:
        """From a file with one JSON object per line; see :meth:`from_records` for the columns."""
        return cls.from_records(read_jsonl(path), origin=str(path), **options)

    @classmethod
    def from_csv(cls, path: str | Path, **options: Any) -> ContrastPairs:
        """From a CSV file with a header; see :meth:`from_records` for the columns."""
        return cls.from_records(read_csv(path), origin=str(path), **options)

    @classmethod
    def from_dataset(cls, dataset: Iterable[Mapping[str, Any]], **options: Any) -> ContrastPairs:
        """From a Hugging Face dataset (one split), or anything that iterates over mappings."""
        return cls.from_records(dataset, origin="the dataset", **options)


def read_jsonl(path: str | Path) -> list[Mapping[str, Any]]:
    """The objects of a JSON-lines file; DataError names the line that is none."""
    source = _existing(path)
    rows: list[Mapping[str, Any]] = []
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{source}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{source}, line {number} is no JSON object")
        rows.append(cast("dict[str, Any]", row))
    return rows


def read_csv(path: str | Path) -> list[Mapping[str, Any]]:
    """The rows of a CSV file with a header."""
    source = _existing(path)
    try:
        with source.open(newline="", encoding="utf-8-sig") as opened:
            return [dict(row) for row in csv.DictReader(opened, strict=True)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{source} is no CSV file: {error}") from error


def _existing(path: str | Path) -> Path:
    source = Path(path)
    if not source.is_file():
        raise DataError(f"there is no file {source}")
    return source


def field_of(row: Mapping[str, Any], name: str, number: int, origin: str) -> Any:
    """What a row says under a name; DataError if that is nothing."""
    if row.get(name) in (None, ""):
        raise DataError(f"{origin}: item {number} has no {name}")
    return row[name]


def _is_positive(label: object, number: int, origin: str) -> bool:
    text = str(label).strip().lower()
    if text in _POSITIVE_LABELS:
        return True
    if text in _NEGATIVE_LABELS:
        return False
    raise DataError(f"{origin}: item {number} has the label {label!r}; use 1 and 0, or positive and negative")


def is_continued(item: object) -> bool:
    """Whether an example is a (prompt, response) tuple: a tuple, not a list, of a text or a chat and a text."""
    if not isinstance(item, tuple) or len(cast("tuple[object, ...]", item)) != 2:
        return False
    prompt, response = cast("tuple[object, object]", item)
    return isinstance(response, str) and isinstance(prompt, str | Sequence)


def check_example(item: object, what: str) -> None:
    """Raise DataError unless an item is a text, a chat or a (prompt, response) tuple, and not empty."""
    if is_continued(item):
        prompt, response = cast(Continued, item)
        check_example(prompt, f"the prompt of {what}")
        check_example(response, f"the response of {what}")
        return
    if isinstance(item, str):
        if not item.strip():
            raise DataError(f"{what} is empty")
        return
    chat = isinstance(item, Sequence) and not isinstance(item, bytes) and len(cast("Sequence[object]", item)) > 0
    if not chat or not all(
        isinstance(m, Mapping) and {"role", "content"} <= set(cast("Mapping[str, Any]", m))
        for m in cast("Sequence[object]", item)
    ):
        raise DataError(
            f"{what} is a {type(item).__name__}; it must be a text, a (prompt, response) tuple, or a chat: a list of "
            '{"role": ..., "content": ...}'
        )
