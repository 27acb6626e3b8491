"""Dose and response: the slope of each item, and how many items go the wrong way.

``s_i`` is the least-squares slope of item i's target over strengths; steerability is its mean, and the anti-steerable
share is ``P(s_i < 0)`` (Tan et al. 2024, arXiv:2407.12404). The strengths are multiples of the plan's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...conditions import Schedule
from ...operations.base import Intervention
from ...plan import Plan
from ..arms import Arm, Comparison
from ..items import Array
from ..statistics import mean, share, slopes, spearman
from .base import Metric, Row, change


def scaled(plan: Plan, factor: float) -> Plan:
    """The plan with all its strengths multiplied."""
    return Plan([_scaled(item, factor) for item in plan])


def _scaled(item: Intervention, factor: float) -> Intervention:
    own = item.strength
    strength = Schedule(tuple(v * factor for v in own.values)) if isinstance(own, Schedule) else own * factor
    return replace(item, strength=strength)  # pyright: ignore[reportArgumentType, reportUnknownVariableType, reportCallIssue]


#: Random directions that the band of the curve is drawn from, at each strength.
BAND = 40


@dataclass(frozen=True)
class DoseResponse(Metric):
    """The slope over multiples of the plan's strength.

    Attributes:
        factors: the multiples; symmetric, so that bending shows.
    """

    factors: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.5, 1.0)

    name = "slope"
    needs = ("target", "plan")

    def rows(self, comparison: Comparison) -> list[Row]:
        """The mean slope and the anti-steerable share."""
        assert comparison.target is not None
        x = np.array(self.factors)
        plan, base = comparison.steered.plan, comparison.before
        own = {0.0: base.values, 1.0: comparison.after.values}
        rest = [factor for factor in self.factors if factor not in own]
        found = comparison.under([scaled(plan, factor) for factor in rest]) if rest else []
        curves = np.stack([(own | dict(zip(rest, found, strict=True)))[factor] for factor in self.factors], axis=1)
        each = slopes(x, curves)
        seed = comparison.settings.seed
        steerability = mean(each, base.sources, seed=seed)
        anti = share(each < 0, base.sources)
        moved = curves - base.values[:, None]
        effects = [mean(column, base.sources, seed=seed) for column in moved.T]
        details = {
            "factors": list(self.factors),
            "effects": [effect.as_json() for effect in effects],
            "random": self._band(comparison),
            "kl": self._costs(comparison),
            "slopes": each.tolist(),
            "slope_sd": float(each.std(ddof=1)) if len(each) > 1 else None,
            "spearman": spearman(x, moved.mean(0)),
            "asymmetry": {
                str(f): effects[i].value + effects[self.factors.index(-f)].value
                for i, f in enumerate(self.factors)
                if f > 0 and -f in self.factors
            },
        }
        unit = f"{comparison.target.unit} per strength of the plan"
        return [
            Row(self.name, "slope", unit, difference=steerability, better="higher", verdict=change(steerability),
                details=details),
            Row("anti_steerable", "items that go the other way", "share", difference=anti, better="lower",
                verdict=_said(anti.value)),
        ]  # fmt: skip

    def _band(self, comparison: Comparison) -> list[list[float]] | None:
        """At each strength the interval that holds 95% of random directions' effects; None without controls."""
        drawn = comparison.controls[:BAND]
        if not drawn:
            return None
        bands: list[list[float]] = []
        for factor in self.factors:
            effects: Array = np.zeros(1)
            if factor == 1:
                effects = comparison.random_effects
            elif factor:
                moved = comparison.under([scaled(plan, factor) for plan in drawn]) - comparison.before.values
                effects = moved.mean(1)
            bands.append([float(end) for end in np.quantile(effects, [0.025, 0.975])])
        return bands

    def _costs(self, comparison: Comparison) -> list[float]:
        """The KL on neutral text at each strength."""
        own = {0.0: 0.0, 1.0: comparison.divergence.mean}
        rest = [factor for factor in self.factors if factor not in own]
        arms = [Arm(comparison.base.model, scaled(comparison.steered.plan, factor)) for factor in rest]
        found = [one.mean for one in comparison.divergences(arms)]
        own |= dict(zip(rest, found, strict=True))
        return [own[factor] for factor in self.factors]


def _said(anti: float) -> str:
    return "none" if anti == 0 else "all" if anti == 1 else "nearly half or more" if anti > 0.4 else "some"
