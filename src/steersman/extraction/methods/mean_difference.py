"""Difference of means: ``v = mean(h+) - mean(h-)``.

Contrastive activation addition (Rimsky et al. 2023, arXiv:2312.06681); for a single pair the difference that
activation addition adds (Turner et al. 2023, arXiv:2308.10248). In AxBench (Wu et al. 2025, arXiv:2501.17148) the best
of the steering directions that need no training.
"""

from torch import Tensor

from ..moments import Moments


def mean_difference(positive: Tensor, negative: Tensor) -> Tensor:
    """``mean(positive) - mean(negative)``: ``[width]``. For pairs the same as the mean of their differences."""
    return positive.mean(0) - negative.mean(0)


def mean_difference_of(positive: Moments, negative: Moments) -> Tensor:
    """The same from the moments of the two classes."""
    return positive.mean - negative.mean
