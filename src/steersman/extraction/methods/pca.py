"""First principal component of the pair differences, uncentred: the unit v that maximises ``sum_i (v . D_i)^2``.

With ``D_i = h+_i - h-_i``, the idea of reading by linear artificial tomography (Zou et al. 2023, "Representation
Engineering", arXiv:2310.01405). The differences are *not* centred: their mean is the signal, and centring would take
it away (see :mod:`.repeng_compatible`). Equal to the first principal component of ``{+D_i/2, -D_i/2}``.

The sign is the data's: positive examples project above negative ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..moments import Moments

#: Up to this many pairs (or this width) all singular vectors are computed; beyond, only the first one.
SMALL = 256


def pca(positive: Tensor, negative: Tensor) -> Tensor:
    """The first right singular vector of ``positive - negative``, unit length: ``[width]``. Needs pairs."""
    differences = positive - negative
    first = first_singular_vector(differences)
    return first if float(differences.mean(0) @ first) >= 0 else -first


def pca_of(differences: Moments) -> Tensor:
    """The same from the moments of the differences, of order 2."""
    assert differences.scatter is not None
    uncentred = differences.scatter + differences.count * torch.outer(differences.mean, differences.mean)
    first = torch.linalg.eigh(uncentred).eigenvectors[:, -1]
    return first if float(differences.mean @ first) >= 0 else -first


def first_singular_vector(rows: Tensor) -> Tensor:
    """The unit ``[width]`` along which ``rows`` ``[n, width]`` are longest, up to its sign."""
    if min(rows.shape) <= SMALL or not bool(rows.any()):
        return torch.linalg.svd(rows, full_matrices=False).Vh[0]
    from scipy.sparse.linalg import svds

    start = np.random.default_rng(0).standard_normal(min(rows.shape))
    found: Any = svds(rows.numpy(), k=1, v0=start)
    return torch.from_numpy(np.ascontiguousarray(found[2][0]))
