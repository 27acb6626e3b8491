"""The threshold that tells two classes apart best by F1, exactly: every place where a count changes is looked at.

``F1 = 2 TP / (2 TP + FP + FN)``, of the class that a condition shall hold for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..evaluation.items import Array


@dataclass(frozen=True)
class Cut:
    """A threshold and its side.

    Attributes:
        threshold: half way between the two scores it lies between.
        above: whether the condition holds above it, else below.
        f1: on the scores it was found on.
        margin: how far apart those two scores are, in standard deviations of all: of cuts with the same F1 the one
            with room around it is kept.
    """

    threshold: float
    above: bool
    f1: float
    margin: float

    def holds(self, scores: Array) -> Array:
        """Of scores ``[...]``, booleans."""
        return scores > self.threshold if self.above else scores < self.threshold


def best_cut(scores: Array, labels: Array, above: bool | None = None) -> Cut:
    """The cut of the highest F1, and of the widest margin among these.

    Args:
        scores: ``[n]``.
        labels: ``[n]`` booleans, of both kinds.
        above: to look on one side only.
    """
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    gaps = np.diff(ascending)
    places = np.flatnonzero(gaps > 0)  # between equal scores there is no threshold
    if not len(places):
        return Cut(float(ascending[0]), above is not False, 0.0, 0.0)
    spread = float(scores.std())
    found: list[Cut] = []
    for side in (True, False) if above is None else (above,):
        f1 = _f1(labels[order], side)[places]
        place = places[max(range(len(places)), key=lambda i: (f1[i], gaps[places[i]]))]
        middle = float((ascending[place] + ascending[place + 1]) / 2)
        found.append(Cut(middle, side, float(f1.max()), float(gaps[place]) / spread))
    return max(found, key=lambda cut: (cut.f1, cut.margin))


def _f1(labels: Array, above: bool) -> Array:
    """F1 of a cut after each of the ascending items but the last, ``[n - 1]``."""
    total = labels.sum()
    below = np.cumsum(labels)[:-1]
    chosen = np.arange(1, len(labels))
    true, marked = (total - below, len(labels) - chosen) if above else (below, chosen)
    return 2 * true / (total + marked)


def f1(labels: Array, held: Array) -> float:
    """``2 TP / (2 TP + FP + FN)``; 0 where neither side has any."""
    both = float((labels & held).sum())
    total = float(labels.sum() + held.sum())
    return 2 * both / total if total else 0.0
