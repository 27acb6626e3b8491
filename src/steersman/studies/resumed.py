"""Trials run from the first block, and where possible from the first token, that they change; several side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..model import SteeringModel
from ..model.branches import Branching, Stem, Trunk
from ..model.resume import BasePass, Resumable, difference, tolerance
from .edits import edits
from .groups import Group
from .sources import Source
from .thinning import thin_parts, thinned

if TYPE_CHECKING:
    from .measuring import Trial

#: Branches lie side by side in one line, over which attention is computed in full: no longer than this.
LINE = 256


class Resumed:
    """Runs trials on recorded passes.

    Args:
        scored: of ``[.., rows, columns, width]`` the tokens that are scored.
        token_budget: padded tokens per forward pass, all copies of the batch together.
        last_only: whether only the last token is scored.

    Raises:
        UnsupportedError: the blocks of this model cannot be called again.
    """

    def __init__(
        self, model: SteeringModel, scored: Callable[[Tensor], Tensor], token_budget: int, *, last_only: bool
    ) -> None:
        self.model = model
        self.scored = scored
        self.token_budget = token_budget
        self.last_only = last_only
        self.resumable = Resumable(model)
        self._base: BasePass | None = None
        self._thin: bool | None = None  # not tried yet
        self._branching: Branching | None = None
        self._may_branch = last_only

    # -- as they are ------------------------------------------------------------------------------------------------

    def untouched(self, group: Group, trials: Sequence[Trial] = ()) -> Tensor:
        """Logits of the prompts as they are, at the scored tokens; what the trials start from is kept."""
        deepest = self.model.n_layers
        keep = sorted({trial.component.start for trial in trials} | {deepest})
        may_thin = self.last_only and not self.model.always and self._thin is not False
        if may_thin:
            keep = sorted({*keep, deepest - 1})
        self._base = self.resumable.record(group.ids, [len(ids) for ids in group.ids], keep=keep)
        found = self.resumable.logits(self.scored(self._base.residuals[deepest]))
        if self._thin is None:
            self._thin = may_thin and self._thins(found)
        return found

    def _thins(self, expected: Tensor) -> bool:
        """Whether the last block gives the same logits when its parts are run at the last token only."""
        assert self._base is not None
        last = self.model.n_layers - 1
        with thinned(thin_parts(self.model.architecture)):
            stream = self.resumable.resume(self._base, last, self._base.residuals[last])
        return difference(self.resumable.logits(self.scored(stream)), expected) <= tolerance(self.model)

    # -- touched ----------------------------------------------------------------------------------------------------

    def touched(self, group: Group, trials: Sequence[Trial], source: Source) -> Iterator[tuple[Trial, Tensor]]:
        """Each trial with its logits ``[rows, .., vocab]``, in an order of its own."""
        whole: list[Trial] = []
        for starts, several in self._by_first_token(group, trials):
            if self._branches(group, starts, len(several)):
                yield from self._late(group, starts, several, source)
            else:
                whole += several
        size = max(1, self.token_budget // (group.rows * group.columns))
        for start, forks in _batches(whole, size):
            logits = self._run(start, group, forks, source)
            yield from zip(forks, logits.unflatten(0, (len(forks), group.rows)), strict=True)

    def _run(self, start: int, group: Group, forks: Sequence[Trial], source: Source) -> Tensor:
        assert self._base is not None
        stream = self._base.residuals[start].repeat(len(forks), 1, 1)
        changes = edits(self.model, group, forks, source)
        architecture = self.model.architecture
        with ExitStack() as stack, torch.inference_mode():
            for place, edit in changes.items():
                if place == ("resid_post", start - 1):
                    stream = edit.of(stream)
                    continue
                stack.callback(architecture.tap(*place).attach(edit).remove)
            if self._thin and not any(layer == self.model.n_layers - 1 for _, layer in changes):
                stack.enter_context(thinned(thin_parts(architecture)))
            stream = self.resumable.resume(self._base, start, stream)
        return self.resumable.logits(self.scored(stream))  # which may run the whole model, so without the edits

    # -- from the first token on that is touched ----------------------------------------------------------------------

    @staticmethod
    def _by_first_token(group: Group, trials: Sequence[Trial]) -> list[tuple[tuple[int, ...], list[Trial]]]:
        """The trials by the first position that they touch in each row (the last one, where they touch none)."""
        found: dict[tuple[int, ...], list[Trial]] = {}
        known: dict[object, tuple[int, ...]] = {}
        for trial in trials:
            if trial.positions not in known:
                met = group.selected(trial.positions)
                padding = [group.columns - len(ids) for ids in group.ids]
                known[trial.positions] = tuple(
                    int(row.int().argmax()) - pad if bool(row.any()) else len(ids) - 1
                    for row, pad, ids in zip(met, padding, group.ids, strict=True)
                )
            found.setdefault(known[trial.positions], []).append(trial)
        return list(found.items())

    def _branches(self, group: Group, starts: tuple[int, ...], count: int) -> bool:
        """Whether to run only what comes after ``starts``: possible here, and worth the one pass that it takes."""
        if not self._may_branch or min(starts) < 1:
            return False
        width = max(len(ids) - start for ids, start in zip(group.ids, starts, strict=True))
        if count * (group.columns - width) <= 2 * group.columns or width > LINE // 2:
            return False
        if self._branching is None:
            try:
                self._branching = Branching(self.resumable)
            except UnsupportedError:
                self._may_branch = False
                return False
        return self._branching.why_not(_stems(group, starts)) is None

    def _late(
        self, group: Group, starts: tuple[int, ...], trials: Sequence[Trial], source: Source
    ) -> Iterator[tuple[Trial, Tensor]]:
        assert self._branching is not None
        keep = sorted({trial.component.start for trial in trials})
        trunk = self._branching.record(_stems(group, starts), keep=keep)
        window = _window(group, starts, trunk.width)
        lasts = torch.tensor([len(ids) - 1 - start for ids, start in zip(group.ids, starts, strict=True)])
        size = max(1, min(LINE // trunk.width, self.token_budget // (group.rows * trunk.width)))
        for start, forks in _batches(trials, size):
            stream = self._branch(trunk, start, group, forks, source, window)
            picked = stream[torch.arange(group.rows), :, lasts]
            yield from zip(forks, self.resumable.logits(picked).unbind(1), strict=True)

    def _branch(
        self, trunk: Trunk, start: int, group: Group, forks: Sequence[Trial], source: Source, window: Tensor
    ) -> Tensor:
        assert self._branching is not None
        stream = trunk.residuals[start].repeat(1, len(forks), 1)
        with ExitStack() as stack, torch.inference_mode():
            for place, edit in edits(self.model, group, forks, source, window).items():
                if place == ("resid_post", start - 1):
                    stream = edit.of(stream)
                    continue
                stack.callback(self.model.architecture.tap(*place).attach(edit).remove)
            return self._branching.resume(trunk, start, stream)[:, :, 0]


def _batches(trials: Sequence[Trial], size: int) -> Iterator[tuple[int, list[Trial]]]:
    """The block that trials begin at, and at most ``size`` of those that do."""

    def start(trial: Trial) -> int:
        return trial.component.start

    for block, several in groupby(sorted(trials, key=start), key=start):
        waiting = list(several)
        for first in range(0, len(waiting), size):
            yield block, waiting[first : first + size]


def _stems(group: Group, starts: tuple[int, ...]) -> list[Stem]:
    return [Stem(ids, start) for ids, start in zip(group.ids, starts, strict=True)]


def _window(group: Group, starts: tuple[int, ...], width: int) -> Tensor:
    """``[rows, width]``: the padded column of each token from the starts on, -1 behind the last."""
    found = torch.full((group.rows, width), -1)
    for row, (ids, start) in enumerate(zip(group.ids, starts, strict=True)):
        found[row, : len(ids) - start] = torch.arange(group.columns - len(ids) + start, group.columns)
    return found
