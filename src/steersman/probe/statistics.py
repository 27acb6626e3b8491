"""What makes a probe's figures honest: splits by source, intervals that know of them, shuffled labels, calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Array = np.ndarray[Any, Any]

#: Temperatures considered, as natural logarithms: probabilities are never sharpened or blurred more than this.
LOG_TEMPERATURES = (-3.0, 3.0)


def split(labels: Array, sources: Array, folds: int, seed: int) -> Array:
    """The fold of each item: no source lies in two folds, and each fold has about the same share of every class."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    single = len(np.unique(sources)) == len(sources)
    splitter = (StratifiedKFold if single else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    fold = np.zeros(len(labels), dtype=int)
    groups = None if single else sources
    for number, (_, held_out) in enumerate(splitter.split(np.zeros((len(labels), 1)), labels, groups)):
        fold[held_out] = number
    return fold


def shuffle(labels: Array, sources: Array, rng: np.random.Generator) -> Array:
    """Labels exchanged at random, as the null hypothesis "the activations do not know the label" allows.

    Within each source if every source holds several classes; between sources if every source holds one class, each
    keeping one label for all its items; else between items.
    """
    members = [np.flatnonzero(sources == source) for source in np.unique(sources)]
    kinds = [len(np.unique(labels[items])) for items in members]
    if min(kinds) > 1:
        shuffled = labels.copy()
        for items in members:
            shuffled[items] = rng.permutation(labels[items])
        return shuffled
    if max(kinds) == 1:
        own = rng.permutation(np.array([labels[items[0]] for items in members]))
        shuffled = labels.copy()
        for items, label in zip(members, own, strict=True):
            shuffled[items] = label
        return shuffled
    return rng.permutation(labels)


def interval(correct: Array, sources: Array) -> tuple[float, float]:
    """A 95% interval of an accuracy: Wilson's, at the effective number of items.

    Items of one source stand and fall together, so they count for less: the effective number is the one at which
    independent items would vary as much as the sources do (the design effect of survey statistics, Kish 1965). Where
    all are right, or all wrong, nothing varies, and each source counts once. Unlike a bootstrap it does not shrink to
    a point there.

    Args:
        correct: ``[n]`` 0 or 1.
        sources: ``[n]`` the source of each.
    """
    _, own = np.unique(sources, return_inverse=True)
    n, groups, p = len(correct), int(own.max()) + 1, float(correct.mean())
    surplus = np.bincount(own, weights=correct - p)
    variance = float(groups / (groups - 1) * (surplus**2).sum() / n**2) if groups > 1 else 0.0
    size = float(groups) if variance == 0 else min(float(n), p * (1 - p) / variance)
    z = float(stats.t.ppf(0.975, groups - 1)) if 1 < groups < n else float(stats.norm.ppf(0.975))
    centre = (p + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * float(np.sqrt(p * (1 - p) / size + z**2 / (4 * size**2)))
    return max(0.0, centre - half), min(1.0, centre + half)


def auroc(logits: Array, labels: Array, folds: Array) -> float | None:
    """The probability that an item of a class scores above one of another, over pairs within a fold.

    Pairs across folds would compare the scores of two different classifiers. With several classes: each against the
    rest, averaged. None where no fold holds two classes.

    Args:
        logits: ``[n, k]``, of classifiers that never saw the item.
        labels: ``[n]`` class indices.
        folds: ``[n]`` which classifier.
    """
    classes = [1] if logits.shape[1] == 2 else list(range(logits.shape[1]))
    found: list[float] = []
    for k in classes:
        won = pairs = 0.0
        for fold in np.unique(folds):
            inside = folds == fold
            scores = logits[inside, k] - (logits[inside, 0] if len(classes) == 1 else 0.0)
            high, low = scores[labels[inside] == k], scores[labels[inside] != k]
            if len(high) and len(low):
                won += float(stats.mannwhitneyu(high, low).statistic)
                pairs += len(high) * len(low)
        if pairs:
            found.append(won / pairs)
    return float(np.mean(found)) if found else None


def temperature(logits: Array, labels: Array) -> float:
    """The temperature T at which ``softmax(logits / T)`` is calibrated (Guo et al. 2017, arXiv:1706.04599).

    It minimises the cross-entropy of held-out logits. One number for all classes leaves the direction, the decision and
    the ranking of a probe as they are, which an ensemble of calibrated classifiers or isotonic regression would not.
    The targets are Platt's (1999), a little short of 0 and 1, so that perfect separation does not sharpen without end.
    """
    n, k = logits.shape
    counts = np.bincount(labels, minlength=k)
    targets = np.zeros((n, k))
    for label in range(k):
        rows = labels == label
        right = (counts[label] + 1) / (counts[label] + k)
        targets[rows] = (1 - right) / (k - 1)
        targets[rows, label] = right

    def loss(log_t: float) -> float:
        return -float((targets * log_softmax(logits / np.exp(log_t), axis=1)).sum()) / n

    found: Any = minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
