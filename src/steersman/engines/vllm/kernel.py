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
    gates: Tensor,
    work: Tensor,
    index: Tensor,
) -> None:
    """Steer one place, in place.

    Args:
        hidden, residual: ``[at least as many as tokens are steered, width]``.
        bank, tokens, gates, index: as in :class:`~steersman.engines.vllm.tables.Tables`.
        entries, factors, work: of this place.
    """
    if hidden.is_cuda:  # pragma: no cover - needs a GPU; the same kernel runs interpreted in the tests
        from .triton_kernel import launch

        launch(hidden, residual, bank, entries, factors, tokens, gates)
        return
    # This runs at every place in every step, on few tokens: what it costs is mostly the number of calls into torch.
    rank, computes, first, count = work.tolist()
    if rank == 0:
        return
    rows = None if first >= 0 else index[:count]
    slots, value = _rows(tokens, first, count, rows), _rows(hidden, first, count, rows)
    exact = value if value.dtype == torch.float32 else value.float()  # a part of ``hidden``, where it can be
    if computes:
        h = exact if residual is None else exact + _rows(residual, first, count, rows)
        exact += change(h, bank, entries.index_select(0, slots), factors.index_select(0, slots), rank, gates)
    else:
        add(exact, bank, entries, factors, slots, rank)
    if rows is not None:
        hidden.index_copy_(0, rows, exact.to(hidden.dtype))
    elif exact is not value:
        value.copy_(exact)


def _rows(tensor: Tensor, first: int, count: int, rows: Tensor | None) -> Tensor:
    """The rows of the tokens that are steered; a view, where they are a run."""
    return tensor[first : first + count] if rows is None else tensor.index_select(0, rows)


def add(h: Tensor, bank: Tensor, entries: Tensor, factors: Tensor, slots: Tensor, rank: int) -> None:
    """Add ``a w`` for each entry to h ``[n, width]``, in place, where no entry does more than that."""
    for k in range(rank):
        write = entries.select(1, 1 + INTS * k).index_select(0, slots)
        factor = factors.select(1, 1 + FLOATS * k).index_select(0, slots)
        h.addcmul_(bank.index_select(0, write), factor.unsqueeze(1))


def change(h: Tensor, bank: Tensor, entries: Tensor, factors: Tensor, rank: int, gates: Tensor) -> Tensor:
    """The change ``[n, width]`` of values h, entry by entry: ``g h + a clip(r . h0 + c, low, high) w - h``.

    Args:
        entries, factors: of each value.
    """
    total = torch.zeros_like(h)
    start = h
    for k in range(rank):
        write, read, begins, gate, decides = entries[:, 1 + INTS * k : 1 + INTS * (k + 1)].unbind(1)
        gain, factor, shift, low, high = factors[:, FLOATS * k : FLOATS * (k + 1)].unbind(1)
        if k:
            start = torch.where(begins.bool()[:, None], h + total, start)
        found = (start * bank.index_select(0, read)).sum(1)
        if bool(decides.any()):
            length = torch.where(high > 0, start.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny), 1.0)
            gates[decides] = ((found / length - shift) * low > 0).float()
            gates[0] = 1.0  # which all others wrote to
        amount = factor * torch.minimum(torch.maximum(found + shift, low), high)
        open_ = gates.index_select(0, gate)
        gain = 1 + open_ * (gain - 1)
        total = gain[:, None] * total + (gain - 1)[:, None] * h
        total.addcmul_((open_ * amount)[:, None], bank.index_select(0, write))
    return total
