"""The linear probe of a set of activations: one classifier per layer."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from .. import __version__
from ..charts import Figure
from ..errors import DataError, MismatchError
from ..extraction import Activations
from ..values import LayerValues
from ..vector import Origin, SteeringVector
from .fitting import CANDIDATES, FEWEST, LayerFit, Settings, fewest_sources, fit_layer
from .statistics import Array

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """What a probe was fitted on.

    Attributes:
        classes: the labels, ascending; of two, the last is the positive one.
        counts: items of each class.
        shape: of one activation: ``(width,)``, or ``(n_heads, d_head)`` at ``z``.
        site, origin, read: of the activations, where known.
        notice: why nothing was held out, or None.
    """

    classes: tuple[Any, ...]
    counts: tuple[int, ...]
    shape: tuple[int, ...]
    site: str
    origin: Origin | None
    read: str | None
    notice: str | None


class LinearProbe:
    """Logistic regression on standardised activations, layer by layer, with held-out figures and controls.

    Every figure comes from cross-validation in which no source (``groups=``) lies on both sides of a split, and in
    which the regularisation is chosen without the held-out part. The probe itself is then fitted on everything. Linear
    probes are due to Alain & Bengio (2016, arXiv:1610.01644), their controls to Hewitt & Liang (2019,
    arXiv:1909.03368). A probe that reads well need not steer well: in AxBench (Wu et al. 2025, arXiv:2501.17148) probes
    detect concepts best and steer worse than the difference of means. Compare the two before you use one.

    ``accuracy``, ``interval``, ``auroc``, ``shuffled`` are mappings from layer; a value is None where a class has too
    few sources to hold any out, and ``notice`` says so.

    Args:
        cv: folds.
        c: the inverse regularisation, scikit-learn's convention; a number, or several to choose from in each layer by
            the cross-entropy of inner folds.
        shuffles: how often the labels are shuffled for the control; 0 for none.
        seed: of folds and shuffles.
    """

    def __init__(
        self, cv: int = 5, *, c: float | Sequence[float] = CANDIDATES, shuffles: int = 5, seed: int = 0
    ) -> None:
        candidates = tuple(float(one) for one in c) if isinstance(c, Sequence) else (float(c),)
        if not candidates or not all(0 < one < float("inf") for one in candidates):
            raise DataError(f"c={c!r}: give a positive number, or several to choose from")
        if isinstance(cv, bool) or not isinstance(cv, int) or cv < 2:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DataError(f"cv={cv!r}: at least two folds are needed to hold something out")
        if shuffles < 0:
            raise DataError(f"shuffles={shuffles}: give 0 or more")
        self.settings = Settings(cv, tuple(sorted(candidates)), int(shuffles), int(seed))
        self._fitted: Fitted | None = None
        self._layers: dict[int, LayerFit] = {}

    # -- fitting --------------------------------------------------------------------------------------------------

    def fit(
        self,
        acts: LayerValues | Mapping[int, Tensor],
        labels: Sequence[Hashable] | Tensor | Array,
        *,
        groups: Sequence[Hashable] | None = None,
    ) -> LinearProbe:
        """Fit and measure every layer; returns this probe.

        Args:
            acts: ``acts[layer]`` is ``[n, width]``: :func:`steersman.activations`, or a mapping of tensors.
            labels: one per item: two or more classes, of numbers, texts or booleans.
            groups: the source of each item (its template, its question); by default each is its own.

        Raises:
            DataError: counts that differ, one class only, or labels that cannot be ordered.
        """
        values = acts if isinstance(acts, LayerValues) else Activations(acts)
        classes, indices = _classes(labels)
        sources = _sources(groups, len(indices))
        for layer in values:
            if values[layer].dim() < 2 or len(values[layer]) != len(indices):
                raise DataError(
                    f"layer {layer} has activations of shape {tuple(values[layer].shape)} for {len(indices)} labels; "
                    "it needs one row [width] per label"
                )
        notice = self._notice(classes, indices, sources)
        if notice:
            log.warning("%s", notice)
        counts = tuple(np.bincount(indices).tolist())
        shape = tuple(values[values.layers[0]].shape[1:])
        site = values.site or "resid_post"
        self._fitted = Fitted(classes, counts, shape, site, values.origin, values.metadata.get("read"), notice)
        self._layers = {
            layer: fit_layer(_matrix(values[layer]), indices, sources, self.settings) for layer in values.layers
        }
        return self

    def _notice(self, classes: tuple[Any, ...], indices: Array, sources: Array) -> str | None:
        need, found = max(FEWEST, self.settings.cv), fewest_sources(indices, sources)
        if found >= need:
            return None
        counts = ", ".join(f"{label!r}: {n}" for label, n in zip(classes, np.bincount(indices), strict=True))
        return (
            f"too few examples to measure: the smallest class has {found} sources and held-out figures need {need} of "
            f"each (items per class: {counts}); accuracy is None in every layer"
        )

    @property
    def fitted(self) -> Fitted:
        """What it was fitted on; DataError before :meth:`fit`."""
        if self._fitted is None:
            raise DataError("this probe has not been fitted; call probe.fit(acts, labels) first")
        return self._fitted

    # -- what was measured ----------------------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it was fitted on, ascending."""
        return tuple(self._layers) if self.fitted else ()

    @property
    def classes(self) -> tuple[Any, ...]:
        """The labels, ascending; of two, the last is the positive one."""
        return self.fitted.classes

    @property
    def notice(self) -> str | None:
        """Why nothing could be held out, or None."""
        return self.fitted.notice

    @property
    def accuracy(self) -> Mapping[int, float | None]:
        """layer -> share of held-out items whose class is predicted."""
        return {layer: self._layers[layer].accuracy for layer in self.layers}

    @property
    def interval(self) -> Mapping[int, tuple[float, float] | None]:
        """layer -> 95% interval of the accuracy: Wilson's, at the effective number of items given their sources."""
        return {layer: self._layers[layer].interval for layer in self.layers}

    @property
    def shuffled(self) -> Mapping[int, float | None]:
        """layer -> accuracy of the same procedure on shuffled labels: what chance gives here."""
        return {layer: self._layers[layer].shuffled for layer in self.layers}

    @property
    def auroc(self) -> Mapping[int, float | None]:
        """layer -> held-out area under the ROC curve; several classes: each against the rest, averaged."""
        return {layer: self._layers[layer].auroc for layer in self.layers}

    @property
    def best_layer(self) -> int | None:
        """The layer with the best held-out accuracy (then AUROC, then the earliest); None where nothing was held out.

        It is the best of several, so its own accuracy flatters it a little.
        """
        measured = {layer: fit for layer in self.layers if (fit := self._layers[layer]).accuracy is not None}
        return max(measured, key=lambda i: (measured[i].accuracy, measured[i].auroc, -i), default=None)

    def frame(self) -> pd.DataFrame:
        """One row per layer: accuracy, its interval, shuffled, auroc, C and temperature."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for layer in self.layers:
            fit = self._layers[layer]
            low, high = fit.interval or (None, None)
            rows.append(
                {"layer": layer, "accuracy": fit.accuracy, "low": low, "high": high, "shuffled": fit.shuffled,
                 "auroc": fit.auroc, "c": fit.c, "temperature": fit.temperature}
            )  # fmt: skip
        return pd.DataFrame(rows).set_index("layer")

    def svg(self, path: str | Path | None = None) -> str:
        """Accuracy by layer with its interval and the shuffled control, as an SVG; written to ``path`` if given.

        Raises:
            DataError: when nothing was held out.
        """
        return self.figure().svg(path)

    def figure(self) -> Figure:
        """Accuracy by layer, before it is drawn; DataError when nothing was held out."""
        measured = [layer for layer in self.layers if self._layers[layer].accuracy is not None]
        if not measured:
            raise DataError(self.notice or "nothing was held out, so there is nothing to show")
        shuffled = [self.shuffled[layer] for layer in measured]
        arguments = {
            "layers": measured,
            "accuracy": [self.accuracy[layer] or 0.0 for layer in measured],
            "intervals": [self.interval[layer] or (0.0, 1.0) for layer in measured],
            "shuffled": None if None in shuffled else [value or 0.0 for value in shuffled],
            "best": self.best_layer,
            "majority": max(self.fitted.counts) / sum(self.fitted.counts),
        }
        return Figure("probe_curve", arguments)

    # -- using it -------------------------------------------------------------------------------------------------

    def probabilities(self, acts: LayerValues | Tensor, *, layer: int | None = None) -> Tensor:
        """Calibrated class probabilities ``[n, k]`` float64, in the order of ``classes``.

        Logits are divided by one temperature per layer, fitted on held-out logits (Guo et al. 2017, arXiv:1706.04599).

        Args:
            acts: activations of the layer ``[n, width]`` or of one item ``[width]``, or all layers'.
            layer: by default the best one.
        """
        chosen = self._layer(layer)
        logits = self._layers[chosen].logits(self._rows(acts, chosen))
        return torch.from_numpy(softmax(logits / self._layers[chosen].temperature, axis=1))

    def predict(self, acts: LayerValues | Tensor, *, layer: int | None = None) -> list[Any]:
        """The most probable label of each item; arguments as :meth:`probabilities`."""
        return [self.classes[k] for k in self.probabilities(acts, layer=layer).argmax(1).tolist()]

    def _layer(self, layer: int | None) -> int:
        chosen = layer if layer is not None else self.best_layer
        if chosen is None and len(self.layers) == 1:
            chosen = self.layers[0]
        if chosen is None:
            raise DataError(f"name a layer= (one of {list(self.layers)}): {self.notice}")
        if chosen not in self.layers:
            raise MismatchError(f"the probe has no layer {chosen}; it was fitted on {list(self.layers)}")
        return chosen

    def _rows(self, acts: LayerValues | Tensor, layer: int) -> Array:
        values = acts[layer] if isinstance(acts, LayerValues) else torch.as_tensor(acts)
        if values.shape == self.fitted.shape:
            values = values[None]
        if values.shape[1:] != self.fitted.shape:
            need = ", ".join(str(size) for size in self.fitted.shape)
            raise MismatchError(f"activations of shape {tuple(values.shape)}; the probe reads [n, {need}]")
        return _matrix(values)

    def to_vector(self, label: Any = None, *, name: str | None = None) -> SteeringVector:
        """The probe's direction as a steering vector, at one gap.

        The direction of a layer is ``w / sigma``: the weights of the standardised problem in raw units, which are the
        gradient of the logit with respect to the activation (scikit-learn's ``coef_`` of standardised data is not).
        Its length is the distance between the class means along it, so strength 1 moves one onto the other.

        Args:
            label: which class is positive, against the rest; by default, of two, the last.
            name: what to call it.

        Raises:
            DataError: several classes and no label; an unknown label; a layer without a direction.
        """
        positive = self._positive(label)
        directions: dict[int, Tensor] = {}
        projections: dict[int, tuple[float, float]] = {}
        for layer in self.layers:
            along, ends = self._direction(layer, positive)
            directions[layer] = torch.from_numpy(along * (ends[1] - ends[0])).float().reshape(self.fitted.shape)
            projections[layer] = ends
        facts = {
            "classes": list(self.classes), "counts": list(self.fitted.counts), "positive": self.classes[positive],
            "c": {str(layer): self._layers[layer].c for layer in self.layers}, "cv": self.settings.cv,
            "seed": self.settings.seed, "read": self.fitted.read, "steersman": __version__,
        }  # fmt: skip
        return SteeringVector(
            directions, site=self.fitted.site, name=name, method="linear_probe", layer=self.best_layer,
            projections=projections, origin=self.fitted.origin, quality=self._quality(), metadata=facts,
        )  # fmt: skip

    def _positive(self, label: Any) -> int:
        if label is None:
            if len(self.classes) > 2:
                raise DataError(f"to_vector(label): which of {list(self.classes)} is positive, against the rest?")
            return 1
        if label not in self.classes:
            raise DataError(f"there is no class {label!r}; the classes are {list(self.classes)}")
        return self.classes.index(label)

    def _direction(self, layer: int, positive: int) -> tuple[Array, tuple[float, float]]:
        """The unit direction of a class against the rest, and the two means projected on it."""
        fit, counts = self._layers[layer], np.array(self.fitted.counts, dtype=float)
        rest = np.arange(len(counts)) != positive
        weights = fit.weights[positive] - fit.weights[rest].mean(0)
        length = float(np.linalg.norm(weights))
        along = weights / length if length else weights
        other = counts[rest] @ fit.means[rest] / counts[rest].sum()
        low, high = float(other @ along), float(fit.means[positive] @ along)
        if not high - low > 0:
            raise DataError(f"no direction at layer {layer}: the class means coincide along the weights")
        return along, (low, high)

    def _quality(self) -> dict[str, Any] | None:
        measured = {
            str(layer): {
                "accuracy": fit.accuracy,
                "accuracy_interval": list(fit.interval or ()),
                "auroc": fit.auroc,
                "shuffled": fit.shuffled,
            }
            for layer in self.layers
            if (fit := self._layers[layer]).accuracy is not None
        }
        return {"layers": measured, "folds": self.settings.cv} if measured else None

    def __repr__(self) -> str:
        if self._fitted is None:
            return f"LinearProbe(cv={self.settings.cv}, not fitted)"
        best = self.best_layer
        found = "not measured" if best is None else f"best layer {best} at {self.accuracy[best]:.2f}"
        return f"LinearProbe({len(self.layers)} layers, classes {list(self.classes)}, {found})"

    # -- as a file ------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> str:
        """Write one safetensors file, atomically; returns its path."""
        from .file import save

        return save(path, self.fitted, self.settings, self._layers)

    @classmethod
    def load(cls, path: str | Path) -> LinearProbe:
        """Read a file written by :meth:`save`.

        Raises:
            FileFormatError: it is truncated, hostile, of a newer format, or no probe.
        """
        from .file import load

        fitted, settings, layers = load(path)
        probe = cls(settings.cv, c=settings.c, shuffles=settings.shuffles, seed=settings.seed)
        probe._fitted, probe._layers = fitted, layers
        return probe


def _matrix(values: Tensor) -> Array:
    return values.detach().flatten(1).double().cpu().numpy()


def _classes(labels: Any) -> tuple[tuple[Any, ...], Array]:
    """The distinct labels in order, as plain values, and the index of each item's."""
    items: list[Any] = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else list(labels)
    items = [item.item() if isinstance(item, np.generic) else item for item in items]
    if not all(isinstance(item, str | int | float) for item in items):
        raise DataError("labels must be numbers, texts or booleans, one per item")
    if len({isinstance(item, str) for item in items}) > 1:
        raise DataError("labels mix texts and numbers; use one kind")
    classes = tuple(sorted(set(items)))
    if len(classes) < 2:
        raise DataError(f"a probe tells classes apart, but the labels hold {list(classes) or 'none'} only")
    number = {label: index for index, label in enumerate(classes)}
    return classes, np.array([number[item] for item in items])


def _sources(groups: Sequence[Hashable] | None, n: int) -> Array:
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise DataError(f"{len(groups)} groups for {n} items; give one for each")
    numbers = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    return np.array([numbers[group] for group in groups])
