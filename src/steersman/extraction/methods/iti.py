"""Inference-time intervention: in the heads that know best, ``z_h -> z_h + strength sigma_h theta_h``.

Li et al. 2023, "Inference-Time Intervention: Eliciting Truthful Answers from a Language Model" (arXiv:2306.03341). A
logistic probe is trained on each head's output ``z_h`` (before the output projection); the heads with the highest
validation accuracy are kept. ``theta_h`` is the unit vector of the mass mean shift, ``mean(z+) - mean(z-)`` (or of the
probe's weights); ``sigma_h`` the standard deviation of all examples' projections on it. The vector stores
``sigma_h theta_h`` for the chosen heads and zero for the others, so that strength counts standard deviations, the
alpha of the paper (which uses 48 of LLaMA-7B's 1024 heads and alpha 15).

By linearity it adds ``strength sum_h sigma_h W_O[:, h] theta_h`` to the attention output: a constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError

#: The share of all heads that the paper intervenes on.
SHARE = 48 / 1024
#: Sources per class below which the ranking of heads would be noise.
FEWEST = 8


def iti(
    positive: Tensor,
    negative: Tensor,
    *,
    heads: int | None = None,
    direction: Literal["mass_mean", "probe"] = "mass_mean",
    validation: float = 0.2,
) -> Tensor:
    """``sigma theta`` of one head: ``[d_head]``.

    Args:
        positive, negative: its activations, ``[n, d_head]`` and ``[m, d_head]``.
        heads: how many heads :func:`choose_heads` keeps, of all layers together; the paper's share unless given.
        direction: ``"mass_mean"``, or ``"probe"``: the weights of a logistic probe.
        validation: share of the sources that heads are ranked by.
    """
    if direction not in ("mass_mean", "probe"):
        raise DataError(f'direction={direction!r}: use "mass_mean" or "probe"')
    values = torch.cat([positive, negative])
    if direction == "probe":
        along = torch.from_numpy(_probe(values, _labels(len(positive), len(negative))).coef_[0])
    else:
        along = positive.mean(0) - negative.mean(0)
    along = along / (along.norm() or 1.0)
    return along * (values @ along).std(correction=0)


@dataclass(frozen=True)
class HeadChoice:
    """Heads ranked by a probe on examples it was not trained on.

    Attributes:
        heads: the chosen (layer, head), best first.
        accuracy: validation accuracy of every (layer, head).
        chance: the best accuracy among all heads with the labels shuffled: what so many tries reach by luck.
        items: examples that were held out.
    """

    heads: tuple[tuple[int, int], ...]
    accuracy: Mapping[tuple[int, int], float]
    chance: float
    items: int


def choose_heads(
    positive: Mapping[int, Tensor],
    negative: Mapping[int, Tensor],
    groups: tuple[Sequence[str], Sequence[str]],
    *,
    heads: int | None = None,
    validation: float = 0.2,
    seed: int = 0,
) -> HeadChoice:
    """Rank heads of all layers by the validation accuracy of a logistic probe.

    Args:
        positive, negative: layer -> ``[n, n_heads, d_head]``.
        groups: the source of each example; a source is never split.
        heads: how many to keep; the paper's share of all unless given.
        validation: share of the sources held out.
        seed: of the split and of the shuffled labels.

    Raises:
        DataError: too few sources, or a number of heads or a share that cannot be.
    """
    total = sum(values.shape[1] for values in positive.values())
    keep = max(1, round(total * SHARE)) if heads is None else heads
    if not 1 <= keep <= total:
        raise DataError(f"heads={heads}: these layers have {total} heads")
    held_out = _held_out(groups, validation, seed)
    labels = _labels(len(groups[0]), len(groups[1]))
    shuffled = labels.copy()
    for part in (held_out, ~held_out):
        shuffled[part] = np.random.default_rng(seed + 1).permutation(labels[part])
    scores: dict[tuple[int, int], float] = {}
    chance = 0.0
    for layer in positive:
        values = torch.cat([positive[layer], negative[layer]])
        for head in range(values.shape[1]):
            scores[layer, head] = _accuracy(values[:, head], labels, held_out)
            chance = max(chance, _accuracy(values[:, head], shuffled, held_out))
    ranked = sorted(scores, key=lambda place: (-scores[place], place))
    return HeadChoice(tuple(ranked[:keep]), scores, chance, int(held_out.sum()))


def check_sources(groups: tuple[Sequence[str], Sequence[str]]) -> tuple[set[str], set[str]]:
    """The sources of each class; DataError if they are too few to rank heads by."""
    first, second = set(groups[0]), set(groups[1])
    if min(len(first), len(second)) < FEWEST:
        raise DataError(
            f"iti ranks heads on held-out examples and needs {FEWEST} sources of each class; there are {len(first)} "
            f"positive and {len(second)} negative ones"
        )
    return first, second


def _held_out(groups: tuple[Sequence[str], Sequence[str]], validation: float, seed: int) -> np.ndarray:
    """Which items are held out: a share of the sources of each kind (positive, negative, both)."""
    first, second = check_sources(groups)
    if not 0 < validation < 1:
        raise DataError(f"validation={validation} is a share, between 0 and 1")
    rng = np.random.default_rng(seed)
    chosen: set[str] = set()
    for kind in (first & second, first - second, second - first):
        names = rng.permutation(sorted(kind)) if kind else []
        chosen |= set(names[: min(max(1, round(len(names) * validation)), len(names) - 1)] if len(names) > 1 else [])
    return np.array([source in chosen for source in (*groups[0], *groups[1])])


def _accuracy(values: Tensor, labels: np.ndarray, held_out: np.ndarray) -> float:
    probe = _probe(values[torch.from_numpy(~held_out)], labels[~held_out])
    return float((probe.predict(values[torch.from_numpy(held_out)].numpy()) == labels[held_out]).mean())


def _probe(values: Tensor, labels: np.ndarray) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000).fit(values.numpy(), labels)


def _labels(positive: int, negative: int) -> np.ndarray:
    return np.r_[np.ones(positive), np.zeros(negative)]
