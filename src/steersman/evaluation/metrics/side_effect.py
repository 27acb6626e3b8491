"""What it costs where it should do nothing: KL per affected token on neutral text.

See :mod:`steersman.evaluation.divergence`. A KL above about half a nat per token is a damaged model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arms import Arm, Comparison
from .base import Control, Metric, Row

#: Random directions whose KL is measured: each costs a pass over the neutral text.
CONTROLS = 10


@dataclass(frozen=True)
class SideEffect(Metric):
    """Mean and 95th percentile of the KL, and how often the likeliest token stays."""

    name = "kl"

    def rows(self, comparison: Comparison) -> list[Row]:
        """Three rows of one pass over the neutral text."""
        found = comparison.divergence
        estimates = found.estimates(comparison.settings.seed)
        texts = len(comparison.neutral)
        facts = {"affected_tokens": len(found.kl), "texts": texts}
        arms = [Arm(comparison.base.model, plan) for plan in comparison.controls[:CONTROLS]]
        drawn = [one.mean for one in comparison.divergences(arms)]
        control = Control("random directions", float(np.median(drawn)), len(drawn)) if drawn else None
        budget = comparison.settings.max_kl
        kl = estimates["mean"]
        if kl.low is None or kl.high is None:
            said = kl.note or ""
        elif kl.high <= budget:
            said = f"within the budget of {budget:g}"
        else:
            said = f"{'above' if kl.low > budget else 'about'} the budget of {budget:g}"
        return [
            Row("kl", "KL on neutral text", "nats per token", difference=kl, better="lower",
                control=control, verdict=said, details={**facts, "random": drawn} if drawn else facts),
            Row("kl_p95", "KL, 95th percentile", "nats", difference=estimates["p95"], better="lower", details=facts),
            Row("top1", "likeliest token unchanged", "share", difference=estimates["top1"], better="higher",
                details=facts),
        ]  # fmt: skip
