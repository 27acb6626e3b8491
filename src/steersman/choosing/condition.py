"""When to steer: the layer, the threshold and its side that tell prompts apart best.

As in conditional activation steering (Lee et al. 2024, arXiv:2409.05907), which chooses all three by F1 over labelled
prompts; the thresholds tried there lie on a grid, here they are all there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..conditions import Measure, When
from ..errors import DataError
from ..evaluation import statistics
from ..evaluation.controls import RANDOM_DIRECTIONS, Cloud, random_directions, token_activations
from ..evaluation.items import Array
from ..evaluation.neutral import default_texts
from ..evaluation.provenance import versions
from ..evaluation.statistics import Estimate
from ..evaluation.targets.base import prompt_sources
from ..extraction import activations
from ..model import SteeringModel
from ..model.provenance import describe
from ..model.tokens import Prompts, listed
from ..sites import Indices
from ..sweeping.cells import Direction
from ..sweeping.where import layers_of
from ..vector import SteeringVector
from .splitting import parts
from .thresholds import Cut, best_cut, f1


@dataclass(frozen=True)
class LayerCut:
    """The best cut of one layer, found on the tuning prompts alone."""

    layer: int
    threshold: float
    above: bool
    f1: float
    margin: float


@dataclass(frozen=True, eq=False)
class ConditionChoice:
    """A condition and its evidence, all of it measured on prompts that took no part in the choice.

    Attributes:
        when: the condition, for ``when=`` of any operation.
        f1: ``2 TP / (2 TP + FP + FN)`` with its interval over sources; without one where no prompt is misjudged, since
            resampling cannot tell such from certain.
        precision: of the prompts for which it holds, the share that it should hold for; Wilson's interval.
        recall: of the prompts it should hold for, the share for which it does; Wilson's interval.
        always: F1 of a condition that always holds.
        random: F1 of random directions, drawn from the covariance of the activations of neutral text, each with a
            layer, a threshold and a side of its own, searched alike.
        p_value: of the rank of ``f1`` among them; None without them.
        layers: the best cut of each layer, on the tuning prompts.
        facts: settings, counts, versions.
    """

    when: When
    f1: Estimate
    precision: Estimate
    recall: Estimate
    always: float
    random: tuple[float, ...]
    p_value: float | None
    layers: tuple[LayerCut, ...]
    facts: dict[str, Any]

    def frame(self) -> Any:
        """A pandas DataFrame, one row per layer: its best cut on the tuning prompts."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.layers])

    def evidence(self) -> dict[str, Any]:
        """The same as JSON values, for ``Plan(..., evidence=)``."""
        return {
            "kind": "condition", "layer": self.when.layer, "above": self.when.above, "below": self.when.below,
            "measure": self.when.measure, "f1": self.f1.as_json(), "precision": self.precision.as_json(),
            "recall": self.recall.as_json(), "always": self.always, "p_value": self.p_value, **self.facts,
        }  # fmt: skip


def choose_condition(
    model: SteeringModel,
    vector: Direction,
    positive_prompts: Prompts,
    negative_prompts: Prompts,
    *,
    layers: str | Indices = "all",
    measure: Measure = "cosine",
    positive_sources: Sequence[str] | None = None,
    negative_sources: Sequence[str] | None = None,
    tune: float = 0.5,
    random: int = RANDOM_DIRECTIONS,
    neutral: Sequence[str] | None = None,
    seed: int = 0,
) -> ConditionChoice:
    """Choose a condition that holds for some prompts and not for others, by F1.

    The prompts are parted by source. On the first part every threshold of every layer is tried, on both sides; the
    highest F1 wins, of equal ones the one with the widest margin, then the lowest layer. On the second part it is
    measured once.

    Args:
        model: the model.
        vector: the direction that prompts are read along: a steering vector, or a tensor ``[d_model]``, the same in
            each layer. Extract it from other prompts than these.
        positive_prompts: prompts it should hold for: strings or chats.
        negative_prompts: prompts it should not hold for.
        layers: where it may be read; those of the vector unless given.
        measure: ``"cosine"`` or ``"projection"``, as in :class:`steersman.When`.
        positive_sources, negative_sources: where each prompt comes from; each its own unless given.
        tune: the share of sources that the choice is made on.
        random: random directions of the control; 0 for none.
        neutral: texts whose activations they are drawn from; packaged ones unless given.
        seed: of the split, the directions, the resampling.

    Raises:
        DataError, PromptError, MismatchError: before any forward pass; DataError also where no threshold parts
            anything.
    """
    given = [listed(positive_prompts)[0], listed(negative_prompts)[0]]
    sources = [
        prompt_sources(positive_sources, len(given[0])),
        prompt_sources(negative_sources, len(given[1])),
    ]
    split = [parts(own, [tune], f"{name} prompts", seed)
             for own, name in zip(sources, ("positive", "negative"), strict=True)]  # fmt: skip
    chosen = layers_of(model.shape, vector, layers)
    When(vector, chosen[0], above=0.0, measure=measure)  # what is wrong with either shows here
    texts = list(neutral) if neutral is not None else list(default_texts(model.shape.name))
    if random:
        model.check_length(model.tokens.encode_all(texts))
    acts = activations(model, [*given[0], *given[1]], layers=chosen)
    labels = np.r_[np.ones(len(given[0]), bool), np.zeros(len(given[1]), bool)]
    tuning, reporting = (np.r_[split[0][part], split[1][part] + len(given[0])] for part in (0, 1))
    scores = {layer: _scores(acts[layer], _at(vector, layer)[None], measure)[:, 0] for layer in chosen}
    cuts = {layer: best_cut(scores[layer][tuning], labels[tuning]) for layer in chosen}
    best = _best(cuts)
    if cuts[best].f1 == 0:
        raise DataError("all prompts read the same along this direction, so no threshold parts them")
    cut = cuts[best]
    held, truth = cut.holds(scores[best][reporting]), labels[reporting]
    groups = np.array([f"+{s}" for s in sources[0]] + [f"-{s}" for s in sources[1]])[reporting]
    found = _f1(truth, held, groups, seed)
    drawn = _random(model, vector, acts, chosen, labels, tuning, reporting, measure, random, texts, seed)
    return ConditionChoice(
        When(vector, best, above=cut.threshold if cut.above else None, below=None if cut.above else cut.threshold,
             measure=measure),
        found, _share(truth[held], groups[held]), _share(held[truth], groups[truth]),
        f1(truth, np.ones_like(truth)), tuple(drawn),
        statistics.rank_p_value(found.value, drawn, side="greater") if drawn else None,
        tuple(LayerCut(layer, one.threshold, one.above, one.f1, one.margin) for layer, one in cuts.items()),
        {"tune_prompts": len(tuning), "report_prompts": len(reporting), "layers": chosen, "random": random,
         "seed": seed, "model": describe(model), "versions": versions()},
    )  # fmt: skip


def _at(vector: Direction, layer: int) -> Tensor:
    return vector[layer] if isinstance(vector, SteeringVector) else vector


def _scores(values: Tensor, directions: Tensor, measure: Measure) -> Array:
    """What :class:`When` reads of ``[n, d_model]`` along each of ``[k, d_model]``: ``[n, k]``."""
    units = directions.float() / directions.float().norm(dim=-1, keepdim=True)
    found = values.float() @ units.T
    if measure == "cosine":
        found = found / values.float().norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return found.numpy()


def _best(cuts: dict[int, Cut]) -> int:
    return max(cuts, key=lambda layer: (cuts[layer].f1, cuts[layer].margin, -layer))


def _f1(truth: Array, held: Array, groups: Array, seed: int) -> Estimate:
    both = np.stack([truth, held], axis=1).astype(np.float64)
    found = statistics.statistic(
        lambda rows: f1(rows[:, 0] > 0, rows[:, 1] > 0), both, list(groups), seed=seed
    )  # fmt: skip
    if (truth == held).all() or not (truth & held).any():
        note = found.note or "all prompts are judged alike; see the intervals of precision and recall"
        return Estimate(found.value, None, None, found.n, found.sources, note=note)
    return found


def _share(held: Array, groups: Array) -> Estimate:
    if not len(held):
        return Estimate(0.0, None, None, 0, 0, note="it holds for no prompt")
    return statistics.share(held, list(groups))


def _random(
    model: SteeringModel, vector: Direction, acts: Any, chosen: list[int], labels: Array, tuning: Array,
    reporting: Array, measure: Measure, n: int, texts: Sequence[str], seed: int,
) -> list[float]:  # fmt: skip
    """The F1 that random directions come to by the same search."""
    if not n:
        return []
    cloud = Cloud.of(token_activations(model, list(texts), layers=chosen))
    scores = {
        layer: _scores(
            acts[layer], random_directions(_at(vector, layer).float(), n, seed=seed, cloud=cloud.values[layer]), measure
        )
        for layer in chosen
    }
    found: list[float] = []
    for number in range(n):
        cuts = {layer: best_cut(scores[layer][tuning, number], labels[tuning]) for layer in chosen}
        layer = _best(cuts)
        found.append(f1(labels[reporting], cuts[layer].holds(scores[layer][reporting, number])))
    return found
