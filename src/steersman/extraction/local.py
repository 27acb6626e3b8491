"""The runner at hand: forward passes of the model itself, in this process."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ResourceError
from ..model import SteeringModel
from .budget import Budget, Clock
from .packing import Packed, pack
from .passes import Pass, Reader, batched, check_budget, in_order, next_batch, packed, trees
from .reading import Item
from .work import Done, Gather, Work

log = logging.getLogger(__name__)


def run(model: SteeringModel, items: Sequence[Item], work: Work, gather: Gather, done: Done) -> None:
    """Read all items; a :class:`~.work.Runner`.

    Raises:
        ResourceError: the memory does not hold one item alone.
    """
    check_budget(work.token_budget)
    reader = Reader(model, work)
    budget = Budget(model.architecture, work.token_budget, model.device, sum(len(item.ids) for item in items))
    sample = [item for item in items if item.number in work.norms]
    rest = [item for item in items if item.number not in work.norms]
    for part in (sample, rest):
        _Part(reader, part, budget, gather, done, whole=part is sample).run()


class _Part:
    """Items of which the same is wanted: the sample that norms are measured on, or the others."""

    def __init__(
        self, reader: Reader, items: Sequence[Item], budget: Budget, gather: Gather, done: Done, *, whole: bool
    ) -> None:
        self.reader, self.items, self.budget, self.whole = reader, items, budget, whole
        self.gather, self.done = gather, done

    def run(self) -> None:
        packs = trees(self.reader.model, self.items, self.reader.steered)
        for tree in packs:
            self._tree(self.items, tree)
        if packs:
            return
        order = in_order(self.items, self.reader.work.together)
        start = 0
        while start < len(order):
            batch = next_batch(order, start, self.budget.tokens)
            self._read(batched(self.reader.model, batch, whole=self.whole))
            start += len(batch)

    def _tree(self, items: Sequence[Item], tree: Packed) -> None:
        self._read(packed(self.reader.model, items, tree, whole=self.whole))

    def _read(self, one: Pass) -> None:
        """Run a pass and hand over what it read; where it is too much for the memory, in halves."""
        found = self._tried(one)
        if found is None:
            self._in_halves(one)
            return
        rows, norms = found
        numbers = [item.number for item in one.items]
        counts = one.reads[2]
        average = self.reader.work.average
        self.gather.add(
            numbers, {layer: _means(v, counts) if average else v.split(counts) for layer, v in rows.items()}
        )
        if norms:
            self.gather.add_norms(norms)
        self.done(numbers)

    def _tried(self, one: Pass) -> tuple[dict[int, Tensor], dict[int, Tensor]] | None:
        """What a pass reads, or None if the memory did not suffice."""
        try:
            with Clock() as clock:
                found = self.reader.run(one)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if len(one.items) == 1:
                raise ResourceError(
                    f"the memory of {self.reader.model.device} does not hold one text of "
                    f"{len(one.items[0].ids)} tokens; shorten it, read fewer layers, or load the model in a smaller "
                    "precision"
                ) from error
            return None
        self.budget.timed(one.size, clock.seconds)
        return found

    def _in_halves(self, one: Pass) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.budget.halve()
        log.warning(
            "out of memory with %d tokens in one pass; going on with halves of it (token_budget=%d would have done)",
            one.size, one.size // 2,
        )  # fmt: skip
        middle = (len(one.items) + 1) // 2
        for half in (one.items[:middle], one.items[middle:]):
            if isinstance(one.inputs, dict) and len(half) > 1:
                for tree in pack([item.ids for item in half], limit=max(1, one.size // 2)):
                    self._tree(half, tree)
            else:
                self._read(batched(self.reader.model, half, whole=self.whole))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of an accelerator or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in ("out of memory", "can't allocate memory", "alloc_failed"))


def _means(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """The mean of each item's rows: ``[items, width]``."""
    if len(rows) == len(counts):
        return rows
    sizes = torch.tensor(counts)
    owner = torch.arange(len(counts)).repeat_interleave(sizes)
    sums = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64)
    return (sums.index_add_(0, owner, rows.double()) / sizes[:, None]).float()
