"""Whether the steered text is still text: surprise under the unsteered model, variety, loops, and endings.

- ``NLL = -1/T sum_t log p_0(y_t | x, y_<t)`` of a generated text y under the *unsteered* model. Alone it rewards
  repetition, which is likely; so it stands beside the others.
- ``distinct-n``: different n-grams over all n-grams of a text (Li et al. 2016, arXiv:1510.03055).
- repeated 4-grams: the share of 4-grams that occurred before in the same text (as seq-rep-4 of Welleck et al. 2019,
  arXiv:1908.04319).
- the longest loop: the most tokens of a text that are one block repeated at least twice in a row, over its length.
- endings: the share of texts that come to an end by themselves.

The control is chance: unsteered texts drawn with another seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..arms import Arm, Comparison
from ..items import Array
from ..samples import Samples
from ..scoring import token_log_probabilities
from ..statistics import mean
from .base import Better, Control, Metric, Row, change


def distinct(tokens: Sequence[int], n: int) -> float:
    """The share of different n-grams; 1 for a text shorter than n."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repeated(tokens: Sequence[int], n: int = 4) -> float:
    """The share of n-grams that occurred before in the text; 0 for a text shorter than n."""
    return 1.0 - distinct(tokens, n)


def longest_loop(tokens: Sequence[int]) -> int:
    """The length of the longest stretch in which one block of tokens stands at least twice in a row.

    Of ``a b c b c b x`` it is 5: ``b c b c b``, the block of two with its last repeat in part.
    """
    best = 0
    for period in range(1, len(tokens) // 2 + 1):
        run = 0
        for here in range(period, len(tokens)):
            run = run + 1 if tokens[here] == tokens[here - period] else 0
            if run >= period:
                best = max(best, run + period)
    return best


def surprise(arm: Arm, samples: Samples) -> Array:
    """The mean negative log-likelihood per token of each text under an arm, nats."""
    pairs = list(zip(samples.prompts, samples.tokens, strict=True))
    return np.array([-float(found.mean()) for found in token_log_probabilities(arm.model, pairs, arm.plan)])


@dataclass(frozen=True)
class Fluency(Metric):
    """Texts drawn from both arms with the same seeds, compared.

    Attributes:
        n: of the n-grams whose variety is measured.
    """

    n: int = 2

    name = "fluency"

    def rows(self, comparison: Comparison) -> list[Row]:
        """One row for each measure."""
        base, again, steered = comparison.samples
        nll = [surprise(comparison.base, samples) for samples in (base, again, steered)]
        found = [self._row(comparison, "nll", "NLL under the unsteered model", "nats per token", "lower", *nll)]
        measures: list[tuple[str, str, Better, Callable[[Sequence[int]], float]]] = [
            (f"distinct_{self.n}", f"distinct {self.n}-grams", "higher", lambda tokens: distinct(tokens, self.n)),
            ("repeated_4", "repeated 4-grams", "lower", repeated),
            ("loop", "longest loop", "lower", lambda tokens: longest_loop(tokens) / max(1, len(tokens))),
        ]
        for name, title, better, measure in measures:
            values = [np.array([measure(tokens) for tokens in one.tokens]) for one in (base, again, steered)]
            found.append(self._row(comparison, name, title, "share of the text", better, *values))
        ended = [np.array(one.ended, dtype=np.float64) for one in (base, again, steered)]
        found.append(self._row(comparison, "ended", "texts that end by themselves", "share", "neither", *ended))
        return found

    def _row(
        self, comparison: Comparison, name: str, title: str, unit: str, better: Better, base: Array, again: Array,
        steered: Array,
    ) -> Row:  # fmt: skip
        samples = comparison.samples[0]
        difference = mean(steered - base, samples.sources, seed=comparison.settings.seed)
        return Row(
            name, title, unit, float(base.mean()), float(steered.mean()), difference, "difference", better,
            Control("another seed", float((again - base).mean()), len(again)), change(difference, better),
            {"texts": len(base), "max_new_tokens": comparison.settings.sampling.max_new_tokens},
        )  # fmt: skip
