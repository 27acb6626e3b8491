"""A logistic probe's weights: ``v = w / sigma``, ``w = argmin mean_i log(1 + exp(-y_i (w . x_i + b))) + a/2 |w|^2``.

``x = (h - mean) / sigma`` are standardised activations; dividing w by sigma expresses it in the residual stream's own
units. With a large penalty a, w becomes the mean difference of the standardised data. A probe's direction tells the
classes apart well and is usually a poor one to steer by (AxBench, Wu et al. 2025, arXiv:2501.17148).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError


def logistic(positive: Tensor, negative: Tensor, *, penalty: float = 0.01) -> Tensor:
    """The normal of the logistic decision boundary, in raw units: ``[width]``.

    Args:
        positive, negative: ``[n, width]`` and ``[m, width]``.
        penalty: a, on the *mean* loss, so that it means the same for any number of examples (scikit-learn's ``C`` is
            ``1 / (a (n + m))``).

    Raises:
        DataError: a penalty that is not above zero.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if not penalty > 0:
        raise DataError(f"penalty must be above zero, got {penalty}")
    values = torch.cat([positive, negative]).numpy()
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    scaler = StandardScaler().fit(values)
    probe = LogisticRegression(C=1 / (penalty * len(values)), solver="newton-cg", tol=1e-8, max_iter=1000)
    probe.fit(scaler.transform(values), labels)
    return torch.from_numpy(probe.coef_[0] / scaler.scale_)
