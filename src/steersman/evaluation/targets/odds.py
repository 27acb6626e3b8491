"""How likely continuations are against everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import DataError
from ...model import SteeringModel
from ..items import Array, Ids, Scores
from .contrast import ContinuationTarget, shortest


@dataclass(frozen=True)
class LogOdds(ContinuationTarget):
    """``m(x) = log P - log(1 - P)`` with ``P = sum_{y in Y} p(y | x)``; made by :func:`log_odds`.

    Attributes:
        continuations: the texts Y.
        instruction: asks for them in words, for the prompt baseline.
    """

    continuations: tuple[str, ...]
    instruction: str | None = None

    kind = "log_odds"

    def tokens(self, model: SteeringModel) -> tuple[tuple[Ids, ...], tuple[Ids, ...]]:
        """Y twice: the other side of P is 1 - P, and needs no scoring."""
        ids = tuple(shortest({tuple(model.tokens.continuation(text)): text for text in self.continuations}))
        return ids, ids

    def values(self, scores: Scores) -> Array:
        """The log-odds of each unit, nats."""
        likely = np.minimum(scores.log_positive, -1e-15)  # rounding may bring P to 1
        return replace(scores, log_positive=likely, log_negative=np.log(-np.expm1(likely))).values("propensity")

    def describe(self) -> dict[str, Any]:
        """What it measures, as JSON-able values."""
        return {"kind": self.kind, "unit": self.unit, "positive": list(self.continuations)}

    def in_words(self) -> str | None:
        """The instruction given, if any."""
        return self.instruction


def log_odds(continuations: str | Sequence[str], *, instruction: str | None = None) -> LogOdds:
    """A target that weighs continuations against all others: ``log_odds([" I cannot", " Sorry"])``.

    With the tokens that a refusal begins with it is the refusal metric of Arditi et al. 2024 (arXiv:2406.11717):
    ``log P - log(1 - P)``; above 0 a refusal is the likelier.

    Args:
        continuations: texts that may follow a prompt directly.
        instruction: asks for them in words; the prompt baseline uses it.

    Raises:
        DataError: no continuation, or one that is no text.
    """
    given = (continuations,) if isinstance(continuations, str) else tuple(continuations)
    if not given or not all(isinstance(text, str) and text for text in given):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(f"log_odds() needs at least one text, each not empty, got {continuations!r}")
    return LogOdds(tuple(dict.fromkeys(given)), instruction)
