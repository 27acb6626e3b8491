"""What a logit target measures, as token ids: prompts, and the continuations weighed against each other after them.

Nothing here runs a model. Whoever has the log-probabilities of the continuations, from whatever forward passes, gets
the scores from :func:`scores`; with continuations of one token, the logits at the last prompt token are enough
(:func:`scores_at_last`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import expit, logsumexp
from torch import Tensor

Array = np.ndarray[Any, Any]
Ids = tuple[int, ...]

#: What a logit target reports of the two log-probabilities; see :meth:`Scores.values`.
Measure = Literal["propensity", "preference", "balance"]
MEASURES: tuple[Measure, ...] = ("propensity", "preference", "balance")


@dataclass(frozen=True)
class Item:
    """One prompt, and the continuations of both sides.

    Attributes:
        prompt: token ids, special tokens included; not empty.
        positive, negative: the continuations of each side, token ids; no one of them begins with another.
        unit: which question this is a form of. The forms of a question (its letters in either order) are averaged
            before anything else, and a unit is what an effect is averaged over.
        source: where the unit comes from; units of one source are resampled together.
        text: the prompt as people read it.
    """

    prompt: Ids
    positive: tuple[Ids, ...]
    negative: tuple[Ids, ...]
    unit: int
    source: str
    text: str = ""

    @property
    def single(self) -> bool:
        """Whether all continuations are single tokens, so that the logits at the last prompt token say it all."""
        return all(len(ids) == 1 for ids in (*self.positive, *self.negative))


@dataclass(frozen=True)
class Continuation:
    """One continuation of one item.

    Attributes:
        item: its number.
        positive: its side.
        ids: its tokens.
    """

    item: int
    positive: bool
    ids: Ids


def continuations(items: Sequence[Item]) -> list[Continuation]:
    """All continuations of all items: by item, the positive ones first."""
    return [
        Continuation(number, side, ids)
        for number, item in enumerate(items)
        for side, group in ((True, item.positive), (False, item.negative))
        for ids in group
    ]


@dataclass(frozen=True, eq=False)
class Scores:
    """The log-probability of each side after each prompt.

    Attributes:
        log_positive, log_negative: ``[..., items]`` float64: ``log sum_y p(y | x_i)`` over the continuations of a side.
        units: ``[items]`` the unit of each item.
        sources: the source of each unit, in the order of the units.
    """

    log_positive: Array
    log_negative: Array
    units: Array
    sources: tuple[str, ...]

    @property
    def propensity(self) -> Array:
        """``m_i = log P(Y+ | x_i) - log P(Y- | x_i)``, nats, per unit ``[..., units]`` (Tan et al. 2024,
        arXiv:2407.12404)."""
        return self.values("propensity")

    def values(self, measure: Measure) -> Array:
        """One number per unit, ``[..., units]``: the mean over its items of

        - ``"propensity"``: ``m = log P(Y+) - log P(Y-)``, in nats: linear in the logits, without bounds;
        - ``"preference"``: ``sigma(m)``, the share of Y+ in the probability of both sides, in [0, 1];
        - ``"balance"``: ``P(Y+) - P(Y-)``, in [-1, 1]: also small when neither side is likely.
        """
        if measure == "balance":
            each = np.exp(self.log_positive) - np.exp(self.log_negative)
        else:
            each = self.log_positive - self.log_negative
            each = expit(each) if measure == "preference" else each
        return self._by_unit(each)

    def _by_unit(self, each: Array) -> Array:
        counts = np.bincount(self.units, minlength=len(self.sources))
        if counts.max() == 1:
            found = np.empty((*each.shape[:-1], len(counts)))
            found[..., self.units] = each
            return found
        member = np.zeros((len(self.units), len(counts)))
        member[np.arange(len(self.units)), self.units] = 1 / counts[self.units]
        return each @ member


def sources_of(items: Sequence[Item]) -> tuple[str, ...]:
    """The source of each unit, in the order of the units."""
    found = {item.unit: item.source for item in items}
    return tuple(found[unit] for unit in range(len(found)))


def scores(items: Sequence[Item], log_probabilities: Tensor | Array) -> Scores:
    """The scores of items from the log-probabilities ``[..., n]`` of their :func:`continuations`, in that order."""
    values = np.asarray(log_probabilities, dtype=np.float64)
    listed = continuations(items)
    if values.shape[-1] != len(listed):
        raise ValueError(f"{values.shape[-1]} log-probabilities for {len(listed)} continuations")
    sides: dict[bool, Array] = {}
    for side in (True, False):
        sides[side] = np.empty((*values.shape[:-1], len(items)))
        for numbers, places in _places(listed, side, len(items)):  # all of one size at once: there are many
            sides[side][..., numbers] = logsumexp(values[..., places], axis=-1)
    return Scores(sides[True], sides[False], np.array([item.unit for item in items]), sources_of(items))


def _places(listed: Sequence[Continuation], side: bool, items: int) -> list[tuple[list[int], Array]]:
    """Items by how many continuations they have on a side: their numbers ``[n]``, and where these stand, ``[n, k]``."""
    places: list[list[int]] = [[] for _ in range(items)]
    for place, continuation in enumerate(listed):
        if continuation.positive is side:
            places[continuation.item].append(place)
    by_size: dict[int, list[int]] = {}
    for number, own in enumerate(places):
        by_size.setdefault(len(own), []).append(number)
    return [(numbers, np.array([places[number] for number in numbers])) for numbers in by_size.values()]


def derivatives(
    items: Sequence[Item],
    log_probabilities: Tensor | Array,
    measure: Measure,
    units: Sequence[int] | Array | None = None,
) -> Array:
    """How the mean value changes with the log-probability of each of the items' :func:`continuations`: ``[n]``.

    Args:
        items: the items.
        log_probabilities: ``[n]``, of their continuations.
        measure: of the value.
        units: over which the mean is; all unless given.
    """
    logs = np.asarray(log_probabilities, dtype=np.float64)
    whole = scores(items, logs)
    chosen = np.unique(whole.units) if units is None else np.asarray(units)
    forms = np.bincount(whole.units)
    share = np.isin(whole.units, chosen) / forms[whole.units] / len(chosen)
    if measure == "preference":
        ratio = expit(whole.log_positive - whole.log_negative)
        share = share * ratio * (1 - ratio)
    found = np.empty(len(logs))
    for place, one in enumerate(continuations(items)):
        side = whole.log_positive if one.positive else whole.log_negative
        each = np.exp(logs[place] - (0.0 if measure == "balance" else side[one.item]))
        found[place] = share[one.item] * (each if one.positive else -each)
    return found


def scores_at_last(items: Sequence[Item], logits: Tensor) -> Scores:
    """The scores of items whose continuations are single tokens, from the logits at their last prompt tokens.

    Args:
        items: all of them :attr:`Item.single`.
        logits: ``[..., items, vocab]``.
    """
    if not all(item.single for item in items):
        raise ValueError("an item has a continuation of several tokens; score it by its continuations")
    logits = logits.float()
    total = torch.logsumexp(logits, dim=-1).double()
    sides: list[Array] = []
    for group in ([item.positive for item in items], [item.negative for item in items]):
        width = max(len(found) for found in group)
        index = torch.tensor([[ids[0] for ids in found] + [found[0][0]] * (width - len(found)) for found in group])
        real = torch.tensor([[True] * len(found) + [False] * (width - len(found)) for found in group])
        index, real = index.to(logits.device), real.to(logits.device)
        chosen = logits.gather(-1, index.expand(*logits.shape[:-1], width)).double() - total[..., None]
        sides.append(torch.logsumexp(chosen.masked_fill(~real, -torch.inf), dim=-1).cpu().numpy())
    return Scores(sides[0], sides[1], np.array([item.unit for item in items]), sources_of(items))
