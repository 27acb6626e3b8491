"""The prompts of a study, tokenised and grouped by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import NotAppliedError
from ..extraction.activations import batches
from ..extraction.reading import Item
from ..model import SteeringModel
from ..model.tokens import Batch
from ..positions import Positions, select


@dataclass(frozen=True, eq=False)
class Group:
    """Prompts of similar length that are run together, padded on the left.

    Attributes:
        numbers: of the prompts, in the order they were given.
        ids: their tokens.
    """

    model: SteeringModel
    numbers: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]

    @cached_property
    def batch(self) -> Batch:
        """The tokens, padded; usable in passes with gradients and without."""
        with torch.inference_mode(False):
            return self.model.tokens.batch(self.ids)

    @property
    def rows(self) -> int:
        """How many prompts."""
        return len(self.ids)

    @property
    def columns(self) -> int:
        """The padded length."""
        return self.batch.input_ids.shape[1]

    @property
    def mask(self) -> Tensor:
        """``[rows, columns]`` bool, False at padding."""
        return self.batch.attention_mask.bool()

    def selected(self, positions: Positions | None) -> Tensor:
        """``[rows, columns]`` bool: the tokens that positions mean (None: all). A row may have none of them."""
        if positions is None or positions.everywhere:
            return self.mask
        found = torch.zeros(self.rows, self.columns, dtype=torch.bool)
        for row, ids in enumerate(self.ids):
            for place in places(self.model, positions, ids):
                found[row, self.columns - len(ids) + place] = True
        return found


def places(model: SteeringModel, positions: Positions, ids: Sequence[int]) -> Sequence[int]:
    """The positions meant in one prompt; none where a selector finds nothing."""
    try:
        spans = positions.resolve(len(ids), lambda marker: model.tokens.find_marker(ids, marker))
    except NotAppliedError:
        return range(0)
    return select(spans, 0, len(ids))


def grouped(model: SteeringModel, ids: Sequence[Sequence[int]], token_budget: int) -> Iterator[Group]:
    """Prompts of similar length together, so that one forward pass holds ``token_budget`` padded tokens at most."""
    listed = [Item(number, list(row), []) for number, row in enumerate(ids)]
    for group in batches(listed, token_budget):
        numbers = tuple(item.number for item in group)
        yield Group(model, numbers, tuple(tuple(ids[i]) for i in numbers))
