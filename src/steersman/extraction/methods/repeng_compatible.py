"""The direction of repeng's default method, ``pca_diff``, as published: unit norm, its own scale.

``v = PC1({D_i})``, ``D_i = h+_i - h-_i``, by scikit-learn's ``PCA``, with the sign for which positive examples project
above negative ones in most pairs (https://github.com/vgel/repeng).

**A trap, kept on purpose.** ``PCA`` centres its data, so the mean difference, which is what the pairs share, is
removed before the first component is found. What remains is how the pairs differ from each other: where all pairs are
shifted alike, ``|cos(v, mean difference)|`` is near 0. Use it to repeat what repeng does; use ``mean_difference`` or
``pca`` (uncentred) to find the direction that the pairs share.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import DataError


def repeng_compatible(positive: Tensor, negative: Tensor) -> Tensor:
    """The first principal component of the *centred* pair differences: ``[width]``, unit length. Needs pairs.

    Raises:
        DataError: all differences are the same, so that nothing is left once they are centred.
    """
    from sklearn.decomposition import PCA

    differences = positive - negative
    spread = differences - differences.mean(0)
    if float(spread.norm()) <= 1e-12 * float(differences.norm()):
        raise DataError(
            "repeng_compatible centres the pair differences, and these are all the same, so nothing is left; give "
            'more pairs, or use method="pca", which does not centre'
        )
    fitted: Any = PCA(n_components=1, whiten=False, random_state=0).fit(differences.numpy())
    first = torch.from_numpy(fitted.components_[0].copy())
    above = differences @ first
    return -first if int((above < 0).sum()) > int((above > 0).sum()) else first
