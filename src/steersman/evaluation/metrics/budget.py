"""What a plan does for its price: the effect at a fixed KL, and the slope over the square root of the Fisher
information.

Strengths of different vectors, layers and methods cannot be compared, since their units are arbitrary. For small
strengths ``K(s) = F s^2 / 2`` with F the Fisher information of the distribution along the direction, so

- the strength that spends a budget ``e`` is ``s = s_0 sqrt(e / K(s_0))``, corrected once by measuring there;
- ``slope / sqrt(F)`` does not change when the vector is rescaled: nats of effect per square root of nats spent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..arms import Arm, Comparison
from ..statistics import mean
from .base import Metric, Row, change
from .dose import scaled

#: How close to the budget a strength is sought, and how often it is corrected.
TOLERANCE, CORRECTIONS = 0.02, 6
#: The share of the plan's strength at which F and the slope are measured, unless the budget is below it.
SMALL = 0.25


def strength_at(kl: Callable[[float], float], budget: float, *, start: float = 1.0) -> tuple[float, float]:
    """The strength that spends a KL budget, and what it was measured to spend.

    From one probe by the quadratic law, then corrected by secants of ``log K`` over ``log s`` where the law bends.

    Args:
        kl: K at a strength.
        budget: nats per token, above 0.
        start: the first strength probed.

    Raises:
        ValueError: the KL at ``start`` is zero: nothing is affected.
    """
    strength, spent = start, kl(start)
    if spent <= 0:
        raise ValueError("the plan changes no prediction on the neutral text, so no strength spends the budget")
    power = 2.0
    for _ in range(CORRECTIONS):
        if abs(spent - budget) <= TOLERANCE * budget:
            break
        following = strength * (budget / spent) ** (1 / power)
        following = min(max(following, strength / 16), strength * 16)
        measured = kl(following)
        if measured > 0 and following != strength and measured != spent:
            slope = np.log(measured / spent) / np.log(following / strength)
            power = float(np.clip(slope, 0.5, 6.0))
        strength, spent = following, measured
    return strength, spent


@dataclass(frozen=True)
class AtBudget(Metric):
    """The effect when the plan's strength is set to spend the budget, and the efficiency at small strength."""

    name = "effect_at_budget"
    needs = ("target", "plan")

    def rows(self, comparison: Comparison) -> list[Row]:
        """Both figures; nothing where the plan changes no prediction on the neutral text."""
        assert comparison.target is not None
        plan, budget = comparison.steered.plan, comparison.settings.max_kl
        full = comparison.divergence.mean
        if full <= 0:
            return []

        def kl(factor: float) -> float:
            if factor == 1.0:
                return full
            return comparison.divergences([Arm(comparison.base.model, scaled(plan, factor))])[0].mean

        factor, spent = strength_at(kl, budget)
        small = min(SMALL, factor)
        sides = comparison.under([scaled(plan, factor), scaled(plan, -small), scaled(plan, small)])
        before, seed = comparison.before, comparison.settings.seed
        effect = mean(sides[0] - before.values, before.sources, seed=seed)
        fisher = 2 * kl(small) / small**2
        efficiency = mean((sides[2] - sides[1]) / (2 * small) / np.sqrt(fisher), before.sources, seed=seed)
        unit = comparison.target.unit
        spending = {"factor": factor, "kl": spent, "budget": budget}
        return [
            Row(self.name, f"effect at KL {budget:g}", unit, float(before.values.mean()), float(sides[0].mean()),
                effect, better="higher", verdict=change(effect), details=spending),
            Row("efficiency", "slope / root of Fisher information", f"{unit} per root nat", difference=efficiency,
                better="higher", verdict=change(efficiency), details={"fisher": fisher, "measured_at": small}),
        ]  # fmt: skip
