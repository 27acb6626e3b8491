"""Where each row of a batch is: how long its prompt was, and which of its tokens a forward pass holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...conditions import When
from ...errors import BoundaryError
from ...positions import Positions

#: (token ids, marker) -> index of the first token after the marker's last occurrence, or None
FindMarker = Callable[[Sequence[int], str], int | None]


@dataclass(eq=False)
class Row:
    """One prompt and what follows it.

    Attributes:
        prompt_length: its tokens, padding not counted.
        ids: its token ids, or None when the model was fed embeddings; a callable is asked once, on demand.
        label: what messages call it.
        plan: index of the plan that steers it.
        gates: for each condition, whether it held.
    """

    prompt_length: int
    ids: tuple[int, ...] | Callable[[], tuple[int, ...] | None] | None
    find_marker: FindMarker
    label: str
    plan: int = 0
    gates: dict[When, bool] = field(default_factory=lambda: {})
    _spans: dict[Positions, tuple[range, ...]] = field(default_factory=lambda: {})

    @property
    def prompt(self) -> tuple[int, ...] | None:
        """The prompt's token ids, if they are known."""
        if callable(self.ids):
            self.ids = self.ids()
        return self.ids

    def spans(self, positions: Positions) -> tuple[range, ...]:
        """The absolute positions meant in this row; NotAppliedError if a term selects none of its prompt."""
        found = self._spans.get(positions)
        if found is None:
            found = positions.resolve(self.prompt_length, self._marker_end, self.label)
            self._spans[positions] = found
        return found

    def _marker_end(self, marker: str) -> int | None:
        if self.prompt is None:
            raise BoundaryError(f"after({marker!r}) looks for text, but the model was fed embeddings; give input_ids")
        return self.find_marker(self.prompt, marker)


@dataclass
class Chunk:
    """The tokens of one row that a forward pass holds: absolute positions ``start ..`` in these columns."""

    start: int
    columns: Sequence[int]

    @property
    def stop(self) -> int:
        """One past the last absolute position."""
        return self.start + len(self.columns)


@dataclass
class Inputs:
    """What the decoder is called with, by name."""

    ids: Tensor | None
    embeddings: Tensor | None
    mask: Any
    positions: Tensor | None
    cache: Any

    @classmethod
    def of(cls, names: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        """From the arguments of a call whose parameters are called ``names``."""
        given = dict(zip(names, args, strict=False)) | kwargs
        return cls(
            given.get("input_ids"),
            given.get("inputs_embeds"),
            given.get("attention_mask"),
            given.get("position_ids"),
            given.get("past_key_values"),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        tensor = self.ids if self.ids is not None else self.embeddings
        if tensor is None:
            raise BoundaryError("the model was called with neither input_ids nor inputs_embeds")
        return tensor.shape[0], tensor.shape[1]

    @property
    def past(self) -> int:
        """Columns already in the cache."""
        return 0 if self.cache is None else int(self.cache.get_seq_length())

    def chunks(self, past: int) -> list[Chunk]:
        """For each row, which columns hold real tokens and where they stand in its sequence.

        From the two-dimensional attention mask where there is one. Static caches hand the decoder a finished
        four-dimensional mask; then from the position ids, whose last zero marks a row's first token.
        """
        rows, columns = self.shape
        if isinstance(self.mask, Tensor) and self.mask.dim() == 2:
            return _from_mask(self.mask, past, columns)
        if self.mask is None or self.positions is None:
            return [Chunk(past, range(columns)) for _ in range(rows)]
        found = self.positions.expand(rows, columns).tolist()
        return [_from_positions(row, past) for row in found]


def _from_mask(mask: Tensor, past: int, columns: int) -> list[Chunk]:
    real = mask.to(dtype=torch.bool, device="cpu")
    before = real[:, :past].sum(1).tolist() if past else [0] * len(real)
    here = real[:, past : past + columns]
    if bool(here.all()):
        return [Chunk(start, range(columns)) for start in before]
    chunks: list[Chunk] = []
    for start, row in zip(before, here, strict=True):
        kept: list[int] = row.nonzero().flatten().tolist()
        whole = bool(kept) and kept[-1] - kept[0] + 1 == len(kept)
        chunks.append(Chunk(start, range(kept[0], kept[-1] + 1) if whole else kept))
    return chunks


def _from_positions(row: list[int], past: int) -> Chunk:
    if past:
        return Chunk(row[0], range(len(row)))
    first = len(row) - 1 - row[::-1].index(0) if 0 in row else 0
    return Chunk(0, range(first, len(row)))
