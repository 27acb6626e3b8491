"""Texts that begin alike, run together: each shared beginning is computed once.

A packed row is a tree of tokens laid out in one line. A token attends to the tokens on its way from the root and has
the position of its depth, so it is computed exactly as in its own text. Chats that share a system prompt, and questions
made from one template, save most of their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..model.architecture import Architecture
from ..model.own_mask import attention_mask

#: Tokens of a packed row. Attention over it is computed in full, so longer rows save less than they share.
PACK_TOKENS = 512
#: Pack when at most this share of the tokens remains.
WORTH = 0.8


@dataclass(frozen=True)
class Packed:
    """A tree of tokens in one line.

    Attributes:
        ids, positions: of each token of the row, ``[tokens]``.
        visible: which tokens each may attend to, ``[tokens, tokens]``.
        paths: for each text, its number and where its tokens stand in the row.
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    paths: tuple[tuple[int, Tensor], ...]

    def inputs(self, architecture: Architecture, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Keyword arguments for the decoder."""
        mask = torch.zeros(self.visible.shape, dtype=dtype, device=device)
        mask = mask.masked_fill(~self.visible.to(device), torch.finfo(dtype).min)[None, None]
        return {
            "input_ids": self.ids[None].to(device),
            "position_ids": self.positions[None].to(device),
            "attention_mask": attention_mask(architecture, mask),
        }


def pack(rows: Sequence[Sequence[int]], limit: int = PACK_TOKENS) -> list[Packed]:
    """Lay texts out as trees of at most ``limit`` tokens each (a longer text stands alone).

    Args:
        rows: the token ids of each text.
    """
    order = sorted(range(len(rows)), key=lambda number: tuple(rows[number]))
    groups: list[list[int]] = []
    size = 0
    for number in order:
        new = len(rows[number]) - (_shared(rows[groups[-1][-1]], rows[number]) if groups else 0)
        if not groups or size + new > limit:
            groups.append([])
            size, new = 0, len(rows[number])
        groups[-1].append(number)
        size += new
    return [_tree(rows, group) for group in groups]


def distinct_tokens(rows: Sequence[Sequence[int]]) -> int:
    """Tokens of texts, each shared beginning counted once: what packs of any size would hold."""
    order = sorted(tuple(row) for row in rows)
    return len(order[0]) + sum(len(b) - _shared(a, b) for a, b in pairwise(order)) if order else 0


def packed_tokens(packs: Sequence[Packed]) -> int:
    """Tokens computed for all packs."""
    return sum(len(one.ids) for one in packs)


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the common beginning."""
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    return min(len(first), len(second))


def _tree(rows: Sequence[Sequence[int]], group: Sequence[int]) -> Packed:
    ids: list[int] = []
    depths: list[int] = []
    paths: list[tuple[int, Tensor]] = []
    fresh: list[int] = []
    path: list[int] = []
    before: Sequence[int] = ()
    for number in group:
        row = rows[number]
        common = _shared(before, row)
        path = [*path[:common], *range(len(ids), len(ids) + len(row) - common)]
        ids.extend(row[common:])
        depths.extend(range(common, len(row)))
        paths.append((number, torch.tensor(path)))
        fresh.append(common)
        before = row
    visible = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    for (_, nodes), common in zip(paths, fresh, strict=True):
        reach = torch.arange(len(nodes))
        visible[nodes[common:, None], nodes[None, :]] = reach[None, :] <= reach[common:, None]
    return Packed(torch.tensor(ids), torch.tensor(depths), visible, tuple(paths))
