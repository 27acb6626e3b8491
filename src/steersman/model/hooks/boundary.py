"""Where the prompt ends and the generation begins, for forward passes whose caller does not say.

``generate`` and ``logits`` know it. For a plain call of the model inside a context:

- an empty cache means a prompt, and a later single token is generated;
- without a cache, ids that extend the previous call's by one continue it, and all else starts a new prompt;
- several tokens onto a filled cache could be either, and are refused for plans that need to know.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...errors import BoundaryError, MismatchError
from .rows import Chunk, FindMarker, Inputs, Row


@dataclass
class Sequences:
    """The rows of a batch under way: how many tokens of each the model has seen, and how many columns."""

    rows: list[Row]
    lengths: list[int]
    columns: int

    def advance(self, chunks: list[Chunk], columns: int) -> None:
        """Take note of a forward pass."""
        self.lengths = [max(chunk.stop, length) for chunk, length in zip(chunks, self.lengths, strict=True)]
        self.columns = columns

    def next_token(self) -> list[Chunk]:
        """One more token in every row."""
        return [Chunk(length, range(1)) for length in self.lengths]


class KnownBoundary:
    """Rows whose prompts the caller gave; a batch may hold each several times over (beams, return sequences)."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.sequences: Sequences | None = None

    def enter(self, inputs: Inputs) -> tuple[list[Row], list[Chunk], bool]:
        """The rows of this pass, their chunks, and whether a prompt begins with it."""
        count, columns = inputs.shape
        past = inputs.past
        if self.sequences is None or len(self.sequences.rows) != count:
            if count % len(self.rows):
                raise BoundaryError(f"a batch of {count} rows cannot be {len(self.rows)} prompts each repeated")
            each = count // len(self.rows)
            rows = [row for row in self.rows for _ in range(each)]
            self.sequences = Sequences(rows, [0] * count, 0)
        current = self.sequences
        fresh = past == 0 and current.columns == 0
        follows = past > 0 and columns == 1 and past == current.columns
        chunks = current.next_token() if follows else inputs.chunks(past)
        current.advance(chunks, past + columns)
        return current.rows, chunks, fresh

    def leave(self, cache: Any) -> None:
        """Nothing to remember: there is one batch only."""


class _Thread(threading.local):
    """The last call without a cache, and the call under way, of one thread."""

    def __init__(self) -> None:
        self.uncached: tuple[Tensor, Sequences] | None = None
        self.entered: Sequences | None = None


class GuessedBoundary:
    """Rows found out from the calls themselves."""

    def __init__(self, find_marker: FindMarker) -> None:
        self.find_marker = find_marker
        #: what the user said, for one or each row; whether the plan in force needs to know where prompts end
        self.prompt_length: int | Sequence[int] | None = None
        self.needed = True
        self._by_cache: WeakKeyDictionary[Any, Sequences] = WeakKeyDictionary()
        self._thread = _Thread()

    def enter(self, inputs: Inputs) -> tuple[list[Row], list[Chunk], bool]:
        """The rows of this pass, their chunks, and whether a prompt begins with it.

        Raises:
            BoundaryError: when it cannot be told and the plan needs to know.
        """
        _, columns = inputs.shape
        past = inputs.past
        chunks: list[Chunk] | None = None
        if past:
            sequences, fresh = self._onto_cache(inputs, past, columns), False
            if columns == 1 and sequences.columns == past:
                chunks = sequences.next_token()
        else:
            sequences, fresh = self._without_past(inputs)
        chunks = chunks or inputs.chunks(past)
        sequences.advance(chunks, past + columns)
        ids = inputs.ids if inputs.cache is None else None
        self._thread.uncached = None if ids is None else (ids, sequences)
        self._thread.entered = sequences
        return sequences.rows, chunks, fresh

    def leave(self, cache: Any) -> None:
        """Remember which rows the cache that the call returned belongs to."""
        if cache is not None and self._thread.entered is not None:
            self._by_cache[cache] = self._thread.entered
        self._thread.entered = None

    def _onto_cache(self, inputs: Inputs, past: int, columns: int) -> Sequences:
        known = self._by_cache.get(inputs.cache)
        if known is not None and len(known.rows) != inputs.shape[0]:
            known = None
        if columns > 1 and self.prompt_length is None and self.needed:
            raise BoundaryError(
                f"{columns} tokens were fed onto a cache of {past}: they may be prompt or generated, and this plan "
                "needs to know; say steer(plan, prompt_length=...), feed one token at a time, or use positions='all'"
            )
        return known or self._new(inputs, [chunk.start for chunk in inputs.chunks(past)])

    def _without_past(self, inputs: Inputs) -> tuple[Sequences, bool]:
        if inputs.cache is None and inputs.ids is not None and self._thread.uncached is not None:
            earlier, sequences = self._thread.uncached
            rows = _continued(earlier, inputs.ids, sequences.rows)
            if rows is not None:
                return Sequences(rows, sequences.lengths, sequences.columns), False
        return self._new(inputs, [chunk.stop for chunk in inputs.chunks(0)]), True

    def _new(self, inputs: Inputs, lengths: list[int]) -> Sequences:
        given = self.prompt_length
        if given is not None:
            listed = [given] * len(lengths) if isinstance(given, int) else list(given)
            if len(listed) != len(lengths):
                raise MismatchError(f"prompt_length names {len(listed)} rows, but the batch has {len(lengths)}")
            lengths = listed
        rows = [
            Row(length, _prompt_ids(inputs, number, length), self.find_marker, f"row {number} of the batch")
            for number, length in enumerate(lengths)
        ]
        return Sequences(rows, [0] * len(rows), 0)


Boundary = KnownBoundary | GuessedBoundary


def _prompt_ids(inputs: Inputs, row: int, length: int) -> Callable[[], tuple[int, ...] | None] | None:
    if inputs.ids is None or inputs.past:
        return None
    ids, chunks = inputs.ids, inputs.chunks

    def read() -> tuple[int, ...]:
        tokens = cast("list[int]", ids[row].tolist())
        return tuple(tokens[column] for column in chunks(0)[row].columns)[:length]

    return read


def _continued(earlier: Tensor, now: Tensor, rows: list[Row]) -> list[Row] | None:
    """The rows that ``now`` continues by one token each, in its order (beams are reordered), or None."""
    if now.dim() != 2 or earlier.dim() != 2 or now.shape[1] != earlier.shape[1] + 1 or len(now) != len(earlier):
        return None
    before = now[:, :-1]
    if torch.equal(before, earlier):
        return rows
    places = {tuple(cast("list[int]", row)): i for i, row in enumerate(earlier.tolist())}
    found = [places.get(tuple(cast("list[int]", row))) for row in before.tolist()]
    return None if any(i is None for i in found) else [rows[cast(int, i)] for i in found]
