"""Which heads the indirect object needs, and whether the capitals survive without them."""

from __future__ import annotations

import torch

from tools.model.abilities.recall import capitals, indirect_object
from tools.model.abilities.subject import Edit, Subject


def without_head(subject: Subject, head: int) -> Edit:
    """The edit of a block's `c_proj` input that zeroes one head."""
    size = subject.width // subject.model.config.n_head

    def zero(z: torch.Tensor) -> torch.Tensor:
        z = z.clone()
        z[..., head * size : (head + 1) * size] = 0
        return z

    return zero


def head_map(subject: Subject, count: int = 60) -> tuple[float, torch.Tensor]:
    """The indirect-object logit difference, and what is left of it [blocks, heads] without each head, as a share."""
    _, whole = indirect_object(subject, count)
    heads = subject.model.config.n_head
    left = [
        [indirect_object(subject, count, z={layer: without_head(subject, head)})[1] / whole for head in range(heads)]
        for layer in range(len(subject.blocks))
    ]
    return whole, torch.tensor(left)


def best_head(subject: Subject, left: torch.Tensor) -> tuple[int, int, float, float]:
    """(block, head, share of the difference left, capitals left) of the strongest head that leaves capitals whole."""
    order = left.flatten().argsort()[:6].tolist()
    rows = []
    for flat in order:
        layer, head = divmod(flat, left.shape[1])
        rows.append((layer, head, left[layer, head].item(), capitals(subject, z={layer: without_head(subject, head)})))
    return next((row for row in rows if row[3] >= 0.9), rows[0])
