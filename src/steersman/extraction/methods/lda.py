"""Linear discriminant analysis: ``v = S^-1 (mean(h+) - mean(h-))``, S the covariance within the classes.

Fisher 1936, "The use of multiple measurements in taxonomic problems". For two Gaussian classes that share a covariance
it is the Bayes-optimal direction to tell them apart. S is shrunk towards a multiple of the identity,
``(1 - a) S + a tr(S)/width I``, with the a of Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional
covariance matrices", unless another is given. It is a direction to read by, as in a condition; to steer, the mean
difference is the better start, since this one leaves out of it whatever varies within the classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import DataError


def lda(positive: Tensor, negative: Tensor, *, shrinkage: float | None = None) -> Tensor:
    """``S^-1 (mean(positive) - mean(negative))``: ``[width]``.

    Args:
        positive, negative: ``[n, width]`` and ``[m, width]``.
        shrinkage: a, from 0 (none) to 1 (the mean difference); None estimates it.

    Raises:
        DataError: shrinkage outside 0 to 1, or 0 with a covariance of less than full rank; a single example per class.
    """
    gap = positive.mean(0) - negative.mean(0)
    within = torch.cat([positive - positive.mean(0), negative - negative.mean(0)])
    count, width = within.shape
    if count < 3:
        raise DataError("lda needs at least two examples in a class, to see how they vary within it")
    if shrinkage is None:
        from sklearn.covariance import ledoit_wolf_shrinkage

        shrinkage = float(ledoit_wolf_shrinkage(within.numpy(), assume_centered=True))
    if not 0 <= shrinkage <= 1:
        raise DataError(f"shrinkage must lie between 0 and 1, got {shrinkage}")
    if shrinkage == 0 and count - 2 < width:
        raise DataError(f"{count} examples give no covariance of full rank in {width} dimensions; leave shrinkage= out")
    ridge = shrinkage * float(within.square().sum()) / count / width
    return ridge_solve(within, (1 - shrinkage) / count, ridge, gap)


def ridge_solve(rows: Tensor, scale: float, ridge: float, target: Tensor) -> Tensor:
    """``(scale R^T R + ridge I)^-1 target`` for rows R ``[n, width]``, by the smaller of the two systems."""
    count, width = rows.shape
    if not scale or not bool(rows.any()):
        return target / (ridge or 1.0)
    if ridge and count < width:  # Woodbury
        inner = rows @ rows.T + torch.eye(count, dtype=rows.dtype) * (ridge / scale)
        return (target - rows.T @ torch.linalg.solve(inner, rows @ target)) / ridge
    covariance = scale * rows.T @ rows + torch.eye(width, dtype=rows.dtype) * ridge
    return torch.linalg.solve(covariance, target)
