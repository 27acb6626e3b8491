"""Fitting one layer's probe: standardise, choose C, fit, and measure on sources that were never seen."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from ..errors import DataError
from .statistics import Array, auroc, interval, shuffle, split, temperature

#: Below this many sources in a class nothing is measured.
FEWEST = 8
#: The regularisation strengths tried (scikit-learn's convention: larger is weaker), on standardised activations.
CANDIDATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
#: Folds within the training part, to choose C.
INNER_FOLDS = 3
#: Where C cannot be chosen for want of data.
DEFAULT_C = 1.0


@dataclass(frozen=True, eq=False)
class LayerFit:
    """The probe of one layer, in raw units: class k scores ``weights[k] @ h + bias[k]``.

    Attributes:
        weights: ``[k, width]`` un-standardised, ``w / sigma``; class 0 of two has zeros, as in logistic regression.
        bias: ``[k]``.
        means: ``[k, width]``, the class means of the activations it was fitted on.
        c: the inverse regularisation it was fitted with.
        temperature: what logits are divided by for calibrated probabilities; 1 where nothing was held out.
        accuracy, interval, shuffled, auroc: held out, see :class:`~steersman.LinearProbe`; None where too few.
    """

    weights: Array
    bias: Array
    means: Array
    c: float
    temperature: float = 1.0
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    shuffled: float | None = None
    auroc: float | None = None

    def logits(self, values: Array) -> Array:
        """Scores ``[n, k]`` before calibration of activations ``[n, width]``."""
        return values @ self.weights.T + self.bias


@dataclass(frozen=True)
class Settings:
    """How layers are fitted: see :class:`~steersman.LinearProbe`."""

    cv: int
    c: tuple[float, ...]
    shuffles: int
    seed: int


def fit_layer(values: Array, labels: Array, sources: Array, settings: Settings) -> LayerFit:
    """Fit and measure one layer.

    Args:
        values: ``[n, width]`` float64.
        labels: ``[n]`` class indices from 0.
        sources: ``[n]`` indices; items of one source are never on both sides of a split.
        settings: how.
    """
    measurable = fewest_sources(labels, sources) >= max(FEWEST, settings.cv)
    c = _choose(values, labels, sources, settings) if measurable else _fallback(settings)
    weights, bias = _fit(values, labels, c)
    classes = range(int(labels.max()) + 1)
    means = np.stack([values[labels == k].mean(0) for k in classes])
    if not measurable:
        return LayerFit(weights, bias, means, c)
    folds = split(labels, sources, settings.cv, settings.seed)
    logits = _held_out(values, labels, sources, folds, settings, weights)
    correct = (logits.argmax(1) == labels).astype(float)
    return LayerFit(
        weights,
        bias,
        means,
        c,
        temperature=temperature(logits, labels),
        accuracy=float(correct.mean()),
        interval=interval(correct, sources),
        shuffled=_shuffled(values, labels, sources, c, settings),
        auroc=auroc(logits, labels, folds),
    )


def fewest_sources(labels: Array, sources: Array) -> int:
    """The number of sources of the class that has the fewest."""
    return min(len(np.unique(sources[labels == k])) for k in range(int(labels.max()) + 1))


def _fallback(settings: Settings) -> float:
    return settings.c[0] if len(settings.c) == 1 else DEFAULT_C


def _held_out(values: Array, labels: Array, sources: Array, folds: Array, settings: Settings, final: Array) -> Array:
    """Each item's logits ``[n, k]`` by a probe that saw nothing of its fold, not even to choose C.

    They are scaled to the size of the ``final`` weights, which changes no decision: with fewer items weights may be far
    larger (near separability they grow without bound), and a temperature of such logits would not fit the final ones.
    """
    logits, spread = np.zeros((len(labels), int(labels.max()) + 1)), values.std(0)
    for fold in np.unique(folds):
        inside, train = folds == fold, folds != fold
        _check_classes(labels[train], logits.shape[1])
        c = _choose(values[train], labels[train], sources[train], settings)
        weights, bias = _fit(values[train], labels[train], c)
        size = float(np.linalg.norm(weights * spread))
        scale = float(np.linalg.norm(final * spread)) / size if size else 1.0
        logits[inside] = scale * (values[inside] @ weights.T + bias)
    return logits


def _shuffled(values: Array, labels: Array, sources: Array, c: float, settings: Settings) -> float | None:
    """The accuracy of the same procedure (at one C) on labels that were exchanged at random, averaged."""
    rng = np.random.default_rng(settings.seed)
    found: list[float] = []
    for _ in range(settings.shuffles):
        exchanged = shuffle(labels, sources, rng)
        folds = split(exchanged, sources, settings.cv, settings.seed)
        for fold in np.unique(folds):
            inside, train = folds == fold, folds != fold
            _check_classes(exchanged[train], int(labels.max()) + 1)
            weights, bias = _fit(values[train], exchanged[train], c)
            found += ((values[inside] @ weights.T + bias).argmax(1) == exchanged[inside]).astype(float).tolist()
    return float(np.mean(found)) if found else None


def _check_classes(labels: Array, classes: int) -> None:
    if len(np.unique(labels)) < classes:
        raise DataError(
            "a class lies in so few sources that a fold takes all of it; give sources that hold fewer items each, or "
            "a larger cv="
        )


def _choose(values: Array, labels: Array, sources: Array, settings: Settings) -> float:
    """The C with the least cross-entropy on inner folds, split by source too; cross-entropy, as it is smooth where
    accuracies tie."""
    if len(settings.c) == 1:
        return settings.c[0]
    folds = split(labels, sources, INNER_FOLDS, settings.seed)
    losses = np.zeros(len(settings.c))
    for fold in np.unique(folds):
        inside, train = folds == fold, folds != fold
        _check_classes(labels[train], int(labels.max()) + 1)
        losses += _losses(values, labels, train, inside, settings.c)
    return settings.c[int(losses.argmin())]


def _losses(values: Array, labels: Array, train: Array, inside: Array, candidates: Sequence[float]) -> Array:
    """The summed cross-entropy on ``inside`` of fits on ``train``, for every C; each fit starts from the last."""
    standard = _Standard.of(values[train])
    estimator = _estimator(1.0, 1e-4)
    estimator.set_params(warm_start=True)
    seen, unseen = standard.reduce(values[train]), standard.reduce(values[inside])
    found: list[float] = []
    for c in candidates:
        estimator.set_params(C=c)
        _quietly(estimator, seen, labels[train])
        scores = estimator.decision_function(unseen)
        logits = np.stack([0 * scores, scores], axis=1) if scores.ndim == 1 else scores
        logs = log_softmax(logits, axis=1)  # scikit-learn's own logarithm of probabilities overflows
        found.append(-float(logs[np.arange(len(logs)), labels[inside]].sum()))
    return np.array(found)


def _fit(values: Array, labels: Array, c: float) -> tuple[Array, Array]:
    """Weights ``[k, width]`` and bias ``[k]`` in raw units."""
    standard = _Standard.of(values)
    estimator = _quietly(_estimator(c), standard.reduce(values), labels)
    weights, bias = standard.raw(np.atleast_2d(estimator.coef_), np.atleast_1d(estimator.intercept_))
    if len(weights) == 1:  # two classes: scikit-learn keeps the second's weights, and the first's are zero
        weights, bias = np.concatenate([0 * weights, weights]), np.concatenate([0 * bias, bias])
    return weights, bias


@dataclass(frozen=True)
class _Standard:
    """Standardisation, and a rotation into the span of the data where there are fewer items than dimensions.

    A ridge penalty does not change under rotation, and the solution lies in the span of the data; so the fit in
    ``n`` dimensions is the same as in ``width``, and much faster.
    """

    mean: Array
    scale: Array
    basis: Array | None

    @classmethod
    def of(cls, values: Array) -> _Standard:
        mean, scale = values.mean(0), values.std(0)
        scale = np.where(scale > 1e-12 * max(1.0, float(np.abs(mean).max())), scale, 1.0)
        n, width = values.shape
        return cls(mean, scale, _span((values - mean) / scale) if n < width else None)

    def reduce(self, values: Array) -> Array:
        """Standardised values, in the coordinates that are fitted."""
        standard = (values - self.mean) / self.scale
        return standard if self.basis is None else standard @ self.basis

    def raw(self, weights: Array, bias: Array) -> tuple[Array, Array]:
        """Weights and bias that act on raw values."""
        unrotated = weights if self.basis is None else weights @ self.basis.T
        raw = unrotated / self.scale
        return raw, bias - raw @ self.mean


def _span(standard: Array) -> Array:
    """An orthonormal basis ``[width, rank]`` of the rows of ``[n, width]``, by way of their ``n x n`` products."""
    sizes, vectors = np.linalg.eigh(standard @ standard.T)
    kept = sizes > 1e-10 * sizes[-1]
    return standard.T @ (vectors[:, kept] / np.sqrt(sizes[kept])) if kept.any() else np.zeros((standard.shape[1], 1))


def _estimator(c: float, tolerance: float = 1e-6) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, solver="lbfgs", tol=tolerance, max_iter=5000)


def _quietly(estimator: Any, values: Array, labels: Array) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of scikit-learn's own options, none of which are set here
        return estimator.fit(values, labels)
