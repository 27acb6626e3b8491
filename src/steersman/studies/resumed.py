"""Trials run from the first block that they change, several side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model import SteeringModel
from ..model.architecture import Tap
from ..model.resume import BasePass, Resumable, difference, tolerance
from .components import Place
from .groups import Group
from .sources import Source
from .thinning import thin_parts, thinned

if TYPE_CHECKING:
    from .measuring import Trial


class Resumed:
    """Runs trials on recorded passes.

    Args:
        scored: of ``[.., rows, columns, width]`` the tokens that are scored.
        last_only: whether that is the last token alone.
        token_budget: padded tokens per forward pass, all copies of the batch together.

    Raises:
        UnsupportedError: the blocks of this model cannot be called again.
    """

    def __init__(
        self, model: SteeringModel, scored: Callable[[Tensor], Tensor], token_budget: int, *, last_only: bool
    ) -> None:
        self.model = model
        self.scored = scored
        self.last_only = last_only
        self.token_budget = token_budget
        self.resumable = Resumable(model)
        self._base: BasePass | None = None
        self._thin: bool | None = None  # not tried yet

    def untouched(self, group: Group, trials: Sequence[Trial] = ()) -> Tensor:
        """Logits of the prompts as they are, at the scored tokens; what the trials start from is kept."""
        deepest = self.model.n_layers
        keep = sorted({trial.component.start for trial in trials} | {deepest})
        if self._may_thin:
            keep = sorted({*keep, deepest - 1})
        self._base = self.resumable.record(group.ids, [len(ids) for ids in group.ids], keep=keep)
        found = self.resumable.logits(self.scored(self._base.residuals[deepest]))
        if self._thin is None:
            self._thin = self._may_thin and self._thins(found)
        return found

    @property
    def _may_thin(self) -> bool:
        """Whether the last block is scored at the last token, with nothing acting on it that could mind."""
        return self.last_only and not self.model.always and self._thin is not False

    def _thins(self, expected: Tensor) -> bool:
        """Whether the last block gives the same logits when its parts are run at the last token only."""
        assert self._base is not None
        last = self.model.n_layers - 1
        with thinned(thin_parts(self.model.architecture)):
            stream = self.resumable.resume(self._base, last, self._base.residuals[last])
        return difference(self.resumable.logits(self.scored(stream)), expected) <= tolerance(self.model)

    def touched(self, group: Group, trials: Sequence[Trial], source: Source) -> Iterator[tuple[Trial, Tensor]]:
        """Each trial with its logits, in the order of the blocks that they begin at."""
        size = max(1, self.token_budget // (group.rows * group.columns))
        ordered = sorted(trials, key=_start)
        for start, several in groupby(ordered, key=_start):
            waiting = list(several)
            for first in range(0, len(waiting), size):
                forks = waiting[first : first + size]
                logits = self._run(start, group, forks, source)
                yield from zip(forks, logits.unflatten(0, (len(forks), group.rows)), strict=True)

    def _run(self, start: int, group: Group, forks: Sequence[Trial], source: Source) -> Tensor:
        assert self._base is not None
        stream = self._base.residuals[start].repeat(len(forks), 1, 1)
        edits = _edits(self.model, group, forks, source)
        architecture = self.model.architecture
        with ExitStack() as stack, torch.inference_mode():
            for place, edit in edits.items():
                tap = architecture.tap(*place)
                if place == ("resid_post", start - 1):
                    stream = edit.of(stream)
                    continue
                stack.callback(tap.attach(edit).remove)
            if self._thin and not any(layer == self.model.n_layers - 1 for _, layer in edits):
                stack.enter_context(thinned(thin_parts(architecture)))
            stream = self.resumable.resume(self._base, start, stream)
        return self.resumable.logits(self.scored(stream))  # which may run the whole model, so without the edits


class Edit:
    """Puts values in at one place, in each fork where it touches it."""

    def __init__(self, values: Tensor, columns: Tensor, tokens: Tensor, tap: Tap) -> None:
        """``values`` broadcast to ``[rows, columns, width]``; ``columns`` ``[forks, width]`` and ``tokens``
        ``[forks or 1, rows, columns]`` say what is set.
        """
        self._thread = threading.get_ident()
        self._values = values if tap.scale == 1 else values / tap.scale
        self._columns = columns[:, None, None]
        self._tokens = tokens[..., None]
        self._shape = (len(columns), *tokens.shape[1:])

    def __call__(self, found: Tensor) -> Tensor | None:
        """The tensor at the tap with the values in place; its batch may lie flat. Other threads' passes are left."""
        return self.of(found) if threading.get_ident() == self._thread else None

    def of(self, found: Tensor) -> Tensor:
        """The same in whatever thread."""
        chosen = self._tokens.to(found.device) & self._columns.to(found.device)
        values = self._values.to(found.device, found.dtype)
        forked = found.reshape(*self._shape, found.shape[-1])
        return torch.where(chosen, values, forked).reshape(found.shape)


def _edits(model: SteeringModel, group: Group, forks: Sequence[Trial], source: Source) -> dict[Place, Edit]:
    positions = [trial.positions for trial in forks]
    alike = all(one == positions[0] for one in positions)
    tokens = torch.stack([group.selected(one) for one in (positions[:1] if alike else positions)])
    edits: dict[Place, Edit] = {}
    for place in dict.fromkeys(place for trial in forks for place in trial.places):
        width = model.shape.width(*place)
        columns = torch.zeros(len(forks), width, dtype=torch.bool)
        for number, trial in enumerate(forks):
            for part in trial.component.parts:
                if part.place == place:
                    columns[number] |= part.columns(model.shape)
        edits[place] = Edit(source.at(place, group), columns, tokens, model.architecture.tap(*place))
    return edits


def _start(trial: Trial) -> int:
    return trial.component.start
