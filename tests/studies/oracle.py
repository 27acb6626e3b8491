"""Studies by hand: one unpadded row, one component and one forward pass at a time, with plain hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tests.model import reference as by_hand
from torch import Tensor

Ids = Sequence[int]


def last(hf: Any, family: str, ids: Ids, edits: by_hand.Edits = ()) -> Tensor:
    """Logits ``[vocab]`` after a row, in float64."""
    return by_hand.logits(hf, family, ids, edits)[-1].double()


def columns(hf: Any, site: str, unit: int | None, width: int) -> list[int]:
    """The values of a token that a component is."""
    if unit is None:
        return list(range(width))
    if site == "mlp_post":
        return [unit]
    size = width // hf.config.num_attention_heads
    return list(range(unit * size, (unit + 1) * size))


def set_to(hf: Any, site: str, unit: int | None, values: Tensor, tokens: Sequence[int] | None = None) -> by_hand.Change:
    """The edit that sets a component to ``values`` (``[width]``, or ``[tokens, width]`` of the whole row)."""

    def change(h: Tensor) -> Tensor:
        chosen, new = columns(hf, site, unit, h.shape[1]), h.clone()
        rows = values.expand(len(h), -1)
        for token in range(len(h)) if tokens is None else tokens:
            new[token, chosen] = rows[token, chosen]
        return new

    return change


def mean_over(hf: Any, family: str, site: str, layer: int, texts: Sequence[Ids]) -> Tensor:
    """The mean of a site over all tokens of texts but their first, ``[width]``."""
    rows = [by_hand.read(hf, family, site, layer, ids)[1:].double() for ids in texts]
    return torch.cat(rows).mean(0).float()


def mean_by_position(hf: Any, family: str, site: str, layer: int, texts: Sequence[Ids]) -> Tensor:
    """One mean for each position, over the texts that reach it, ``[longest, width]``."""
    rows = [by_hand.read(hf, family, site, layer, ids).double() for ids in texts]
    longest = max(len(row) for row in rows)
    return torch.stack([torch.stack([row[p] for row in rows if p < len(row)]).mean(0) for p in range(longest)]).float()
