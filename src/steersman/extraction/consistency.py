"""How alike the pairs are: known before any steering, and a predictor of how reliably their mean will steer.

A direction steers the more reliably, the more the differences of its pairs agree with one another (Braun et al. 2025,
"Understanding (Un)Reliability of Steering Vectors in Language Models", arXiv:2505.22637).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

#: Random halves that the split-half cosine is averaged over.
SPLITS = 20


@dataclass(frozen=True)
class Consistency:
    """Agreement of the differences ``D_i = h+_i - h-_i`` of n pairs.

    Attributes:
        cosine: the mean over i of ``cos(D_i, mean(D))``.
        r_squared: ``|mean(D)|^2 / mean |D_i|^2 - 1/n``: the share of the differences' squared length that is common to
            all, less what n unrelated differences would show.
        split_half: cosine between the mean differences of two random halves of the sources, averaged over splits.
        split_half_full: the same, carried from half to full length by Spearman and Brown's ``2r / (1 + r)``; None
            where r is not above zero.
    """

    cosine: float
    r_squared: float
    split_half: float
    split_half_full: float | None


def consistency(positive: Tensor, negative: Tensor, sources: Sequence[str], *, seed: int = 0) -> Consistency | None:
    """The agreement of pairs, or None if every pair is without a difference or there is one source only.

    Args:
        positive, negative: ``[n, width]``, pair by pair.
        sources: of each pair; a source is never split between the halves.
        seed: of the halves.
    """
    differences = positive - negative
    names, of = np.unique(np.array(sources), return_inverse=True)
    size = float(differences.square().sum(1).mean())
    if len(names) < 2 or not size:
        return None
    mean = differences.mean(0)
    rng = np.random.default_rng(seed)
    halves = [torch.from_numpy((rng.permutation(len(names)) % 2)[of] == 1) for _ in range(SPLITS)]
    agreement = [float(cosine_similarity(differences[h].mean(0), differences[~h].mean(0), dim=0)) for h in halves]
    half = float(np.mean(agreement))
    return Consistency(
        cosine=float(cosine_similarity(differences, mean[None]).mean()),
        r_squared=float(mean.square().sum()) / size - 1 / len(differences),
        split_half=half,
        split_half_full=2 * half / (1 + half) if half > 0 else None,
    )
