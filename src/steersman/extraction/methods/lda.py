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
from ..moments import Moments


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
    if shrinkage is None:
        from sklearn.covariance import ledoit_wolf_shrinkage

        shrinkage = float(ledoit_wolf_shrinkage(within.numpy(), assume_centered=True)) if count > 2 else 0.0
    _check(shrinkage, count, width)
    ridge = shrinkage * float(within.square().sum()) / count / width
    return ridge_solve(within, (1 - shrinkage) / count, ridge, gap)


def lda_of(positive: Moments, negative: Moments, *, shrinkage: float | None = None) -> Tensor:
    """The same from the moments of the two classes, of order 4."""
    count, width = positive.count + negative.count, len(positive.mean)
    assert positive.scatter is not None
    assert negative.scatter is not None
    covariance = (positive.scatter + negative.scatter) / count
    if shrinkage is None:
        assert positive.fourth is not None
        assert negative.fourth is not None
        shrinkage = ledoit_wolf(covariance, float(positive.fourth + negative.fourth), count) if count > 2 else 0.0
    _check(shrinkage, count, width)
    ridge = shrinkage * float(covariance.trace()) / width
    shrunk = (1 - shrinkage) * covariance + ridge * torch.eye(width, dtype=covariance.dtype)
    gap = positive.mean - negative.mean
    return torch.linalg.solve(shrunk, gap) if bool(covariance.any()) else gap


def ledoit_wolf(covariance: Tensor, fourth: float, count: int) -> float:
    """The a of Ledoit and Wolf from the covariance S ``[p, p]`` of n centred rows and ``fourth = sum |x|^4``:

    a = min(1, ((sum |x|^4) / n - |S|^2) / n / (|S|^2 - tr(S)^2 / p))
    """
    size, width = float(covariance.square().sum()), len(covariance)
    spread, away = (fourth / count - size) / count, size - float(covariance.trace()) ** 2 / width
    return min(1.0, spread / away) if min(spread, away) > 0 else 0.0


def _check(shrinkage: float, count: int, width: int) -> None:
    if count < 3:
        raise DataError("lda needs at least two examples in a class, to see how they vary within it")
    if not 0 <= shrinkage <= 1:
        raise DataError(f"shrinkage must lie between 0 and 1, got {shrinkage}")
    if shrinkage == 0 and count - 2 < width:
        raise DataError(f"{count} examples give no covariance of full rank in {width} dimensions; leave shrinkage= out")


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
