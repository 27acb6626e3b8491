"""The effect: how far the target moves, against random directions and against words.

``E = mean_i [m_i(steered) - m_i(base)]`` over items i, paired. For logit targets m is the propensity ``log P(Y+) - log
P(Y-)`` unless told otherwise (Rimsky et al. 2023, arXiv:2312.06681; Tan et al. 2024, arXiv:2407.12404).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arms import Comparison
from ..statistics import Estimate, mean, rank_p_value, share
from .base import Control, Metric, Row, change


@dataclass(frozen=True)
class Effect(Metric):
    """The mean change of the target, with its rank among random directions of the same length."""

    name = "effect"
    needs = ("target",)

    def rows(self, comparison: Comparison) -> list[Row]:
        """The effect, and the share of items that move the other way."""
        before, after = comparison.before, comparison.after
        assert comparison.target is not None
        moved = after.values - before.values
        seed = comparison.settings.seed
        difference = mean(moved, before.sources, seed=seed)
        control = None
        if comparison.controls:
            drawn = comparison.random_effects
            p = rank_p_value(difference.value, drawn)
            control = Control("random directions", float(np.quantile(np.abs(drawn), 0.95)), len(drawn), p)
        against = np.sign(moved) == -np.sign(difference.value)
        opposite = share(against, before.sources)
        details = {"opposite": opposite.as_json(), "random": comparison.random_effects.tolist() if control else None}
        return [
            Row(
                self.name, "effect", comparison.target.unit, float(before.values.mean()), float(after.values.mean()),
                difference, "difference", "higher", control, _verdict(difference, control),
                {name: value for name, value in details.items() if value is not None},
            )
        ]  # fmt: skip


@dataclass(frozen=True)
class InWords(Metric):
    """The same change, asked for in words without steering: the rival of every vector (Wu et al. 2025,
    arXiv:2501.17148).

    Attributes:
        instruction: the words; those of the target unless given.
    """

    instruction: str | None = None

    name = "prompt"
    needs = ("target",)

    def rows(self, comparison: Comparison) -> list[Row]:
        """The effect of the instruction; nothing where the target knows no words."""
        assert comparison.target is not None
        words = self.instruction if self.instruction is not None else comparison.target.in_words()
        if not words:
            return []
        told = comparison.measure(comparison.base, preface=words)
        before, after = comparison.before, comparison.after
        seed = comparison.settings.seed
        difference = mean(told.values - before.values, before.sources, seed=seed)
        beyond = mean(after.values - told.values, before.sources, seed=seed)
        said = {"higher": "steering does more", "lower": "words do more"}.get(change(beyond), change(beyond))
        said = "no difference to steering seen" if said == "no change seen" else said
        return [
            Row(
                self.name, "effect of words", comparison.target.unit, float(before.values.mean()),
                float(told.values.mean()), difference, "difference", "neither", None, said,
                {"instruction": words, "steering_beyond_words": beyond.as_json()},
            )
        ]  # fmt: skip


def _verdict(difference: Estimate, control: Control | None) -> str:
    said = change(difference)
    if said in ("no change seen",) or difference.low is None:
        return said
    if control is None or control.p_value is None:
        return f"{said} (no control by random directions)"
    if control.p_value <= 0.05:
        return f"{said}, more than random directions (p = {control.p_value:.2g})"
    return f"{said}, but random directions do as much (p = {control.p_value:.2g})"
