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
from torch import Tensor

from .consistency import Consistency, consistency
from .methods import Compute

#: Below this many held-out items per class nothing is measured.
FEWEST = 8
FOLDS = 5
RESAMPLES = 1000
#: Exchanges of labels that the control is averaged over.
SHUFFLES = 10


@dataclass(frozen=True)
class LayerQuality:
    """Held-out separation at one layer.

    Attributes:
        accuracy: share of items on their side of the midpoint between the class means of the other folds.
        accuracy_interval: its 95% interval, bootstrapped over sources.
        auroc, auroc_interval: probability that a positive item projects above a negative one, folds averaged.
        d_prime: distance of the projected class means in pooled standard deviations.
        shuffled: accuracy of the same procedure with labels shuffled by source, averaged over ``SHUFFLES`` shuffles:
            what chance gives here.
        consistency: how alike the differences of the pairs are; None for classes that are no pairs.
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    auroc: float
    auroc_interval: tuple[float, float]
    d_prime: float
    shuffled: float
    consistency: Consistency | None = None


def measure(
    positive: Tensor,
    negative: Tensor,
    groups: tuple[Sequence[str], Sequence[str]],
    method: Compute,
    *,
    paired: bool = False,
    seed: int = 0,
) -> LayerQuality | None:
    """Held-out quality at one layer, or None with fewer than ``FEWEST`` items or sources in a class.

    Args:
        positive, negative: activations ``[n, width]`` and ``[m, width]``.
        groups: the source of each of them.
        method: computes the direction.
        paired: whether the n-th positive and negative item belong together.
        seed: of folds, shuffles and bootstrap.
    """
    if min(len(positive), len(negative), len(set(groups[0])), len(set(groups[1]))) < FEWEST:
        return None
    values = torch.cat([positive, negative]).double()
    labels = np.r_[np.ones(len(positive), bool), np.zeros(len(negative), bool)]
    numbers = np.r_[np.arange(len(positive)), np.arange(len(negative))]
    names, sources = np.unique(np.array([*groups[0], *groups[1]]), return_inverse=True)
    rng = np.random.default_rng(seed)
    folds = rng.permutation(len(names))[sources] % FOLDS
    scores, correct = _held_out(values, labels, numbers, folds, method)
    shuffled = np.mean(
        [_held_out(values, _shuffled(labels, sources, rng), numbers, folds, method)[1].mean() for _ in range(SHUFFLES)]
    )
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
        consistency=consistency(positive.double(), negative.double(), groups[0], seed=seed) if paired else None,
    )


def _held_out(
    values: Tensor, labels: np.ndarray, numbers: np.ndarray, folds: np.ndarray, method: Compute
) -> tuple[np.ndarray, np.ndarray]:
    """Each item's projection, measured from the midpoint in units of the gap, and whether its side is right.

    The method sees the items of a class in the order of their numbers, so that pairs stay aligned also when labels are
    exchanged.
    """
    by_number = np.argsort(numbers, kind="stable")
    scores = np.zeros(len(labels))
    for fold in np.unique(folds):
        inside = folds == fold
        fit_positive = values[by_number[(~inside & labels)[by_number]]]
        fit_negative = values[by_number[(~inside & ~labels)[by_number]]]
        if not len(fit_positive) or not len(fit_negative):
            continue
        direction = method(fit_positive, fit_negative).double()
        high, low = float(fit_positive.mean(0) @ direction), float(fit_negative.mean(0) @ direction)
        projected = (values[torch.from_numpy(inside)] @ direction).numpy()
        scores[inside] = (projected - (high + low) / 2) / (abs(high - low) or 1.0)
    return scores, (scores > 0) == labels


def _shuffled(labels: np.ndarray, sources: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels exchanged at random: flipped within sources if these hold both classes, else permuted.

    Each source is flipped by a coin of its own. With exactly half of them flipped, a fold with more flips than the rest
    would be scored by a direction that points away from it, and the control would lie below chance.
    """
    flips = rng.random(sources.max() + 1) < 0.5
    mixed = [len(set(labels[sources == s])) > 1 for s in range(sources.max() + 1)]
    return labels ^ flips[sources] if all(mixed) else rng.permutation(labels)


def _auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    high, low = scores[labels], scores[~labels]
    if not len(high) or not len(low):
        return float("nan")
    ordered = np.sort(low)  # how many low items each high one beats, a tie counting half
    beaten = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    return float(beaten.mean() / (2 * len(low)))


def _bootstrap_auroc(scores: np.ndarray, labels: np.ndarray, sources: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """The AUROC of each resample of sources; NaN where one leaves nothing to compare.

    Items of one source and items of two are compared apart, and count as much as they do in the whole: a source drawn
    twice would otherwise meet itself four times, and pairs whose two sides differ by a little would lift all resamples.
    """
    count = sources.max() + 1
    high, low = scores[labels][:, None], scores[~labels]
    won = np.zeros((count, len(low)))
    np.add.at(won, sources[labels], (high > low) + 0.5 * (high == low))
    beaten = np.zeros((count, count))
    np.add.at(beaten, sources[~labels], won.T)
    ups, downs = np.bincount(sources[labels], minlength=count), np.bincount(sources[~labels], minlength=count)
    drawn = np.stack([np.bincount(pick, minlength=count) for pick in picks]).astype(float)
    own, met = np.diag(beaten), ups * downs
    share = met.sum() / (len(high) * len(low))
    within, within_met = drawn @ own, drawn @ met
    across = ((drawn @ beaten) * drawn).sum(1) - drawn**2 @ own
    across_met = (drawn @ ups) * (drawn @ downs) - drawn**2 @ met
    parts = [(share, within, within_met), (1 - share, across, across_met)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sum([weight * wins / meetings for weight, wins, meetings in parts if weight], axis=0)


def _interval(values: np.ndarray) -> tuple[float, float]:
    kept = values[~np.isnan(values)]
    low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) else (float("nan"), float("nan"))
    return float(low), float(high)


def report(
    layers: dict[int, LayerQuality | None], norms: dict[int, float], gaps: dict[int, float], warnings: list[str]
) -> dict[str, Any] | None:
    """What a vector stores as its quality: figures by layer, as JSON-able values; None if nothing was measured.

    To the figures of :class:`LayerQuality` it adds the ``gap`` and ``gap_to_norm``, the gap over the layer's median
    residual norm; and to the whole the ``warnings`` about the examples.
    """
    found = {str(layer): asdict(quality) for layer, quality in layers.items() if quality is not None}
    for key, figures in found.items():
        gap, norm = gaps.get(int(key)), norms.get(int(key))
        figures |= {"gap": gap, "gap_to_norm": gap / norm if gap is not None and norm else None}
        figures |= {name: list(figures[name]) for name in ("accuracy_interval", "auroc_interval")}
    return {"layers": found, "folds": FOLDS, "warnings": warnings} if found else None


def best_layer(layers: dict[int, LayerQuality | None]) -> int | None:
    """The layer with the best held-out separation: of those whose AUROC is within the best one's interval, the one
    whose classes lie furthest apart in standard deviations."""
    measured = {layer: quality for layer, quality in layers.items() if quality is not None}
    if not measured:
        return None
    best = max(measured.values(), key=lambda quality: quality.auroc)
    close = {layer: q for layer, q in measured.items() if q.auroc >= best.auroc_interval[0]}
    return max(close, key=lambda layer: close[layer].d_prime)
