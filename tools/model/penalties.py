"""What training adds to the loss, so that the finished model is worth looking into.

The architecture is a plain GPT-2. Left alone, so small a model moves everything in its first block and with several
heads at once. A soft price on what heads write, high in the first and the last blocks and low in the middle, makes
information move in the middle, by few heads; a price on the growth of the residual keeps its norms readable.
"""

from __future__ import annotations

import dataclasses

import torch

from tools.model.forward import Trace


@dataclasses.dataclass(frozen=True)
class Penalties:
    """Weights of the penalties. `early` and `late` count blocks at either end whose heads are priced at `edge`."""

    early: int = 3
    late: int = 2
    edge: float = 0.05
    middle: float = 0.003
    growth: float = 0.1
    growth_limit: float = 0.22

    def __call__(self, trace: Trace, progress: float) -> torch.Tensor:
        """The penalty of one forward pass; the price of the middle rises from 30% to 60% of training."""
        last = len(trace.head_norms) - self.late
        middle = self.middle * min(1.0, max(0.0, (progress - 0.3) / 0.3))
        total = torch.zeros(())
        for layer, heads in enumerate(trace.head_norms):
            price = middle if self.early <= layer < last else self.edge
            if price:
                share = heads / trace.resid_norms[layer].detach().unsqueeze(-1)
                total = total + price * share[:, 1:].sum(-1).mean()
        return total + self.growth * self.excess_growth(trace)

    def excess_growth(self, trace: Trace) -> torch.Tensor:
        """By how much the mean log norm of the residual grows over the limit per block, summed over blocks."""
        logs = torch.stack([norms[:, 1:].log().mean() for norms in trace.resid_norms[1:]])
        return (logs.diff() - self.growth_limit).clamp_min(0).sum()
