"""Means with their intervals, as the tour shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """A mean over ``n`` items and its 95% interval, bootstrapped over them."""

    value: float
    low: float
    high: float
    n: int


def mean(values: Tensor, seed: int, resamples: int = 2000) -> Mean:
    """The mean of values and its percentile bootstrap interval."""
    own = values.double().numpy()
    picks = np.random.default_rng(seed).integers(0, len(own), (resamples, len(own)))
    low, high = np.quantile(own[picks].mean(1), [0.025, 0.975])
    return Mean(float(own.mean()), float(low), float(high), len(own))
