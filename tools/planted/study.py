"""The study: a sweep of each model as a user would run it, held to what is known of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

import steersman as sm
from steersman.evaluation.items import Item
from steersman.sweeping.measuring import Effects

from .models import NEGATIVE, POSITIVE, Planted, population, prompts

#: The settings of each sweep: as small as leaves the statistics what they are.
PROMPTS, RANDOM, STRENGTHS, MAX_KL = 24, 39, (-1.0, 1.0), 0.1
NEUTRAL = 6
TARGET = sm.contrast(POSITIVE, NEGATIVE)


@dataclass(frozen=True)
class Trial:
    """One model swept.

    Attributes:
        planted: the layer that the direction was planted at; None for a model without.
        layer, strength: what the sweep chose.
        p_value: of the search: the smallest of all layers, corrected for there being several.
        chosen_p: of the chosen cell.
        truth, low, high: of a cell named beforehand (the planted layer, or the middle one): its effect over all
            prompts there are, and the interval from those that the sweep saw.
        chosen_truth, chosen_low, chosen_high: of the chosen cell, the interval from the prompts kept from the choice.
    """

    planted: int | None
    layer: int
    strength: float
    p_value: float
    chosen_p: float
    truth: float
    low: float
    high: float
    chosen_truth: float
    chosen_low: float
    chosen_high: float


def trial(made: Planted, seed: int) -> Trial:
    """Sweep a model."""
    found = sm.sweep(
        made.model, made.vector, prompts=prompts(PROMPTS, 2 * seed), target=TARGET, strengths=STRENGTHS, random=RANDOM,
        neutral=neutral(), seed=seed,
    )  # fmt: skip
    best = found.best(MAX_KL)
    named = found.row(3 if made.layer is None else made.layer, 1.0)
    truths = true_effects(made, [found.plans[named.layer, named.strength], found.plans[best.layer, best.strength]])
    ps = [found.row(layer, 1.0).p_value for layer in found.layers]
    numbers: Any = (min(p for p in ps if p is not None), best.p_value, truths[0], named.low, named.high, truths[1],
                    best.report_low, best.report_high)  # fmt: skip
    return Trial(made.layer, best.layer, best.strength, *numbers)


def true_effects(made: Planted, plans: Sequence[sm.Plan]) -> list[float]:
    """The effect of plans over all prompts there are."""
    effects = Effects(made.model, TARGET, _population(made.model), plans[0], list(range(made.model.n_layers)))
    distinct = list(dict.fromkeys(plans))
    base, *steered = effects.values([sm.Plan(), *distinct])
    found = dict(zip(distinct, [float((one - base).mean()) for one in steered], strict=True))
    return [found[plan] for plan in plans]


@cache
def neutral() -> tuple[str, ...]:
    """Texts on which nothing should change."""
    return tuple(a + b for a, b in zip(prompts(NEUTRAL, 1), prompts(NEUTRAL, 3), strict=True))


_ITEMS: list[Item] = []


def _population(model: sm.SteeringModel) -> list[Item]:
    """As token ids: the same for all models, which share their tokenizer."""
    if not _ITEMS:
        _ITEMS.extend(TARGET.items(model, population()))
    return _ITEMS


def summary(with_one: Sequence[Trial], without: Sequence[Trial]) -> dict[str, Any]:
    """What the trials show, each share with Wilson's 95% interval."""
    everything = [*with_one, *without]
    # a p-value of k / (n + 1) stands for all of ((k - 1) / (n + 1), k / (n + 1)]: drawn from there, uniform is uniform
    spread = np.random.default_rng(0).uniform(0, 1 / (RANDOM + 1), len(without))
    return {
        "layer found": share([t.layer == t.planted for t in with_one]),
        "found and p <= .05": share([t.layer == t.planted and t.chosen_p <= 0.05 for t in with_one]),
        "p <= .05 without": share([t.p_value <= 0.05 for t in without]),
        "chosen cell's p <= .05 without": share([t.chosen_p <= 0.05 for t in without]),
        "Kolmogorov-Smirnov": float(stats.kstest([t.p_value for t in without] - spread, "uniform").pvalue),
        "coverage": share([t.low <= t.truth <= t.high for t in everything]),
        "coverage of the chosen": share([t.chosen_low <= t.chosen_truth <= t.chosen_high for t in everything]),
    }


def share(held: Sequence[bool]) -> dict[str, float]:
    """A proportion with Wilson's interval."""
    found = stats.binomtest(sum(held), len(held))
    ends = found.proportion_ci(0.95, "wilson")
    return {"n": len(held), "share": sum(held) / len(held), "low": float(ends.low), "high": float(ends.high)}
