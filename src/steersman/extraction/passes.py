"""Forward passes over many items: texts of similar length together, shared beginnings once, and no token too many.

A pass stops at the deepest place that is read. Where only some tokens are read, the deepest block runs at these alone
(:mod:`steersman.model.hooks.narrowing`). Both change nothing but the time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import PromptError
from ..model import SteeringModel
from ..model.hooks.narrowing import NARROWED, narrowed, why_not_narrowed
from ..model.hooks.reading import Place, stop_at, watch_sites
from ..model.own_mask import why_not
from ..model.tokens import Batch
from ..sites import FORWARD_ORDER
from .packing import WORTH, Packed, distinct_tokens, pack
from .reading import Item
from .work import Work

log = logging.getLogger(__name__)

#: Run the deepest block at the read tokens alone when these are at most this share of all.
FEW = 0.5


@dataclass(frozen=True)
class Pass:
    """One forward pass: what the decoder is given, and where the tokens of each item stand in it.

    Attributes:
        inputs: a batch, or the decoder's own arguments for a packed row.
        rows, columns: of the batch.
        items: the items in it.
        places: for each item its row, and the columns of its tokens.
        whole: whether all tokens are wanted at every layer (for norms), so that no block may run at some only.
    """

    inputs: Batch | dict[str, Any]
    rows: int
    columns: int
    items: Sequence[Item]
    places: Sequence[tuple[int, Tensor]]
    whole: bool = False

    @property
    def size(self) -> int:
        """Tokens that are run, padding included."""
        return self.rows * self.columns

    @cached_property
    def reads(self) -> tuple[Tensor, Tensor, list[int]]:
        """Rows and columns of the tokens read, item after item, and how many each item has."""
        columns = [path[item.read] for item, (_, path) in zip(self.items, self.places, strict=True)]
        counts = [len(one) for one in columns]
        rows = torch.tensor([row for row, _ in self.places]).repeat_interleave(torch.tensor(counts))
        return rows, torch.cat(columns), counts

    @cached_property
    def others(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of every token but the first of each item."""
        columns = [path[1:] for _, path in self.places]
        rows = torch.tensor([row for row, _ in self.places])
        return rows.repeat_interleave(torch.tensor([len(one) for one in columns])), torch.cat(columns)

    @cached_property
    def chosen(self) -> tuple[Tensor, Tensor]:
        """The columns read of each row, ``[rows, most]`` (rows with fewer repeat one), and where each read is in it."""
        rows, columns, _ = self.reads
        within: list[list[int]] = [[] for _ in range(self.rows)]
        slots: list[int] = []
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            slots.append(len(within[row]))
            within[row].append(column)
        most = max(len(one) for one in within)
        return torch.tensor([one + [one[-1]] * (most - len(one)) for one in within]), torch.tensor(slots)


class Reader:
    """Runs passes of one model for one piece of work."""

    def __init__(self, model: SteeringModel, work: Work) -> None:
        self.model, self.work = model, work
        self.places: list[Place] = [(work.site, layer) for layer in work.layers]
        self.deepest: Place = max(self.places, key=lambda place: (place[1], FORWARD_ORDER[place[0]]))
        self.block = self.deepest[1] - 1 if work.site == "resid_pre" else self.deepest[1]
        self.steered = model.steered_by(work.steer)

    @cached_property
    def narrow(self) -> bool:
        """Whether the deepest block may run at some of its tokens only."""
        if self.steered or self.block < 0:
            return False
        with self.model.forward_only(None, []) as forward:
            reason = why_not_narrowed(self.model.architecture, self.block, forward)
        if reason is not None:
            log.info("the deepest layer is run at every token: %s", reason)
        return reason is None

    def run(self, one: Pass) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """What is read, layer -> ``[reads, width]``, and the norms wanted, layer -> ``[tokens]``; float32, CPU."""
        arch = self.model.architecture
        rows, columns, _ = one.reads
        found: dict[int, Tensor] = {}
        norms: dict[int, Tensor] = {}
        chosen, slots = one.chosen
        few = not one.whole and chosen.numel() <= FEW * one.size and self.narrow

        def see(place: Place, value: Tensor) -> None:
            inside = few and (place[1] > self.block or (place[1] == self.block and place[0] in NARROWED))
            value = value.reshape(one.rows, -1, value.shape[-1])
            there = slots if inside else columns
            found[place[1]] = value[rows.to(value.device), there.to(value.device)].float().cpu()
            if one.whole:
                at = tuple(index.to(value.device) for index in one.others)
                norms[place[1]] = value[at].float().norm(dim=-1).cpu()

        with ExitStack() as hooks:
            forward = hooks.enter_context(self.model.forward_only(self.work.steer, [item.ids for item in one.items]))
            hooks.enter_context(watch_sites(arch, self.places, see))
            hooks.enter_context(stop_at(arch, self.deepest))
            if few:
                hooks.enter_context(narrowed(arch, self.block, chosen))
            forward(one.inputs)
        return found, norms


def batched(model: SteeringModel, items: Sequence[Item], *, whole: bool = False) -> Pass:
    """Items side by side, padded."""
    batch = model.tokens.batch([item.ids for item in items])
    columns = batch.input_ids.shape[1]
    places = [(row, torch.arange(columns - len(item.ids), columns)) for row, item in enumerate(items)]
    return Pass(batch, len(items), columns, items, places, whole)


def packed(model: SteeringModel, items: Sequence[Item], tree: Packed, *, whole: bool = False) -> Pass:
    """Items that begin alike as one tree; ``tree`` numbers them as they stand in ``items``."""
    inside = [items[number] for number, _ in tree.paths]
    inputs = tree.inputs(model.architecture, model.device, model.dtype)
    return Pass(inputs, 1, len(tree.ids), inside, [(0, path) for _, path in tree.paths], whole)


def trees(model: SteeringModel, items: Sequence[Item], steered: bool) -> list[Packed]:
    """The items as trees, if that saves enough and is exact here; else nothing."""
    if len(items) < 2 or steered:
        return []
    rows = [item.ids for item in items]
    if distinct_tokens(rows) > WORTH * sum(len(row) for row in rows):
        return []
    reason = why_not(model.architecture, max(len(item.ids) for item in items))
    if reason is not None:
        log.info("shared beginnings are computed for each text: %s", reason)
        return []
    return pack(rows)


def in_order(items: Sequence[Item], together: int | None) -> list[Item]:
    """Items longest first, so that a batch wastes little on padding and what is too much for the memory shows early;
    pairs ``n`` and ``n + together`` side by side."""
    if together is None:
        return sorted(items, key=lambda item: -len(item.ids))
    longest: dict[int, int] = {}
    for item in items:
        pair = item.number % together
        longest[pair] = max(longest.get(pair, 0), len(item.ids))
    return sorted(items, key=lambda item: (-longest[item.number % together], item.number % together, item.number))


def next_batch(items: Sequence[Item], start: int, budget: int) -> list[Item]:
    """The items from ``start`` on whose padded size stays within the budget (one always fits)."""
    longest, end = 0, start
    while end < len(items):
        longest = max(longest, len(items[end].ids))
        if end > start and longest * (end - start + 1) > budget:
            break
        end += 1
    return list(items[start:end])


def batches(items: Sequence[Item], budget: int) -> Iterator[list[Item]]:
    """Groups of items of similar length, shortest first, each within the budget (one item always fits)."""
    check_budget(budget)
    order, start = sorted(items, key=lambda item: len(item.ids)), 0
    while start < len(order):
        group = next_batch(order, start, budget)
        yield group
        start += len(group)


def check_budget(budget: int | None) -> None:
    """Raise PromptError for a budget that no token fits in."""
    if budget is not None and budget < 1:
        raise PromptError(f"token_budget must be at least 1, got {budget}")
