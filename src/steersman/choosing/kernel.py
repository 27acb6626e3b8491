"""A weight for each layer from four numbers: a tent over the depth.

The parametrisation of the program heretic (Weidmann 2025, https://github.com/p-e-w/heretic), where it weighs ablations:
the weight is largest at one depth, falls in a straight line to either side down to a floor, and is nothing beyond:

    w(l) = peak (1 - (1 - floor) |l - centre| / reach)   where |l - centre| <= reach,   else 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """Weights over layers.

    Attributes:
        peak: the weight at ``centre``.
        centre: a depth, in layers; it need not be whole.
        reach: how many layers to either side have a weight.
        floor: the weight at the edge, as a share of the peak.
    """

    peak: float
    centre: float
    reach: float
    floor: float

    def weight(self, layer: int) -> float:
        """Of one layer."""
        away = abs(layer - self.centre)
        return 0.0 if away > self.reach else self.peak * (1 - (1 - self.floor) * away / self.reach)

    def weights(self, layers: Sequence[int]) -> dict[int, float]:
        """Of the layers that have one; the nearest to the centre where the kernel falls between two."""
        found = {layer: self.weight(layer) for layer in layers}
        kept = {layer: weight for layer, weight in found.items() if weight}
        return kept or {min(layers, key=lambda layer: abs(layer - self.centre)): self.peak}
