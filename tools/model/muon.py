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
    """Nesterov momentum, orthogonalised, with decoupled weight decay.

    A matrix twice or more as wide as tall that is `split` into parts (query, key and value in one) is
    orthogonalised part by part: otherwise the part with the largest gradient takes most of the update.
    """

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        split: dict[int, int],
        momentum: float = 0.95,
        decay: float = 0.0,
    ) -> None:
        """`split` maps the id of a parameter to the number of column parts it is made of."""
        groups: dict[tuple[int, ...], list[torch.Tensor]] = defaultdict(list)
        self.parameters = parameters
        self.split = split
        for parameter in parameters:
            for part in parameter.data.chunk(split.get(id(parameter), 1), dim=1):
                groups[tuple(part.shape)].append(part)
        self.shapes = list(groups)
        self.weights = list(groups.values())
        self.buffers = [torch.zeros(len(group), *shape) for shape, group in groups.items()]
        self.momentum, self.decay = momentum, decay

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update of every matrix at learning rate `rate`."""
        gradients = self.gradients()
        for shape, weights, buffer in zip(self.shapes, self.weights, self.buffers, strict=True):
            gradient = torch.stack(gradients[shape])
            buffer.mul_(self.momentum).add_(gradient)
            update = orthogonalise(gradient.add_(buffer, alpha=self.momentum))
            scale = rate * max(1.0, shape[1] / shape[0]) ** 0.5
            for weight, change in zip(weights, update, strict=True):
                weight.mul_(1 - rate * self.decay).add_(change, alpha=-scale)

    def gradients(self) -> dict[tuple[int, ...], list[torch.Tensor]]:
        """The gradients of all parts, grouped as the weights are."""
        grouped: dict[tuple[int, ...], list[torch.Tensor]] = defaultdict(list)
        for parameter in self.parameters:
            for part in parameter.grad.chunk(self.split.get(id(parameter), 1), dim=1):
                grouped[tuple(part.shape)].append(part)
        return grouped
