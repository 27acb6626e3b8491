"""The plane in which two classes of activations vary most."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..charts import Figure
from ..errors import DataError
from ..values import LayerValues

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Geometry:
    """Activations of two classes in the plane of their first two principal components.

    Attributes:
        positive, negative: ``[n, 2]`` float64, centred on the mean of all, raw residual units.
        explained: the share of the variance of all activations along either axis.
        in_plane: the share of the length of the difference of class means that lies in the plane. Where it is small,
            the picture does not show the contrast: other things vary more.
        components: ``[2, width]``, orthonormal; the positive mean is to the right.
        layer: the layer, if known.
    """

    positive: Tensor
    negative: Tensor
    explained: tuple[float, float]
    in_plane: float
    components: Tensor = field(repr=False)
    layer: int | None = None

    def frame(self) -> pd.DataFrame:
        """One row per activation: class, x, y."""
        import pandas as pd

        points = torch.cat([self.positive, self.negative])
        sides = ["positive"] * len(self.positive) + ["negative"] * len(self.negative)
        return pd.DataFrame({"class": sides, "x": points[:, 0].tolist(), "y": points[:, 1].tolist()})

    def svg(self, path: str | Path | None = None) -> str:
        """The points, as an SVG; written to ``path`` if given."""
        return self.figure().svg(path)

    def figure(self) -> Figure:
        """The points, before they are drawn."""
        where = f" at layer {self.layer}" if self.layer is not None else ""
        arguments = {
            "positive": self.positive.tolist(),
            "negative": self.negative.tolist(),
            "explained": self.explained,
            "title": f"Geometry of the contrast{where}",
            "subtitle": f"{self.in_plane:.0%} of the difference of means lies in this plane",
        }
        return Figure("geometry", arguments)


def geometry(
    acts_positive: LayerValues | Tensor, acts_negative: LayerValues | Tensor, layer: int | None = None
) -> Geometry:
    """Principal components of the activations of two classes together.

    Args:
        acts_positive, acts_negative: :func:`steersman.activations` of either class, or tensors ``[n, width]``.
        layer: of the activations; not needed if they have one only.

    Raises:
        DataError: fewer than three activations, widths that differ, or activations that are all the same.
    """
    positive, found = _rows(acts_positive, layer)
    negative, _ = _rows(acts_negative, layer)
    if positive.shape[1] != negative.shape[1]:
        raise DataError(f"activations of width {positive.shape[1]} and {negative.shape[1]} lie in no common plane")
    values = torch.cat([positive, negative])
    if len(values) < 3 or values.shape[1] < 2:
        raise DataError(f"{len(values)} activations of width {values.shape[1]} span no plane; give at least three")
    centre = values.mean(0)
    _, sizes, components = torch.linalg.svd(values - centre, full_matrices=False)
    variance = sizes.square()
    if not float(variance.sum()) > 1e-20 * float(values.square().sum()):
        raise DataError("all activations are the same, so nothing varies; are the texts different where they are read?")
    difference = positive.mean(0) - negative.mean(0)
    axes = components[:2] * _signs(components[:2], difference)
    length = float(difference.norm())
    shares = variance / variance.sum()
    return Geometry(
        positive=(positive - centre) @ axes.T,
        negative=(negative - centre) @ axes.T,
        explained=(float(shares[0]), float(shares[1])),
        in_plane=float((axes @ difference).norm()) / length if length else 0.0,
        components=axes,
        layer=found,
    )


def _signs(axes: Tensor, difference: Tensor) -> Tensor:
    """A principal component has no sign of its own: positive examples are put to the right and above."""
    along = axes @ difference
    largest = torch.take_along_dim(axes, axes.abs().argmax(1, keepdim=True), dim=1).flatten()
    chosen = torch.where(along.abs() > 1e-9 * difference.norm(), along, largest)
    return torch.where(chosen < 0, -1.0, 1.0).to(axes.dtype)[:, None]


def _rows(acts: LayerValues | Tensor, layer: int | None) -> tuple[Tensor, int | None]:
    if isinstance(acts, LayerValues):
        layers = list(acts.layers)
        if layer is None and len(layers) > 1:
            raise DataError(f"geometry() shows one layer: name it with layer=, one of {layers}")
        layer = layers[0] if layer is None else layer
        values = acts[layer]
    else:
        values = torch.as_tensor(acts)
    if values.dim() < 2 or not len(values):
        raise DataError(f"activations of shape {tuple(values.shape)}; geometry() needs [n, width]")
    return values.detach().flatten(1).double().cpu(), layer
