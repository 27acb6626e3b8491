"""Items in two or three parts: what is found or chosen on one is reported on another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from ..evaluation import statistics
from ..evaluation.items import Array


def parts(sources: Sequence[str], shares: Sequence[float], what: str, seed: int) -> list[Array]:
    """The indices of each part, ascending; no source lies in two.

    Args:
        sources: of each item.
        shares: of the sources that go into each part but the last, which gets the rest.
        what: the items' name, for messages.
        seed: of the draw.

    Raises:
        DataError: fewer sources than parts.
    """
    distinct = len(set(sources))
    if distinct <= len(shares):
        raise DataError(
            f"{distinct} source{'s' * (distinct != 1)} of {what} cannot be parted into {len(shares) + 1} sets that "
            "share none; give more, or leave sources= out if each stands for itself"
        )
    rest, found, left = np.arange(len(sources)), [], 1.0
    for share in shares:
        inside, outside = statistics.split_by_source([sources[int(i)] for i in rest], tune=share / left, seed=seed)
        found.append(rest[inside])
        rest, left = rest[outside], left - share
    return [*found, rest]
