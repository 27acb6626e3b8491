"""Moments of many rows, gathered batch by batch in float64 and merged exactly.

Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance: analysis and recommendations": moments are
kept around the mean of what was seen, and moved to the mean of all when two sets are merged. So nothing is lost to
cancellation, however far from the origin the rows lie, and any grouping and order gives the same up to rounding. With
``x = y + mean`` over n rows, and ``d`` from the old mean to the new one of a merged set,

    S  = sum y y^T               -> S + n d d^T
    q3 = sum |y|^2 y             -> q3 + tr(S) d + 2 S d + n |d|^2 d
    q4 = sum |y|^4               -> q4 + 4 d.q3 + 4 d^T S d + 2 |d|^2 tr(S) + n |d|^4

(here ``d`` = old mean - new mean, so that ``y`` becomes ``y + d``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Moments:
    """The moments of rows ``[n, width]``.

    Args:
        width: of a row.
        order: 1 for the mean, 2 for the scatter too, 4 also for the fourth moment of the rows' lengths, by which
            shrinkage is estimated.

    Attributes:
        count: rows seen.
        mean: ``[width]``, float64.
        scatter: ``sum y y^T``, ``[width, width]``; None at order 1.
        third, fourth: ``sum |y|^2 y``, ``[width]``, and ``sum |y|^4``, a scalar; None below order 4.
    """

    def __init__(self, width: int, order: int = 1) -> None:
        self.order = order
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64) if order >= 2 else None
        self.third = torch.zeros(width, dtype=torch.float64) if order >= 4 else None
        self.fourth = torch.zeros((), dtype=torch.float64) if order >= 4 else None

    @classmethod
    def of(cls, rows: Tensor, order: int = 1) -> Moments:
        """The moments of rows ``[n, width]``."""
        found = cls(rows.shape[1], order)
        if not len(rows):
            return found
        rows = rows.detach().double()
        found.count, found.mean = len(rows), rows.mean(0)
        if order >= 2:
            centred = rows - found.mean
            found.scatter = centred.T @ centred
            if order >= 4:
                lengths = centred.square().sum(1)
                found.third, found.fourth = lengths @ centred, lengths.square().sum()
        return found

    def update(self, rows: Tensor) -> None:
        """Add rows ``[n, width]``."""
        if len(rows):
            self.merge(Moments.of(rows, self.order))

    def merge(self, other: Moments) -> None:
        """Add all that another one has seen."""
        if not other.count:
            return
        total = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / total)
        mine, theirs = self._around(mean), other._around(mean)
        if self.scatter is not None:
            self.scatter = mine[0] + theirs[0]
            if self.third is not None:
                self.third, self.fourth = mine[1] + theirs[1], mine[2] + theirs[2]
        self.count, self.mean = total, mean

    def _around(self, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scatter, third and fourth moment around another mean (zeros for what this one does not keep)."""
        none = self.mean.new_zeros(())
        if self.scatter is None or not self.count:
            return self.scatter if self.scatter is not None else none, none, none
        d = self.mean - mean
        scatter = self.scatter + self.count * torch.outer(d, d)
        if self.third is None or self.fourth is None:
            return scatter, none, none
        square, trace, turned = d @ d, self.scatter.trace(), self.scatter @ d
        third = self.third + trace * d + 2 * turned + self.count * square * d
        fourth = self.fourth + 4 * (d @ self.third) + 4 * (d @ turned) + 2 * square * trace + self.count * square**2
        return scatter, third, fourth

    def state(self, prefix: str) -> dict[str, Tensor]:
        """As tensors, to be stored."""
        own = {"mean": self.mean, "scatter": self.scatter, "third": self.third, "fourth": self.fourth}
        own["count"] = torch.tensor(self.count, dtype=torch.float64)
        return {f"{prefix}.{name}": tensor for name, tensor in own.items() if tensor is not None}

    def restore(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Back from :meth:`state`."""
        self.count = int(state[f"{prefix}.count"])
        for name in ("mean", "scatter", "third", "fourth"):
            if getattr(self, name) is not None:
                setattr(self, name, state[f"{prefix}.{name}"])
