"""Whether the effect carries over to other data: ``E_ood / E_iid``.

The same change of the target on prompts of another template or data set, over the change on the first ones (Tan et al.
2024, arXiv:2407.12404, who find that steering often does not carry over).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...model.tokens import Prompt
from ..arms import Comparison
from ..statistics import Estimate, mean, ratio_of_means
from .base import Metric, Row, change


@dataclass(frozen=True)
class Transfer(Metric):
    """The effect on other prompts, and its ratio to the effect on the first.

    Attributes:
        prompts: the other prompts.
        sources: of each.
    """

    prompts: Sequence[Prompt]
    sources: Sequence[str] | None = None

    name = "effect_elsewhere"
    needs = ("target",)

    def rows(self, comparison: Comparison) -> list[Row]:
        """Two rows."""
        assert comparison.target is not None
        base, steered = (
            comparison.target.measure(arm.model, list(self.prompts), steer=arm.plan, sources=self.sources)
            for arm in (comparison.base, comparison.steered)
        )
        seed = comparison.settings.seed
        elsewhere = base.values, steered.values - base.values
        here = comparison.after.values - comparison.before.values
        effect = mean(elsewhere[1], base.sources, seed=seed)
        ratio = ratio_of_means((elsewhere[1], base.sources), (here, comparison.before.sources), seed=seed)
        return [
            Row(self.name, "effect on other prompts", comparison.target.unit, float(base.values.mean()),
                float(steered.values.mean()), effect, better="higher", verdict=change(effect),
                details={"prompts": len(base.values)}),
            Row("transfer", "of the effect, carried over", "ratio", difference=ratio, better="higher",
                verdict=_said(ratio)),
        ]  # fmt: skip


def _said(ratio: Estimate) -> str:
    if ratio.low is None or ratio.high is None:
        return ratio.note or ""
    if ratio.low > 0.8:
        return "carries over"
    return "partly" if ratio.low > 0 else "does not carry over for certain"
