"""How well a direction separates held-out examples, layer by layer, and against shuffled labels.

Items are split by source into folds; each fold is scored by the direction and the threshold that the other folds give.
So every figure is held out, and items made from one template never stand on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from .methods import Method

#: Below this many held-out items per class nothing is measured.
FEWEST = 8
FOLDS = 5
RESAMPLES = 1000


@dataclass(frozen=True)
class LayerQuality:
    """Held-out separation at one layer.

    Attributes:
        accuracy: share of items on their side of the midpoint between the class means of the other folds.
        accuracy_interval: its 95% interval, bootstrapped over sources.
        auroc, auroc_interval: probability that a positive item projects above a negative one, folds averaged.
        d_prime: distance of the projected class means in pooled standard deviations.
        shuffled: accuracy of the same procedure with labels shuffled by source: what chance gives here.
        gap_to_norm: the gap over the layer's median residual norm.
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    auroc: float
    auroc_interval: tuple[float, float]
    d_prime: float
    shuffled: float
    gap_to_norm: float | None


def measure(
    positive: Tensor,
    negative: Tensor,
    groups: tuple[Sequence[str], Sequence[str]],
    method: Method,
    *,
    seed: int = 0,
) -> LayerQuality | None:
    """Held-out quality at one layer, or None with fewer than ``FEWEST`` items or sources in a class.

    Args:
        positive, negative: activations ``[n, width]`` and ``[m, width]``.
        groups: the source of each of them.
        method: computes the direction.
        seed: of folds, shuffles and bootstrap.
    """
    if min(len(positive), len(negative), len(set(groups[0])), len(set(groups[1]))) < FEWEST:
        return None
    values = torch.cat([positive, negative]).double()
    labels = np.r_[np.ones(len(positive), bool), np.zeros(len(negative), bool)]
    names, sources = np.unique(np.array([*groups[0], *groups[1]]), return_inverse=True)
    rng = np.random.default_rng(seed)
    folds = rng.permutation(len(names))[sources] % FOLDS
    scores, correct = _held_out(values, labels, folds, method)
    shuffled = _held_out(values, _shuffled(labels, sources, rng), folds, method)[1].mean()
    counts = np.bincount(sources, minlength=len(names))
    right = np.bincount(sources, weights=correct, minlength=len(names))
    picks = rng.integers(0, len(names), (RESAMPLES, len(names)))
    accuracies = right[picks].sum(1) / counts[picks].sum(1)
    aurocs = _bootstrap_auroc(scores, labels, sources, picks[:200])
    high, low = scores[labels], scores[~labels]
    pooled = float(np.sqrt((high.var(ddof=1) + low.var(ddof=1)) / 2))
    return LayerQuality(
        accuracy=float(correct.mean()),
        accuracy_interval=_interval(accuracies),
        auroc=_auroc(scores, labels),
        auroc_interval=_interval(aurocs),
        d_prime=float((high.mean() - low.mean()) / pooled) if pooled else float("inf"),
        shuffled=float(shuffled),
        gap_to_norm=None,
    )


def _held_out(values: Tensor, labels: np.ndarray, folds: np.ndarray, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """Each item's projection, measured from the midpoint in units of the gap, and whether its side is right."""
    scores = np.zeros(len(labels))
    for fold in np.unique(folds):
        inside = folds == fold
        fit_positive = values[torch.from_numpy(~inside & labels)]
        fit_negative = values[torch.from_numpy(~inside & ~labels)]
        if not len(fit_positive) or not len(fit_negative):
            continue
        direction = method(fit_positive, fit_negative).double()
        high, low = float(fit_positive.mean(0) @ direction), float(fit_negative.mean(0) @ direction)
        projected = (values[torch.from_numpy(inside)] @ direction).numpy()
        scores[inside] = (projected - (high + low) / 2) / (abs(high - low) or 1.0)
    return scores, (scores > 0) == labels


def _shuffled(labels: np.ndarray, sources: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels exchanged at random: flipped within half of the sources if these hold both classes, else permuted."""
    flips = rng.permutation(np.arange(sources.max() + 1) % 2).astype(bool)
    mixed = [len(set(labels[sources == s])) > 1 for s in range(sources.max() + 1)]
    return labels ^ flips[sources] if all(mixed) else rng.permutation(labels)


def _auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    high, low = scores[labels], scores[~labels]
    if not len(high) or not len(low):
        return float("nan")
    return float(stats.mannwhitneyu(high, low).statistic / (len(high) * len(low)))


def _bootstrap_auroc(scores: np.ndarray, labels: np.ndarray, sources: np.ndarray, picks: np.ndarray) -> np.ndarray:
    members = [np.flatnonzero(sources == s) for s in range(sources.max() + 1)]
    drawn = [np.concatenate([members[s] for s in pick]) for pick in picks]
    return np.array([_auroc(scores[items], labels[items]) for items in drawn])


def _interval(values: np.ndarray) -> tuple[float, float]:
    kept = values[~np.isnan(values)]
    low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) else (float("nan"), float("nan"))
    return float(low), float(high)


def report(layers: dict[int, LayerQuality | None], norms: dict[int, float], gaps: dict[int, float]) -> dict[str, Any] | None:
    """What a vector stores as its quality: figures by layer, as JSON-able values; None if nothing was measured."""
    found = {str(layer): asdict(quality) for layer, quality in layers.items() if quality is not None}
    for key, figures in found.items():
        layer = int(key)
        figures |= {"gap_to_norm": gaps[layer] / norms[layer] if norms.get(layer) and layer in gaps else None}
        figures |= {name: list(figures[name]) for name in ("accuracy_interval", "auroc_interval")}
    return {"layers": found, "folds": FOLDS} if found else None


def best_layer(layers: dict[int, LayerQuality | None]) -> int | None:
    """The layer with the best held-out separation: of those whose AUROC is within the best one's interval, the one
    whose classes lie furthest apart in standard deviations."""
    measured = {layer: quality for layer, quality in layers.items() if quality is not None}
    if not measured:
        return None
    best = max(measured.values(), key=lambda quality: quality.auroc)
    close = {layer: q for layer, q in measured.items() if q.auroc >= best.auroc_interval[0]}
    return max(close, key=lambda layer: close[layer].d_prime)
