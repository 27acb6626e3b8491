"""Fitting an eraser: LEACE, least-squares concept erasure.

Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form" (arXiv:2306.03819). Of all affine maps after
which no linear classifier can do better on the concept than guessing its frequencies, the one that changes the
activations least, in mean squares:

    h -> h - W^+ P W (h - mu)        W = Sigma_xx^(-1/2),  P the projection on the columns of W Sigma_xz

with Sigma_xx the covariance of the activations and Sigma_xz their covariance with the (one-hot) labels. With an
orthonormal basis U of those columns it is ``h - A B^T (h - mu)``, ``A = W^+ U``, ``B = W U``, of rank
(number of classes - 1). For two classes, with ``a`` the difference of their means and ``b = Sigma_xx^-1 a``, that is
``h - a b^T (h - mu) / (b^T a)``.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..eraser import Eraser
from ..errors import DataError
from ..values import LayerValues
from ..vector import Origin

log = logging.getLogger(__name__)

#: Rows taken at a time, so that activations on disk need not fit into memory.
ROWS = 8192
#: Singular values of W Sigma_xz below this share of the largest are rounding.
SMALLEST = 1e-9


class Moments:
    """The moments LEACE needs, of any number of examples, gathered batch by batch in float64.

    Attributes:
        count: examples seen.
        mean: ``[width]``.
        scatter: the sum of ``(x - mean) (x - mean)^T``: ``[width, width]``.
        counts: examples of each label.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)
        self.counts: dict[Hashable, int] = {}
        self._means: dict[Hashable, Tensor] = {}

    def update(self, values: Tensor, labels: Sequence[Hashable]) -> None:
        """Add examples ``[n, width]`` with their labels (Chan, Golub and LeVeque 1979: stable whatever the mean)."""
        values = values.detach().double().cpu()
        for label in dict.fromkeys(labels):
            members = values[[i for i, other in enumerate(labels) if other == label]]
            before = self.counts.get(label, 0)
            self.counts[label] = before + len(members)
            mean = self._means.get(label, torch.zeros_like(self.mean))
            self._means[label] = mean + (members - mean).sum(0) / self.counts[label]
        here = values.mean(0)
        centred, step = values - here, here - self.mean
        total = self.count + len(values)
        self.scatter += centred.T @ centred + torch.outer(step, step) * (self.count * len(values) / total)
        self.mean = self.mean + step * (len(values) / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """Sigma_xx, over n: ``[width, width]``."""
        return self.scatter / self.count

    @property
    def cross_covariance(self) -> Tensor:
        """Sigma_xz with one-hot labels, over n: ``[width, classes]``; its columns add up to zero."""
        columns = [(self._means[label] - self.mean) * (n / self.count) for label, n in self.counts.items()]
        return torch.stack(columns, dim=1)


class EraserFitter:
    """Fits an eraser to more activations than fit into memory: ``update`` with each batch, then ``eraser()``.

    Args:
        shrinkage: as of :func:`fit_eraser`.
    """

    def __init__(self, *, shrinkage: bool = False) -> None:
        self.shrinkage = shrinkage
        self._moments: dict[int, Moments] = {}
        self._site = "resid_post"
        self._origin: Origin | None = None

    def update(self, acts: LayerValues | Mapping[int, Tensor], labels: Sequence[Any] | Tensor) -> EraserFitter:
        """Add activations, layer -> ``[n, width]``, and the label of each.

        Raises:
            DataError: their shapes, layers or site differ from before, or do not fit the labels.
        """
        known = acts if isinstance(acts, LayerValues) else LayerValues(acts)
        names = _labels(labels)
        if self._moments and (set(self._moments) != set(known.layers) or known.site not in (None, self._site)):
            raise DataError(
                f"this fitter has seen layers {sorted(self._moments)} of {self._site}, not {list(known.layers)} of "
                f"{known.site}"
            )
        flat = {layer: known[layer].flatten(1) if known[layer].dim() == 3 else known[layer] for layer in known.layers}
        for layer, values in flat.items():
            if values.dim() != 2 or len(values) != len(names):
                raise DataError(
                    f"layer {layer} has the shape {tuple(values.shape)}; {len(names)} labels need [{len(names)}, width]"
                )
            width = len(self._moments[layer].mean) if layer in self._moments else values.shape[1]
            if values.shape[1] != width:
                raise DataError(f"layer {layer} has width {values.shape[1]}, and had {width} before")
        for layer, values in flat.items():
            self._moments.setdefault(layer, Moments(values.shape[1])).update(values, names)
        self._site, self._origin = known.site or self._site, known.origin or self._origin
        return self

    def eraser(self, name: str | None = None) -> Eraser:
        """The eraser of all that was seen.

        Raises:
            DataError: nothing was seen, or one label only.
        """
        few = [layer for layer, seen in self._moments.items() if not self.shrinkage and seen.count <= len(seen.mean)]
        if few:
            log.warning(
                "%d examples in %d dimensions: the eraser fits these examples rather than the concept; give more, or "
                "shrinkage=True", self._moments[few[0]].count, len(self._moments[few[0]].mean),
            )  # fmt: skip
        maps = {layer: leace(moments, shrinkage=self.shrinkage) for layer, moments in self._moments.items()}
        if not maps:
            raise DataError("an eraser needs activations to be fitted on; call update() first")
        return Eraser(maps, site=self._site, name=name, origin=self._origin)


def fit_eraser(
    acts: LayerValues | Mapping[int, Tensor],
    labels: Sequence[Any] | Tensor,
    *,
    shrinkage: bool = False,
    name: str | None = None,
) -> Eraser:
    """Fit the least change after which a concept can no longer be read linearly, for ``Erase(eraser)``.

    Fit it at the site and on the tokens where it will act. Each layer is fitted by itself, on the activations given.
    To erase in several layers at once, fit them one after the other, each on activations read with the earlier
    erasers on, since what one layer erases changes what the next ones see::

        plan = sm.Plan()
        for layer in (4, 5, 6):
            acts = sm.activations(model, texts, layers=layer, steer=plan)
            plan = plan + sm.Erase(sm.fit_eraser(acts, labels))

    (with ``read`` and positions that agree).

    Args:
        acts: activations, as :func:`steersman.activations` gives them, or layer -> ``[n, width]``.
        labels: of each example: numbers, truth values or words; two classes or more.
        shrinkage: estimate the covariance with shrinkage towards a multiple of the identity (oracle approximating
            shrinkage, Chen et al. 2010). The erasure is exact either way; with fewer examples than several times the
            width it generalises better.
        name: what to call it.

    Returns:
        An eraser of rank (classes - 1) in each layer.

    Raises:
        DataError: a label for each example is missing, or there is one class only.
    """
    known, names = acts if isinstance(acts, LayerValues) else LayerValues(acts), _labels(labels)
    fitter = EraserFitter(shrinkage=shrinkage)
    values = {layer: known[layer] for layer in known.layers}
    if any(len(one) != len(names) for one in values.values()):  # is refused in whole
        return fitter.update(known, names).eraser(name)
    for start in range(0, len(names), ROWS):
        part = {layer: one[start : start + ROWS] for layer, one in values.items()}
        fitter.update(LayerValues(part, site=known.site, origin=known.origin), names[start : start + ROWS])
    return fitter.eraser(name)


def leace(moments: Moments, *, shrinkage: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """A ``[width, k]``, B ``[width, k]`` and mu ``[width]`` of ``h -> h - A B^T (h - mu)``, float64.

    Raises:
        DataError: one label only.
    """
    if len(moments.counts) < 2:
        raise DataError(
            f"an eraser needs at least two classes, and all labels are {next(iter(moments.counts), None)!r}"
        )
    width = len(moments.mean)
    covariance = moments.covariance
    if shrinkage:
        covariance = shrunk(covariance, moments.count)
    sizes, axes = torch.linalg.eigh(covariance)
    kept = sizes > sizes[-1] * width * torch.finfo(sizes.dtype).eps
    sizes, axes = sizes[kept].sqrt(), axes[:, kept]
    whitened = (axes.T @ moments.cross_covariance) / sizes[:, None]
    basis, strengths, _ = torch.linalg.svd(whitened, full_matrices=False)
    basis = basis[:, strengths > SMALLEST * strengths[0]][:, : len(moments.counts) - 1]
    if not basis.shape[1]:  # the class means agree already: the identity
        return moments.mean.new_zeros(width, 1), moments.mean.new_zeros(width, 1), moments.mean
    return axes @ (sizes[:, None] * basis), axes @ (basis / sizes[:, None]), moments.mean


def shrunk(covariance: Tensor, count: int) -> Tensor:
    """Oracle approximating shrinkage: ``(1 - r) S + r tr(S)/p I`` with the r that needs nothing but S and n."""
    width = len(covariance)
    scale = float(covariance.trace()) / width
    alpha = float(covariance.square().mean())
    above, below = alpha + scale**2, (count + 1) * (alpha - scale**2 / width)
    share = 1.0 if below == 0 else min(above / below, 1.0)
    return (1 - share) * covariance + share * scale * torch.eye(width, dtype=covariance.dtype)


def _labels(labels: Sequence[Any] | Tensor) -> list[Hashable]:
    values: list[Any] = cast(Any, labels).tolist() if hasattr(labels, "tolist") else list(labels)
    for value in values:
        if not isinstance(value, Hashable) or value is None:
            raise DataError(f"labels must be numbers, truth values or words, one per example, got {value!r}")
    return values
