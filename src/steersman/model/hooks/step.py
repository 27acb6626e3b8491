"""One forward pass: which of its tokens each part of a program touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...conditions import Schedule, When
from ...errors import BoundaryError
from ...operations.maps import Tokens
from ...positions import Positions, select
from .rows import Chunk, Row


@dataclass(frozen=True)
class Rule:
    """Which tokens an action touches, how strongly at each, and on what condition."""

    positions: Positions
    schedule: Schedule | None
    when: When | None


@dataclass(frozen=True)
class Signature:
    """The token side of a program's column: for each plan, which entry acts and by which rule.

    Columns of different layers that share it share the work of finding their tokens.
    """

    entries: tuple[int | None, ...]
    rules: tuple[Rule | None, ...]


@dataclass(eq=False)
class Touched:
    """The tokens a column acts on in one forward pass.

    Attributes:
        flat: indices into the flattened ``[rows * columns]`` tokens; None for all of them.
        entries: the entry that acts on each, or None if it is the same one for all.
        strengths: scheduled strength of each, ``[n, 1]``, or None.
        rows, positions: of each token, as lists.
    """

    flat: Tensor | None
    count: int
    only: int
    entries: Tensor | None
    strengths: Tensor | None
    rows: Sequence[int]
    positions: Sequence[int]

    def where(self, number: int) -> Tensor:
        """The indices, among the touched tokens, that entry ``number`` acts on."""
        assert self.entries is not None
        return (self.entries == number).nonzero().flatten()


class Step:
    """One forward pass of a run, as its hooks see it. Made before the first block, gone after the last."""

    def __init__(self, rows: list[Row], chunks: list[Chunk], columns: int, device: torch.device, reuse: Reuse) -> None:
        self.rows = rows
        self.chunks = chunks
        self.columns = columns
        self.device = device
        self._reuse = reuse
        self._touched: dict[Signature, Touched | None] = {}

    def touched(self, signature: Signature) -> Touched | None:
        """The tokens a column touches in this pass, or None."""
        if signature in self._touched:
            return self._touched[signature]
        found = self._find(signature)
        self._touched[signature] = found
        return found

    def selects(self, positions: Positions) -> bool:
        """Whether the positions select any token of this pass."""
        return any(
            len(select(row.spans(positions), chunk.start, chunk.stop)) > 0
            for row, chunk in zip(self.rows, self.chunks, strict=True)
        )

    def _find(self, signature: Signature) -> Touched | None:
        flat: list[int] = []
        entries: list[int] = []
        strengths: list[float] = []
        rows: list[int] = []
        positions: list[int] = []
        for number, (row, chunk) in enumerate(zip(self.rows, self.chunks, strict=True)):
            rule, entry = signature.rules[row.plan], signature.entries[row.plan]
            if rule is None or entry is None or not self._open(row, rule.when):
                continue
            for position in select(row.spans(rule.positions), chunk.start, chunk.stop):
                strength = 1.0
                if rule.schedule is not None:
                    strength = rule.schedule.at(position - row.prompt_length + 1)
                    if strength == 0:
                        continue
                flat.append(number * self.columns + chunk.columns[position - chunk.start])
                entries.append(entry)
                strengths.append(strength)
                rows.append(number)
                positions.append(position)
        if not flat:
            return None
        return self._reuse.touched(signature, self, flat, entries, strengths, rows, positions)

    @staticmethod
    def _open(row: Row, when: When | None) -> bool:
        if when is None:
            return True
        if when not in row.gates:
            raise BoundaryError(
                f"{row.label}: its condition was never read, the prompt having been run before this context was "
                "entered; enter it first"
            )
        return row.gates[when]

    def tokens(self, layer: int, component: str, positions: Positions, touched: Touched, chosen: Tensor | None) -> Tokens:
        """What a map that looks at its tokens gets to know of them."""
        which = range(touched.count) if chosen is None else chosen.tolist()
        rows = [touched.rows[i] for i in which]
        places = [touched.positions[i] for i in which]
        ranks = [
            sum(len(range(s.start, min(s.stop, place), s.step)) for s in self.rows[row].spans(positions) if s.start < place)
            for row, place in zip(rows, places, strict=True)
        ]
        return Tokens(layer, component, rows, places, ranks, [row.prompt for row in self.rows])


class Reuse:
    """Keeps the last index tensors, since decoding steps touch the same ones again and again."""

    def __init__(self) -> None:
        self._last: dict[Signature, tuple[tuple[object, ...], Touched]] = {}

    def touched(
        self,
        signature: Signature,
        step: Step,
        flat: list[int],
        entries: list[int],
        strengths: list[float],
        rows: list[int],
        positions: list[int],
    ) -> Touched:
        """The tokens as tensors on the step's device, made anew only when they changed."""
        key = (step.device, len(step.rows) * step.columns, *flat, *entries, *strengths)
        last = self._last.get(signature)
        if last is not None and last[0] == key:
            last[1].positions = positions
            return last[1]
        everything = len(flat) == len(step.rows) * step.columns
        several = len(set(entries)) > 1
        scheduled = any(strength != 1 for strength in strengths)
        with torch.inference_mode(False):
            found = Touched(
                None if everything else torch.tensor(flat, device=step.device),
                len(flat),
                entries[0],
                torch.tensor(entries, device=step.device) if several else None,
                torch.tensor(strengths, device=step.device)[:, None] if scheduled else None,
                rows,
                positions,
            )
        self._last[signature] = (key, found)
        return found
