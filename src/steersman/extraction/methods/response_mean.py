"""Difference of mean response activations: ``v = mean(r+) - mean(r-)``, r the mean over the tokens of a response.

Persona vectors (Chen et al. 2025, "Persona Vectors: Monitoring and Controlling Character Traits in Language Models",
arXiv:2507.21509): responses that show a trait against responses that do not, each read as the mean over its own tokens.
It is the mean difference with ``read="response"``, which this method sets.
"""

from torch import Tensor

from .mean_difference import mean_difference


def response_mean(positive: Tensor, negative: Tensor) -> Tensor:
    """``mean(positive) - mean(negative)`` of response means: ``[width]``."""
    return mean_difference(positive, negative)
