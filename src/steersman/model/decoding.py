"""Generation a token at a time, in a batch that rows join and leave while it is under way.

For servers: each row has a plan of its own, the caller chooses its tokens, and it goes when it is done or no longer
wanted. Rows are padded on the left, so that a row that joins, or a long one that leaves, changes nothing for the others
but how much padding they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from ..plan import Plan, PlanLike
from .hooks import Row, Run
from .hooks.boundary import Sequences
from .tokens import Batch

if TYPE_CHECKING:
    from .steering_model import SteeringModel


class Decoding:
    """A batch under way on one model. Everything is called from one thread.

    Attributes:
        rows: its rows, in the order of the logits.
    """

    def __init__(self, model: SteeringModel) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._plans: list[Plan] = []
        self._run: Run | None = None
        self._cache: Any = None
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=model.device)
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def joinable(self) -> bool:
        """Whether rows may join now: caches with windows or recurrent states cannot be put together."""
        return not self.rows or _plain(self._cache)

    def join(self, prompts: Sequence[Sequence[int]], steer: Sequence[PlanLike]) -> Tensor:
        """Run the prompts of new rows, which then stand behind those that are there.

        Args:
            prompts: the token ids of each, special tokens included.
            steer: a plan (or None) for each. Rows that are given the same object share its work.

        Returns:
            ``[new rows, vocab]`` float32: the logits after each prompt.

        Raises:
            MismatchError, NotAppliedError: a plan that does not fit, before anything is run.
        """
        model = self._model
        plans, numbers = _distinct([Plan.of(plan) for plan in steer])
        rows = [
            Row(len(ids), tuple(ids), model.tokens.find_marker, f"prompt {i}", numbers[i])
            for i, ids in enumerate(prompts)
        ]
        run = model.engine.prepare([model.always + plan for plan in plans], rows)
        batch = model.tokens.batch([list(ids) for ids in prompts]).to(model.device)
        run.attach()
        try:
            logits, cache = self._forward(run, batch, None)
        finally:
            run.detach()
        self._append(rows, plans, cache, batch)
        return logits

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Feed one more token of every row.

        Returns:
            ``[rows, vocab]`` float32.
        """
        assert self._run is not None
        ids = torch.tensor(tokens, dtype=torch.long, device=self._mask.device)[:, None]
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(ids), 1))], dim=1)
        positions = torch.tensor(self._lengths, dtype=torch.long, device=ids.device)[:, None]
        self._lengths = [length + 1 for length in self._lengths]
        logits, self._cache = self._forward(
            self._run, Batch(ids, self._mask, positions, tuple(self._lengths)), self._cache
        )
        return logits

    def keep(self, numbers: Sequence[int]) -> None:
        """Let go of all rows but these, which keep their order."""
        if len(numbers) == len(self.rows):
            return
        if not numbers:
            self.clear()
            return
        index = torch.tensor(numbers, dtype=torch.long, device=self._mask.device)
        self._cache.reorder_cache(index)
        self._mask = self._mask[index]
        self.rows = [self.rows[number] for number in numbers]
        self._lengths = [self._lengths[number] for number in numbers]
        self._trim()
        self._place()

    def clear(self) -> None:
        """Let go of all rows."""
        if self._run is not None:
            self._run.detach()
        self.rows, self._plans, self._run, self._cache, self._lengths = [], [], None, None, []
        self._mask = self._mask.new_zeros((0, 0))

    # -- inside ---------------------------------------------------------------------------------------------------

    def _forward(self, run: Run, batch: Batch, cache: Any) -> tuple[Tensor, Any]:
        model = self._model
        arguments: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if "position_ids" in model.engine.parameters:
            arguments["position_ids"] = batch.position_ids
        if model.architecture.keeps_logits:
            arguments["logits_to_keep"] = 1
        with torch.inference_mode(), model.engine.inside(run):
            found = model.architecture.hf(**arguments, past_key_values=cache, use_cache=True)
        return cast(Tensor, found.logits[:, -1].float()), found.past_key_values

    def _append(self, rows: list[Row], plans: list[Plan], cache: Any, batch: Batch) -> None:
        """Put a batch whose prompts were run behind the one that is there."""
        mask = batch.attention_mask
        if self.rows:
            columns = max(self._mask.shape[1], mask.shape[1])
            self._cache = _merged(self._cache, cache, columns)
            self._mask = torch.cat([_padded(self._mask, columns, 1), _padded(mask, columns, 1)])
        else:
            self._cache, self._mask = cache, mask
        used = {row.plan for row in self.rows}
        kept = [number for number in range(len(self._plans)) if number in used]
        every = [self._plans[number] for number in kept] + plans
        self._plans, places = _distinct(every)
        for row in self.rows:
            row.plan = places[kept.index(row.plan)]
        for row in rows:
            row.plan = places[len(kept) + row.plan]
        self.rows, self._lengths = [*self.rows, *rows], [*self._lengths, *batch.lengths]
        if self._run is not None:
            self._run.detach()
        always = self._model.always
        self._run = self._model.engine.prepare([always + plan for plan in self._plans], self.rows)
        self._run.attach()
        self._place()

    def _trim(self) -> None:
        """Take off the padding that no row needs any longer."""
        spare = self._mask.shape[1] - max(self._lengths)
        if spare <= 0 or not _plain(self._cache):
            return
        for layer in self._cache.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys[..., spare:, :], layer.values[..., spare:, :]
        self._mask = self._mask[:, spare:]

    def _place(self) -> None:
        """Tell the run which rows are where."""
        assert self._run is not None
        boundary: Any = self._run.boundary
        boundary.rows = self.rows
        boundary.sequences = Sequences(self.rows, list(self._lengths), self._mask.shape[1])


def _distinct(plans: Sequence[Plan]) -> tuple[list[Plan], list[int]]:
    """The plans that are different objects, and for each given which of these it is."""
    found: dict[int, int] = {}
    kept: list[Plan] = []
    for plan in plans:
        if id(plan) not in found:
            found[id(plan)] = len(kept)
            kept.append(plan)
    return kept, [found[id(plan)] for plan in plans]


def _plain(cache: Any) -> bool:
    """Whether a cache holds a key and a value for each column, and nothing else."""
    return type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)


def _padded(tensor: Tensor, columns: int, dim: int) -> Tensor:
    """With zeros before it, so that it has that many columns."""
    missing = columns - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)


def _merged(first: Any, second: Any, columns: int) -> Any:
    """The first cache with the rows of the second behind its own, both padded on the left; as it was if that fails."""
    found: list[tuple[Any, Tensor, Tensor]] = []
    for mine, other in zip(first.layers, second.layers, strict=True):
        if mine.is_initialized:
            keys, values = (
                torch.cat([_padded(one, columns, one.dim() - 2) for one in pair])
                for pair in ((mine.keys, other.keys), (mine.values, other.values))
            )
            found.append((mine, keys, values))
    for layer, keys, values in found:
        layer.keys, layer.values = keys, values
    return first
