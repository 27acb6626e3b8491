"""Mean-centring: ``v = mean(h_target) - mean(h_corpus)``.

Jorgensen et al. 2023, "Improving Activation Steering in Language Models with Mean-Centring" (arXiv:2312.03813). The
negative examples are a sample of general text. Activations lie far from the origin, all in much the same direction; the
mean of one class alone is mostly that direction, and subtracting the mean of general text takes it away.

The arithmetic is that of the mean difference: given the negatives of contrast pairs as the corpus, it is the same.
"""

from torch import Tensor

from .mean_difference import mean_difference


def mean_centred(positive: Tensor, negative: Tensor) -> Tensor:
    """``mean(positive) - mean(negative)``, the negatives being a general corpus: ``[width]``."""
    return mean_difference(positive, negative)
