"""Muon: momentum whose update is made orthogonal, for the matrices of the blocks (Jordan et al., 2024).

Matrices of one shape are stacked, so that one batched product serves all blocks.
"""

from __future__ import annotations

from collections import defaultdict

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices to `matrices` [n, rows, columns], by Newton-Schulz."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


class Muon:
    """Nesterov momentum, orthogonalised, with decoupled weight decay."""

    def __init__(
        self, parameters: list[torch.nn.Parameter], momentum: float = 0.95, decay: float = 0.0
    ) -> None:
        groups: dict[tuple[int, ...], list[torch.nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            groups[tuple(parameter.shape)].append(parameter)
        self.groups = list(groups.values())
        self.buffers = [torch.zeros(len(g), *g[0].shape) for g in self.groups]
        self.momentum, self.decay = momentum, decay

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update of every matrix at learning rate `rate`."""
        for parameters, buffer in zip(self.groups, self.buffers, strict=True):
            gradient = torch.stack([p.grad for p in parameters])
            buffer.mul_(self.momentum).add_(gradient)
            update = orthogonalise(gradient.add_(buffer, alpha=self.momentum))
            rows, columns = update.shape[1:]
            scale = rate * max(1.0, columns / rows) ** 0.5
            for parameter, change in zip(parameters, update, strict=True):
                parameter.mul_(1 - rate * self.decay).add_(change, alpha=-scale)
