"""Several ways side by side at an equal price: each with the strength that spends one KL budget.

Strengths of different vectors, methods and operations have no common unit; what they cost on neutral text has. So each
plan is scaled until it costs the same, ``K(s) = budget``, and the effects are compared there, item by item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..charts import bars, write
from ..conditions import Schedule
from ..errors import DataError
from ..evaluation import statistics
from ..evaluation.arms import Arm, Comparison, Settings
from ..evaluation.items import Array
from ..evaluation.metrics.budget import SMALL, TOLERANCE, strength_at
from ..evaluation.metrics.dose import scaled
from ..evaluation.neutral import default_texts
from ..evaluation.provenance import versions
from ..evaluation.statistics import Estimate
from ..evaluation.targets.base import LogitTarget, Target, prompt_sources
from ..model import SteeringModel
from ..model.provenance import describe
from ..model.tokens import Prompts, listed
from ..operations import Add
from ..plan import Plan, PlanLike
from ..vector import SteeringVector

Progress = Callable[[str], None]
#: At this strength an operation other than an addition is done in full; beyond it would do something else.
FULL = 1.0


@dataclass(frozen=True)
class Contender:
    """One way at the budget.

    Attributes:
        name: as given.
        factor: what the given strengths were multiplied by.
        kl: what it costs then, nats per affected token of neutral text.
        reached: whether that is the budget; False where the operation costs less even when done in full.
        effect: the change of the target on the report items, with its interval.
        tune_effect: its mean on the tuning items, by which the best is chosen.
        behind: this effect less that of the best one, paired item by item on the report items, with its interval.
        efficiency: ``slope / sqrt(F)`` at small strength: free of the unit of the strength, and of the budget.
        control_low, control_high: where 95% of random directions in its place lie on the report items, same strength.
        p_value: of the rank of the effect among them; None for what has no direction.
    """

    name: str
    factor: float
    kl: float
    reached: bool
    effect: Estimate
    tune_effect: float
    behind: Estimate | None
    efficiency: float
    control_low: float | None
    control_high: float | None
    p_value: float | None


@dataclass(frozen=True, eq=False)
class SideBySide:
    """Several ways at one budget.

    Attributes:
        contenders: in the order given.
        words: the effect of asking for it in words, unsteered, on the report items; None where no words are known.
        plans: each at its strength, by name.
        facts: settings, split, versions.
    """

    contenders: tuple[Contender, ...]
    words: Estimate | None
    plans: Mapping[str, Plan]
    facts: dict[str, Any] = field(repr=False)

    def __iter__(self) -> Any:
        return iter(self.contenders)

    def __getitem__(self, name: str) -> Contender:
        for one in self.contenders:
            if one.name == name:
                return one
        raise KeyError(name)

    @property
    def best(self) -> Contender:
        """The largest effect on the tuning items, upwards or downwards as was asked."""
        return max(self.contenders, key=lambda one: self.facts["sign"] * one.tune_effect)

    def plan(self, name: str | None = None) -> Plan:
        """One way's plan (the best one's unless named) at its strength, with this comparison as evidence."""
        one = self.best if name is None else self[name]
        evidence = {
            "kind": "comparison", "chosen": asdict(one), "others": [asdict(c) for c in self.contenders if c is not one],
            "words": None if self.words is None else self.words.as_json(), **self.facts,
        }  # fmt: skip
        return Plan(self.plans[one.name], evidence)

    def frame(self) -> Any:
        """A pandas DataFrame, one row per way."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for one in self.contenders:
            behind = one.behind
            rows.append({
                "name": one.name, "factor": one.factor, "kl": one.kl, "reached": one.reached,
                "effect": one.effect.value, "low": one.effect.low, "high": one.effect.high,
                "tune_effect": one.tune_effect, "behind": behind.value if behind else None,
                "behind_low": behind.low if behind else None, "behind_high": behind.high if behind else None,
                "efficiency": one.efficiency, "control_low": one.control_low, "control_high": one.control_high,
                "p_value": one.p_value,
            })  # fmt: skip
        return pd.DataFrame(rows)

    def chart(self, path: str | Path | None = None) -> str:
        """The effects as bars with intervals, the words below them, as SVG; written to ``path`` if given."""
        shown = [(one.name, one.effect) for one in self.contenders]
        if self.words is not None:
            shown.append(("in words, unsteered", self.words))
        ends = [(e.low, e.high) for _, e in shown]
        lows = [one.control_low for one in self.contenders if one.control_low is not None]
        highs = [one.control_high for one in self.contenders if one.control_high is not None]
        svg = bars(
            [name for name, _ in shown], [e.value for _, e in shown],
            intervals=None if any(None in pair for pair in ends) else ends,  # pyright: ignore[reportArgumentType]
            control=(min(lows), max(highs)) if lows and highs else None,
            control_label="95% of random directions, of all ways",
            value_label=f"effect ({self.facts['target']['unit']})",
            title=f"Effect at a KL of {self.facts['max_kl']:g} nats per token",
        )  # fmt: skip
        if path is not None:
            write(svg, path)
        return svg


def compare(
    model: SteeringModel,
    ways: Mapping[str, PlanLike | SteeringVector],
    *,
    target: Target,
    prompts: Prompts | None = None,
    sources: Sequence[str] | None = None,
    neutral: Sequence[str] | None = None,
    max_kl: float = 0.1,
    sign: int = 1,
    random: int = 100,
    seed: int = 0,
    progress: Progress = lambda text: None,
) -> SideBySide:
    """Compare vectors, methods, operations or layers at one KL budget.

    The items are parted by source: the best way is named by the tuning half, and the effects shown, their differences
    and their ranks among random directions are those of the report half.

    Args:
        model: the model.
        ways: name -> a plan, an intervention, or a steering vector (added at its chosen layer). Their strengths are
            multiplied by whatever spends the budget. What is not an addition is done in full at most (an ablation of
            twice the projection is another operation), and says so if it then costs less.
        target: such as :func:`steersman.contrast`.
        prompts, sources: what it is measured on, and where each prompt comes from.
        neutral: texts on which the KL is measured; packaged ones unless given.
        max_kl: the budget, nats per affected token.
        sign: 1 where the target should rise, -1 where it should fall.
        random: random directions in the place of each way's own; 0 for none.
        seed: of the split, the directions, the resampling.
        progress: told what comes next.

    Raises:
        DataError, PromptError, MismatchError: before any forward pass; DataError also for a way that changes nothing.
    """
    plans = _plans(model, ways)
    if not max_kl > 0:
        raise DataError(f"max_kl={max_kl!r}: give a budget above zero")
    if sign not in (1, -1):
        raise DataError(f"sign={sign!r}: give 1 for a target that should rise, -1 for one that should fall")
    given = listed(prompts)[0] if prompts is not None else None
    if given is not None:
        prompt_sources(sources, len(given))
    texts = tuple(neutral) if neutral is not None else default_texts(model.shape.name)
    settings = Settings(random=random, random_generated=min(random, 20), max_kl=max_kl, seed=seed)

    def arms(plan: Plan) -> Comparison:
        return Comparison(
            Arm(model), Arm(model, plan), target, given, list(sources) if sources else None, texts, settings
        )

    base = arms(next(iter(plans.values()))).before
    split = statistics.split_by_source(base.sources, seed=seed)
    rows: list[_Measured] = []
    for name, plan in plans.items():
        progress(f"measuring {name}")
        rows.append(_measured(arms, name, plan, base.values, max_kl))
    facts = {
        "target": target.describe(), "max_kl": max_kl, "sign": sign, "random": random, "seed": seed,
        "tune_items": len(split[0]), "report_items": len(split[1]), "neutral_texts": len(texts),
        "model": describe(model), "versions": versions(),
    }  # fmt: skip
    told = _words(arms(next(iter(plans.values()))), base.values, split[1], seed)
    return _side_by_side(rows, base.sources, split, told, facts)


def _plans(model: SteeringModel, ways: Mapping[str, PlanLike | SteeringVector]) -> dict[str, Plan]:
    if len(ways) < 2:
        raise DataError(f"{len(ways)} way{'s' * (len(ways) != 1)} cannot be compared; give two or more by name")
    plans = {str(name): Plan.of(Add(way) if isinstance(way, SteeringVector) else way) for name, way in ways.items()}
    for name, plan in plans.items():
        if not plan.actions(model.shape):
            raise DataError(f"the way {name!r} does nothing; give a plan whose strength is not 0")
    return plans


@dataclass(frozen=True, eq=False)
class _Measured:
    """One way at the budget, item by item."""

    name: str
    plan: Plan
    factor: float
    kl: float
    reached: bool
    moved: Array  # [items]
    random: Array  # [directions, items]
    efficiency: Array  # [items]


def _measured(
    arms: Callable[[Plan], Comparison], name: str, plan: Plan, base: Array, max_kl: float
) -> _Measured:  # fmt: skip
    def spent(factor: float) -> float:
        return arms(scaled(plan, factor)).divergence.mean

    most = _most(plan)
    try:
        factor, kl = strength_at(spent, max_kl, start=min(1.0, most))
    except ValueError as error:
        raise DataError(f"the way {name!r} cannot be brought to the budget: {error}") from error
    if factor > most:
        factor, kl = most, spent(most)
    there = arms(scaled(plan, factor))
    small = SMALL * factor  # a part of what spends the budget, so that the vector's length makes no difference
    fisher = 2 * spent(small) / small**2
    values = there.under([there.steered.plan, scaled(plan, small), scaled(plan, -small)])
    controls = there.controls
    if not isinstance(there.target, LogitTarget):
        controls = controls[: there.settings.random_generated]
    drawn = there.under(controls) - base if controls else np.zeros((0, len(base)))
    efficiency = (values[1] - values[2]) / (2 * small * np.sqrt(fisher))
    reached = abs(kl - max_kl) <= 2 * TOLERANCE * max_kl
    return _Measured(name, there.steered.plan, factor, kl, reached, values[0] - base, drawn, efficiency)


def _most(plan: Plan) -> float:
    """The factor at which the first operation that is no addition is done in full."""
    others = [item.strength for item in plan if not isinstance(item, Add)]
    largest = [max(map(abs, s.values)) if isinstance(s, Schedule) else abs(s) for s in others]
    return min((FULL / size for size in largest if size), default=float("inf"))


def _words(comparison: Comparison, base: Array, report: Array, seed: int) -> Estimate | None:
    assert comparison.target is not None
    words = comparison.target.in_words()
    if not words:
        return None
    told = comparison.measure(comparison.base, preface=words)
    return statistics.mean((told.values - base)[report], [told.sources[i] for i in report], seed=seed)


def _side_by_side(
    rows: Sequence[_Measured], sources: Sequence[str], split: tuple[Array, Array], words: Estimate | None,
    facts: dict[str, Any],
) -> SideBySide:  # fmt: skip
    tune, report = split
    own = [sources[i] for i in report]
    best = max(rows, key=lambda row: facts["sign"] * row.moved[tune].mean())
    found: list[Contender] = []
    for row in rows:
        effect = statistics.mean(row.moved[report], own, seed=facts["seed"])
        behind = None
        if row is not best:
            behind = statistics.mean((row.moved - best.moved)[report], own, seed=facts["seed"])
        drawn = row.random[:, report].mean(1)
        low, high = (float(end) for end in np.quantile(drawn, [0.025, 0.975])) if len(drawn) else (None, None)
        found.append(Contender(
            row.name, row.factor, row.kl, row.reached, effect, float(row.moved[tune].mean()), behind,
            float(row.efficiency[report].mean()), low, high,
            statistics.rank_p_value(effect.value, drawn) if len(drawn) else None,
        ))  # fmt: skip
    return SideBySide(tuple(found), words, {row.name: row.plan for row in rows}, facts)
