"""A plan compiled for one model: for each site, the maps to apply in order, batched over the rows of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ...conditions import Schedule, When
from ...errors import MismatchError, NotAppliedError
from ...operations import Action
from ...operations.maps import AffineMap, Calling, Drawing, Map, Setting, moved
from ...positions import select
from ...sites import FORWARD_ORDER
from .rows import Chunk, Row
from .step import Rule, Signature, Step, Touched

Place = tuple[str, int]
Signatures = dict[tuple[tuple[int | None, ...], tuple[Rule | None, ...]], Signature]


class Entry:
    """One action of a column: its map, its constant strength folded in where that is exact."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.constant = 1.0 if isinstance(action.strength, Schedule) else action.strength
        plain = action.map
        self.affine = plain.scaled(self.constant) if isinstance(plain, AffineMap) else None
        self.map: Map = plain if self.affine is None else self.affine
        self.looks = isinstance(plain, Calling | Drawing) or (isinstance(plain, Setting) and len(plain.values) > 1)
        self._at: dict[tuple[torch.device, torch.dtype], Map] = {}

    def on(self, like: Tensor) -> Map:
        """The map where, and in the precision in which, the tokens are computed."""
        key = (like.device, like.dtype)
        if key not in self._at:
            with torch.inference_mode(False):
                here = moved(self.map, *key)
                if isinstance(here, AffineMap):
                    _ = here.offset  # computed now, as a normal tensor, whatever mode the forward pass is in
                self._at[key] = here
        return self._at[key]

    def __call__(self, x: Tensor, step: Step, touched: Touched, chosen: Tensor | None = None) -> Tensor:
        """The touched tokens ``[n, width]`` (of which ``chosen`` are given) after this action."""
        operation, action = self.on(x), self.action
        strengths = touched.strengths if touched.strengths is None or chosen is None else touched.strengths[chosen]
        if isinstance(operation, AffineMap):
            return operation(x) if strengths is None else x + strengths * operation.change(x)
        tokens = None
        if self.looks:
            tokens = step.tokens(action.layer, action.component, action.positions, touched, chosen)
        result = operation(x, tokens)
        if isinstance(operation, Calling):
            result = _checked_result(result, x, action.source)
        if strengths is None and self.constant == 1:
            return result
        return x + (self.constant if strengths is None else strengths) * (result - x)


class Column:
    """At one site, the n-th action of each plan: applied to all rows at once."""

    def __init__(self, entries: list[Entry], signature: Signature) -> None:
        self.entries = entries
        self.signature = signature
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self.adds = all(entry.affine is not None and entry.affine.read is None for entry in entries)

    def __call__(self, x: Tensor, step: Step, touched: Touched) -> Tensor:
        """The touched tokens ``[n, width]`` after this column."""
        if touched.entries is None:
            return self.entries[touched.only](x, step, touched)
        if self.adds:
            change = self._table(x)[touched.entries]
            return x + (change if touched.strengths is None else touched.strengths * change)
        for number, entry in enumerate(self.entries):
            chosen = touched.where(number)
            if len(chosen):
                x = x.index_copy(0, chosen, entry(x[chosen], step, touched, chosen))
        return x

    def _table(self, like: Tensor) -> Tensor:
        """What each entry adds, ``[entries, width]``."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            with torch.inference_mode(False):
                offsets = [entry.affine.offset for entry in self.entries if entry.affine is not None]
                self._tables[key] = torch.stack(offsets).to(*key)
        return self._tables[key]


class SiteProgram:
    """Everything a batch's plans do at one site of one layer."""

    def __init__(self, columns: list[Column]) -> None:
        self.columns = columns

    def act(self, found: Tensor, step: Step, scale: float = 1.0) -> Tensor | None:
        """The tensor to put in the place of ``found``, whose value is ``scale`` times it; None if none is touched.

        Touched tokens are computed in float32 and rounded once; the others are the same bits.
        """
        flat = found.reshape(-1, found.shape[-1])
        live = [(column, touched) for column in self.columns if (touched := step.touched(column.signature))]
        if not live:
            return None
        first = live[0][1].flat
        if any(touched.flat is not first for _, touched in live):
            union, places = _union([touched.flat for _, touched in live], len(flat), flat.device)
        else:
            union, places = first, [None] * len(live)
        x = _wide(flat if union is None else flat[union.to(flat.device)])
        x = x if scale == 1 else x * scale
        for (column, touched), place in zip(live, places, strict=True):
            touched = _onto(touched, flat.device)
            new = column(x if place is None else x[place], step, touched)
            x = new if place is None else x.index_copy(0, place, new)
        values = (x if scale == 1 else x / scale).to(flat.dtype)
        if union is not None:
            values = flat.index_copy(0, union.to(flat.device), values)
        return values.reshape(found.shape)


class Program:
    """The plans of a batch, compiled: what to do at each site, and which conditions to read where."""

    sites: dict[Place, SiteProgram]
    conditions: dict[When, set[int]]

    def __init__(self, plans: Sequence[Sequence[Action]]) -> None:
        self.plans = plans
        self.sites = {}
        places = {(action.component, action.layer) for actions in plans for action in actions}
        signatures: Signatures = {}
        for place in places:
            self.sites[place] = SiteProgram(_columns(plans, place, signatures))
        conditions = [
            (number, action.when) for number, actions in enumerate(plans) for action in actions if action.when
        ]
        self.conditions = {}
        for number, when in conditions:
            self.conditions.setdefault(when, set()).add(number)
        self.clean_first = any(acts_before(plans[number], when) for number, when in conditions)

    @property
    def needs_boundary(self) -> bool:
        """Whether any action must know where the prompt ends."""
        return any(
            action.when or not action.positions.everywhere or isinstance(action.map, Drawing)
            for actions in self.plans
            for action in actions
        )

    def decide(self, when: When, hidden: Tensor, rows: list[Row], chunks: list[Chunk]) -> None:
        """Decide a condition for the rows that it concerns and whose last prompt token is in this pass.

        ``hidden`` is ``[rows, columns, d_model]`` at the layer that the condition reads.
        """
        concerned = self.conditions[when]
        asked: list[tuple[int, int]] = []
        for number, (row, chunk) in enumerate(zip(rows, chunks, strict=True)):
            last = row.prompt_length - 1
            if row.plan in concerned and when not in row.gates and chunk.start <= last < chunk.stop:
                asked.append((number, chunk.columns[last - chunk.start]))
        if not asked:
            return
        numbers, columns = zip(*asked, strict=True)
        holds: list[bool] = when.holds(hidden.detach()[list(numbers), list(columns)]).tolist()
        for number, held in zip(numbers, holds, strict=True):
            rows[number].gates[when] = held

    def check(self, rows: Iterable[Row]) -> None:
        """Resolve every selector on every row.

        Raises:
            NotAppliedError: one that selects no token of a row's prompt.
            MismatchError: values given per token that are not as many as the tokens selected.
        """
        for row in rows:
            for action in self.plans[row.plan]:
                spans = row.spans(action.positions)
                if isinstance(action.map, Setting) and len(action.map.values) > 1:
                    _check_count(action, action.map, spans, row)
                    _check_reach(action, row.prompt_length, row)

    def check_length(self, rows: Iterable[Row], lengths: Iterable[int]) -> None:
        """Refuse an intervention that meets no token of a whole sequence, prompt and continuation.

        Raises:
            NotAppliedError: as said.
            MismatchError: means given per position that end before the sequence does.
        """
        for row, length in zip(rows, lengths, strict=True):
            for action in self.plans[row.plan]:
                _check_reach(action, length, row)
                if not len(select(row.spans(action.positions), 0, length)):
                    raise NotAppliedError(
                        f"{action.source}: positions {action.positions} select no token of {row.label}, which has "
                        f"{row.prompt_length} prompt tokens and {length - row.prompt_length} after them"
                    )

    def check_generation(self, rows: Iterable[Row], new_tokens: int) -> None:
        """Refuse what a generation of ``new_tokens`` cannot reach: its last token is never fed back.

        Raises:
            NotAppliedError: positions within the generation that begin after its end.
        """
        for row in rows:
            end = row.prompt_length + new_tokens - 1
            for action in self.plans[row.plan]:
                generated = action.positions.generated(row.prompt_length)
                beyond = [span for span in generated if span.start >= end and span.start > row.prompt_length]
                if beyond and len(generated) == len(action.positions.terms):
                    raise NotAppliedError(
                        f"{action.source}: positions {action.positions} begin at generated token "
                        f"{beyond[0].start - row.prompt_length}, but with max_new_tokens={new_tokens} only "
                        f"{new_tokens - 1} are fed back to the model"
                    )
                _check_reach(action, end, row)


def _columns(plans: Sequence[Sequence[Action]], place: Place, signatures: Signatures) -> list[Column]:
    """The actions of all plans at a place: column n holds the n-th of each, equal ones once."""
    queues = [[action for action in actions if (action.component, action.layer) == place] for actions in plans]
    columns: list[Column] = []
    for depth in range(max(len(queue) for queue in queues)):
        numbers: dict[int, int] = {}
        chosen: list[Action] = []
        entries: list[int | None] = []
        rules: list[Rule | None] = []
        for queue in queues:
            if depth >= len(queue):
                entries.append(None)
                rules.append(None)
                continue
            action = queue[depth]
            if id(action) not in numbers:
                numbers[id(action)] = len(chosen)
                chosen.append(action)
            schedule = action.strength if isinstance(action.strength, Schedule) else None
            entries.append(numbers[id(action)])
            rules.append(Rule(action.positions, schedule, action.when))
        signature = signatures.setdefault((tuple(entries), tuple(rules)), Signature(tuple(entries), tuple(rules)))
        columns.append(Column([Entry(action) for action in chosen], signature))
    return columns


def acts_before(actions: Iterable[Action], when: When) -> bool:
    """Whether any action may change, in the prompt, what the condition reads."""
    read = (when.layer, FORWARD_ORDER["resid_post"])
    return any(a.positions.in_prompt and (a.layer, FORWARD_ORDER[a.component]) <= read for a in actions)


def _check_count(action: Action, setting: Setting, spans: tuple[range, ...], row: Row) -> None:
    given = len(setting.values)
    if setting.by == "position":
        return
    selected = len(set().union(*spans)) if all(len(span) <= 1 << 20 for span in spans) else None
    if selected != given:
        raise MismatchError(
            f"{action.source}: {given} rows of values for positions {action.positions}, which select "
            f"{'an unknown number of' if selected is None else selected} tokens of {row.label}; give one row per "
            "token, or one row [width] for all"
        )


def _check_reach(action: Action, end: int, row: Row) -> None:
    """Refuse means given per position that do not reach the last position selected before ``end``."""
    setting = action.map
    if not isinstance(setting, Setting) or setting.by != "position" or len(setting.values) == 1:
        return
    selected = select(row.spans(action.positions), 0, end)
    if selected and selected[-1] >= len(setting.values):
        raise MismatchError(
            f"{action.source}: means for {len(setting.values)} positions, but {row.label} is touched at position "
            f"{selected[-1]}; name fewer positions, or use one mean for all"
        )


def _checked_result(result: object, x: Tensor, source: str) -> Tensor:
    if not isinstance(result, Tensor) or result.shape != x.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise MismatchError(f"{source}: the function must return a tensor of shape {tuple(x.shape)}, got {got}")
    return result.to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


def _onto(touched: Touched, device: torch.device) -> Touched:
    """The same with its tensors on a layer's own device (models spread over several)."""
    tensors = [t for t in (touched.entries, touched.strengths) if t is not None]
    if all(t.device == device for t in tensors):
        return touched
    entries = None if touched.entries is None else touched.entries.to(device)
    strengths = None if touched.strengths is None else touched.strengths.to(device)
    return Touched(touched.flat, touched.count, touched.only, entries, strengths, touched.rows, touched.offsets)


def _union(flats: list[Tensor | None], total: int, device: torch.device) -> tuple[Tensor | None, list[Tensor | None]]:
    """The tokens that any column touches, and where each column's tokens stand among them (None: all of them)."""
    if any(flat is None for flat in flats):
        return None, [None if flat is None else flat.to(device) for flat in flats]
    indices = [flat.to(device) for flat in flats if flat is not None]
    union = torch.unique(torch.cat(indices))
    return union, [None if len(flat) == len(union) == total else torch.searchsorted(union, flat) for flat in indices]
