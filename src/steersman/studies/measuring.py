"""Measuring many trials on the same prompts: one by one, or each from the first block that it changes.

A trial is a component touched at some tokens. One by one, it is an ordinary intervention in an ordinary forward pass;
that is slow, works on every model, and is what the other way is held to. Resumed, what lies below the component is
computed once for all trials, and several trials run side by side as copies of the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..files.finished import Finished
from ..model import SteeringModel
from ..plan import Plan
from ..positions import Positions
from .components import Component, Place
from .groups import Group
from .metrics import Metric, Where
from .resumed import Resumed
from .sources import Source

log = logging.getLogger(__name__)
Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Trial:
    """A component touched at some tokens.

    Attributes:
        component: what.
        positions: which tokens; None for all. Rows in which they mean no token are not measured.
    """

    component: Component
    positions: Positions | None = None

    @property
    def places(self) -> list[Place]:
        """Where it acts."""
        return [part.place for part in self.component.parts]


class Meter:
    """A metric on the prompts of a study, and the logits of the run that it compares with."""

    def __init__(self, model: SteeringModel, metric: Metric, prompts: int) -> None:
        self.metric = metric
        self.whole = metric.scores == "all"
        self._measure = metric.bind(model, prompts)

    def scored(self, columns: Tensor) -> Tensor:
        """Of values ``[.., rows, columns, width]`` those at the tokens that are scored."""
        return columns if self.whole else columns[..., -1, :]

    def __call__(self, logits: Tensor, group: Group, base: Tensor | None = None) -> Tensor:
        """``[rows]`` float64 from scored logits; ``base`` are those of the run compared with, by default these."""
        logits = logits.float()
        where = Where(
            torch.tensor(group.numbers),
            logits if base is None else base.float(),
            group.batch.input_ids.to(logits.device),
            group.mask.to(logits.device),
        )
        return self._measure(logits, where).double()


class OneByOne:
    """Every trial a forward pass of its own, steered by an ordinary plan."""

    def __init__(self, model: SteeringModel, meter: Meter) -> None:
        self.model = model
        self.meter = meter

    def untouched(self, group: Group, trials: Sequence[Trial] = ()) -> Tensor:
        """Logits of the prompts as they are, at the scored tokens."""
        return self._logits(group)

    def touched(self, group: Group, trials: Sequence[Trial], source: Source) -> Iterator[tuple[Trial, Tensor]]:
        """Each trial with its logits."""
        for trial in trials:
            met = group.selected(trial.positions).any(1).tolist()
            each = [self._plan(group, row, trial, source) for row in range(1 if source.shared else group.rows)]
            yield (
                trial,
                self._logits(group, [each[0 if source.shared else i] if met[i] else None for i in range(group.rows)]),
            )

    def steered(self, group: Group, plan: Plan) -> Tensor:
        """Logits of the prompts under one plan."""
        return self._logits(group, [plan] * group.rows)

    def _logits(self, group: Group, plans: Sequence[Plan | None] | None = None) -> Tensor:
        keep = None if self.meter.whole else 1
        return self.meter.scored(self.model.token_logits(group.ids, steer=plans, keep=keep))

    @staticmethod
    def _plan(group: Group, row: int, trial: Trial, source: Source) -> Plan:
        return Plan([source.intervention(part, group, row, trial.positions) for part in trial.component.parts])


def runner(model: SteeringModel, meter: Meter, token_budget: int) -> OneByOne | Resumed:
    """The faster way if this model allows it, which is proved on it; else one by one, and the log says why."""
    try:
        return Resumed(model, meter.scored, token_budget, last_only=not meter.whole)
    except UnsupportedError as error:
        log.info("every component is measured in a whole forward pass: %s", error)
        return OneByOne(model, meter)


def measure(
    groups: Sequence[Group],
    trials: Sequence[Trial],
    source: Source,
    meter: Meter,
    run: OneByOne | Resumed,
    *,
    compared: Callable[[Group], Tensor] | None = None,
    idle: Callable[[Trial, Group], bool] = lambda trial, group: False,
    progress: Callable[[int], None] = lambda done: None,
    done: Finished | None = None,
) -> tuple[Array, Array]:
    """The metric of every prompt, untouched ``[prompts]`` and in every trial ``[trials, prompts]`` (NaN where a trial
    touches no token of a prompt).

    Args:
        compared: logits of the run that the metric compares with, if not the untouched one.
        idle: whether a trial is known to change nothing in a group, and need not be run.
        progress: told how many trials of a group are done.
        done: what was measured before, and is not measured again; what is measured is added to it.
    """
    done = Finished(None, {}) if done is None else done
    count = sum(group.rows for group in groups)
    base, values = np.full(count, np.nan), np.full((len(trials), count), np.nan)
    number = {id(trial): place for place, trial in enumerate(trials)}
    places = list(dict.fromkeys(place for trial in trials for place in trial.places))
    for order, group in enumerate(groups):
        own, whole = list(group.numbers), f"prompts {order}"
        keys = [f"{whole} trial {place}" for place in range(len(trials))]
        waiting = [t for t in trials if not idle(t, group) and keys[number[id(t)]] not in done]
        if waiting or whole not in done:
            untouched = run.untouched(group, waiting)
            reference = untouched if compared is None else compared(group)
            done.put(whole, meter(untouched, group, reference).cpu())
            progress(len(trials) - len(waiting))
            source.prepare(group, places)
            for trial, logits in run.touched(group, waiting, source):
                done.put(keys[number[id(trial)]], meter(logits, group, reference).cpu())
                progress(1)
        else:
            progress(len(trials))
        base[own] = done[whole]
        for place, trial in enumerate(trials):
            values[place, own] = base[own] if idle(trial, group) else done[keys[place]]
            met = group.selected(trial.positions).any(1).numpy()
            values[place, [i for i, there in zip(own, met, strict=True) if not there]] = np.nan
    return base, values
