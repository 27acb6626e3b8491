"""One forward pass: which of its tokens each part of a program touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...conditions import Schedule, When
from ...errors import BoundaryError
from ...operations.maps import Tokens
from ...positions import ENDLESS, Positions, select
from .rows import Chunk, Row


@dataclass(frozen=True)
class Rule:
    """Which tokens an action touches, how strongly at each, and on what condition."""

    positions: Positions
    schedule: Schedule | None
    when: When | None


@dataclass(frozen=True, eq=False)
class Signature:
    """The token side of a program's column: for each plan, which entry acts and by which rule.

    Columns of different layers that share it share the work of finding their tokens; a program makes each only once.
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
        rows: of each token.
        offsets: of each token, how far it stands behind the first one of its row in this pass.
    """

    flat: Tensor | None
    count: int
    only: int
    entries: Tensor | None
    strengths: Tensor | None
    rows: Sequence[int]
    offsets: Sequence[int]

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
        self._touched: dict[Signature, Touched | None] = {}
        self._reuse = reuse
        reuse.begin(self)

    def touched(self, signature: Signature) -> Touched | None:
        """The tokens a column touches in this pass, or None."""
        if signature not in self._touched:
            known, found = self._reuse.recall(signature)
            self._touched[signature] = found if known else self._find(signature)
        return self._touched[signature]

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
        offsets: list[int] = []
        steady = ENDLESS if self.columns == 1 else 0
        for number, (row, chunk) in enumerate(zip(self.rows, self.chunks, strict=True)):
            rule, entry = signature.rules[row.plan], signature.entries[row.plan]
            if rule is None or entry is None:
                continue
            spans = row.spans(rule.positions)
            steady = min(steady, _unchanged(spans, rule.schedule, chunk.start, row.prompt_length) if steady else 0)
            selected = select(spans, chunk.start, chunk.stop)
            # Asked only of rows with a token here: a condition may be read above where its plan acts on later tokens.
            if not selected or not self._open(row, rule.when):
                continue
            for position in selected:
                strength = 1.0
                if rule.schedule is not None:
                    strength = rule.schedule.at(position - row.prompt_length + 1)
                    if strength == 0:
                        continue
                flat.append(number * self.columns + chunk.columns[position - chunk.start])
                entries.append(entry)
                strengths.append(strength)
                rows.append(number)
                offsets.append(position - chunk.start)
        found = self._as_tensors(flat, entries, strengths, rows, offsets) if flat else None
        self._reuse.keep(signature, found, steady)
        return found

    def _as_tensors(
        self, flat: list[int], entries: list[int], strengths: list[float], rows: list[int], offsets: list[int]
    ) -> Touched:
        everything = len(flat) == len(self.rows) * self.columns
        several = len(set(entries)) > 1
        scheduled = any(strength != 1 for strength in strengths)
        with torch.inference_mode(False):
            return Touched(
                None if everything else torch.tensor(flat, device=self.device),
                len(flat),
                entries[0],
                torch.tensor(entries, device=self.device) if several else None,
                torch.tensor(strengths, device=self.device)[:, None] if scheduled else None,
                rows,
                offsets,
            )

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

    def tokens(
        self, layer: int, component: str, positions: Positions, touched: Touched, chosen: Tensor | None
    ) -> Tokens:
        """What a map that looks at its tokens gets to know of them."""
        which = range(touched.count) if chosen is None else chosen.tolist()
        rows = [touched.rows[i] for i in which]
        places = [self.chunks[row].start + touched.offsets[i] for row, i in zip(rows, which, strict=True)]
        ranks = [
            sum(
                len(range(s.start, min(s.stop, place), s.step))
                for s in self.rows[row].spans(positions)
                if s.start < place
            )
            for row, place in zip(rows, places, strict=True)
        ]
        return Tokens(layer, component, rows, places, ranks, [row.prompt for row in self.rows])


class Reuse:
    """Remembers what was touched, since decoding steps touch the same tokens again and again."""

    def __init__(self) -> None:
        self._rows: list[Row] | None = None
        self._starts: list[int] = []
        self._steps = 0
        self._known: dict[Signature, tuple[int, Touched | None]] = {}

    def begin(self, step: Step) -> None:
        """Take note of a pass: what is known holds on only if it feeds one more token of the same rows."""
        starts = [chunk.start for chunk in step.chunks]
        follows = self._rows is step.rows and step.columns == 1 and starts == [start + 1 for start in self._starts]
        if not follows:
            self._known.clear()
        self._rows, self._starts = step.rows, starts
        self._steps += 1

    def recall(self, signature: Signature) -> tuple[bool, Touched | None]:
        """Whether it is known what a column touches in this pass, and what."""
        until, touched = self._known.get(signature, (0, None))
        return self._steps <= until, touched

    def keep(self, signature: Signature, touched: Touched | None, steady: int) -> None:
        """Remember what a column touches in this pass, and in the next ones if it is steady for that many."""
        if steady > 1:
            self._known[signature] = self._steps + steady - 1, touched


def _unchanged(spans: Sequence[range], schedule: Schedule | None, position: int, prompt_length: int) -> int:
    """For how many one-token passes, the one at ``position`` included, the same is done to a row."""
    if any(span.step > 1 for span in spans):
        return 1
    if schedule is not None and position - prompt_length + 1 < len(schedule.values) - 1:
        return 1
    changes = [edge - position for span in spans for edge in (span.start, span.stop) if edge > position]
    return min(changes, default=ENDLESS)
