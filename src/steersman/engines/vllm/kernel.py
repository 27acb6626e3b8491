"""What is done to the tokens of a step at one place: the torch path, which is also what the Triton kernel is held to.

``hidden + residual`` is the site's value (models that add the residual stream late pass it beside; others have none).
The change is computed in float32 and added to ``hidden``, in place; tokens in slot 0 keep their bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .tables import FLOATS, INTS


def steer(
    hidden: Tensor,
    residual: Tensor | None,
    bank: Tensor,
    entries: Tensor,
    factors: Tensor,
    tokens: Tensor,
    index: Tensor,
    gates: Tensor,
) -> None:
    """Steer one place, in place.

    Args:
        hidden, residual: ``[at least as many as tokens are steered, width]``.
        bank, tokens, index, gates: as in :class:`~steersman.engines.vllm.tables.Tables`.
        entries, factors: of this place.
    """
    if hidden.is_cuda:  # pragma: no cover - needs a GPU; the same kernel runs interpreted in the tests
        from .triton_kernel import launch

        launch(hidden, residual, bank, entries, factors, tokens, gates)
        return
    rank = int(entries[0, 0])
    if rank == 0:  # so it is everywhere in a step without a steered token
        return
    count = int(index[0])
    rows = slice(count) if int(index[count]) == count - 1 else index[1 : 1 + count]
    slots = tokens[rows].to(torch.int64)
    found = hidden[rows].to(torch.float32)
    if bool(entries[0, 1]):
        base = found if residual is None else found + residual[rows].to(torch.float32)
        change = general(base, bank, entries[slots], factors[slots], rank, gates)
    else:
        change = additions(bank, entries[slots], factors[slots], rank, gates)
    hidden[rows] = (found + change).to(hidden.dtype)


def additions(bank: Tensor, entries: Tensor, factors: Tensor, rank: int, gates: Tensor) -> Tensor:
    """The change ``[n, width]`` where every entry only adds: sum of a w."""
    parts: list[Tensor] = []
    for k in range(rank):
        write, gate = entries[:, 1 + INTS * k], entries[:, 4 + INTS * k]
        factor, shift = factors[:, 1 + FLOATS * k], factors[:, 2 + FLOATS * k]
        parts.append((gates[gate] * factor * shift)[:, None] * bank[write])
    return parts[0] if rank == 1 else torch.stack(parts).sum(0)


def general(h: Tensor, bank: Tensor, entries: Tensor, factors: Tensor, rank: int, gates: Tensor) -> Tensor:
    """The change ``[n, width]`` of values h, entry by entry: ``g h + a clip(r . h0 + c, low, high) w - h``."""
    change = torch.zeros_like(h)
    start = h
    for k in range(rank):
        write, read, begins, gate, decides = entries[:, 1 + INTS * k : 1 + INTS * (k + 1)].unbind(1)
        gain, factor, shift, low, high = factors[:, FLOATS * k : FLOATS * (k + 1)].unbind(1)
        if k:
            start = torch.where(begins.bool()[:, None], h + change, start)
        found = (start * bank[read]).sum(1)
        if bool(decides.any()):
            length = torch.where(high > 0, start.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny), 1.0)
            gates[decides] = ((found / length - shift) * low > 0).float()
            gates[0] = 1.0  # which all others wrote to
        amount = factor * torch.minimum(torch.maximum(found + shift, low), high)
        open_ = gates[gate]
        gain = 1 + open_ * (gain - 1)
        change = gain[:, None] * change + (gain - 1)[:, None] * h + (open_ * amount)[:, None] * bank[write]
    return change
