"""Which direction to ablate: candidates by layer and token, judged by three scores.

The selection of Arditi et al. 2024 (arXiv:2406.11717). A candidate ``r`` is the difference of the mean activations of
two sets of prompts, at one layer and one of the tokens that end every prompt. On prompts that took no part in it,

- ``bypass``: the target after positive prompts with r ablated everywhere (h -> h - r^ r^T h); the lower the better;
- ``induce``: the target after negative prompts with r added at its layer, at all tokens: above zero, r causes what its
  absence prevents;
- ``KL``: of the next token after negative prompts, with r ablated: what the ablation breaks.

Chosen is the least ``bypass`` of the candidates with ``induce > 0``, ``KL < 0.1`` and a layer in the first four fifths
(the last ones hold words rather than causes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..evaluation import statistics
from ..evaluation.controls import RANDOM_DIRECTIONS, random_directions, token_activations
from ..evaluation.neutral import default_texts
from ..evaluation.provenance import versions
from ..evaluation.statistics import Estimate
from ..evaluation.targets.base import Target, prompt_sources
from ..extraction.activations import visit
from ..model import SteeringModel
from ..model.provenance import describe
from ..model.tokens import Prompt, Prompts, listed
from ..operations import Ablate, Add
from ..plan import Plan
from ..sites import Indices, layer_indices
from .measuring import Measured, next_token_kl
from .splitting import parts

#: Tokens from the end that are looked at, if as many are the same in all prompts.
MOST_POSITIONS = 8


@dataclass(frozen=True)
class Candidate:
    """A direction and its scores.

    Attributes:
        layer, position: where it was read; the position counts from the end of the prompt.
        bypass, induce, kl: as above, means over the tuning prompts.
        norm: its length.
        allowed: whether it meets the conditions.
    """

    layer: int
    position: int
    bypass: float
    induce: float
    kl: float
    norm: float
    allowed: bool


@dataclass(frozen=True, eq=False)
class AblationChoice:
    """The direction chosen, and its evidence from prompts that took no part in finding or choosing it.

    Attributes:
        layer, position: where it was read.
        direction: ``[d_model]`` float32, the raw difference of means.
        plan: its ablation from all that writes the residual stream, with the evidence.
        effect: the change of the target after positive prompts, with its interval.
        induce: the target after negative prompts with the direction added, with its interval.
        kl: of the next token after negative prompts, with its interval.
        random: the same change under random directions, drawn from the covariance of the activations
            of neutral text at its layer.
        p_value: of the rank of the effect among them; None without them.
        candidates: all that were scored, by layer, then position.
        facts: settings, counts, versions.
    """

    layer: int
    position: int
    direction: Tensor
    plan: Plan
    effect: Estimate
    induce: Estimate
    kl: Estimate
    random: tuple[float, ...]
    p_value: float | None
    candidates: tuple[Candidate, ...]
    facts: dict[str, Any]

    def frame(self) -> Any:
        """A pandas DataFrame, one row per candidate."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.candidates])


def choose_ablation(
    model: SteeringModel,
    positive: Prompts,
    negative: Prompts,
    *,
    target: Target,
    layers: str | Indices = "all",
    positions: Sequence[int] | None = None,
    max_kl: float = 0.1,
    deepest: float = 0.8,
    positive_sources: Sequence[str] | None = None,
    negative_sources: Sequence[str] | None = None,
    train: float = 0.5,
    tune: float = 0.25,
    neutral: Sequence[str] | None = None,
    random: int = RANDOM_DIRECTIONS,
    seed: int = 0,
) -> AblationChoice:
    """Find the direction whose ablation takes a behaviour away.

    Args:
        model: the model.
        positive: prompts that show it (requests that are refused): strings or chats.
        negative: prompts that do not.
        target: how strong the behaviour is; above 0 it is the likelier, as with :func:`steersman.log_odds` of the words
            a refusal begins with, or :func:`steersman.contrast`.
        layers: of the candidates; never those beyond ``deepest``.
        positions: of the candidates, counted from the end (``[-1, -2]``); the tokens that all prompts end with, at most
            eight, unless given (those a chat template puts after the instruction).
        max_kl: nats that the ablation may cost at the next token after negative prompts.
        deepest: the part of the depth that candidates may come from.
        positive_sources, negative_sources: where each prompt comes from; each its own unless given.
        train, tune: the shares of sources that directions are computed from, and that they are scored on; the rest is
            reported on.
        neutral: texts whose activations the random directions are drawn from; packaged ones unless given.
        random: random directions of the control; 0 for none.
        seed: of the split, the directions, the resampling.

    Raises:
        DataError, PromptError, MismatchError: before any forward pass; DataError also where no candidate meets the
            conditions, saying how many failed which.
    """
    sides = [listed(positive)[0], listed(negative)[0]]
    sources = [prompt_sources(positive_sources, len(sides[0])), prompt_sources(negative_sources, len(sides[1]))]
    split = [parts(own, [train, tune], f"{name} prompts", seed)
             for own, name in zip(sources, ("positive", "negative"), strict=True)]  # fmt: skip
    chosen = _layers(model, layers, deepest)
    ids = [model.tokens.encode_all(list(side)) for side in sides]
    texts = tuple(neutral) if neutral is not None else default_texts(model.shape.name)
    places = _positions([*ids[0], *ids[1]], positions)
    if random:
        model.check_length(model.tokens.encode_all(list(texts)))

    def some(side: int, part: int) -> list[Prompt]:
        return [sides[side][i] for i in split[side][part]]

    def measured(side: int, part: int) -> Measured:
        return Measured(model, target, some(side, part), [sources[side][i] for i in split[side][part]])

    measures = {(side, part): measured(side, part) for side in (0, 1) for part in (1, 2)}
    means = [_means(model, some(side, 0), chosen, places) for side in (0, 1)]
    directions = {key: (means[0][key] - means[1][key]).float() for key in means[0]}
    scored = [key for key in directions if bool(directions[key].norm() > 0)]
    candidates = _scored(model, {key: directions[key] for key in scored}, measures, some(1, 1), max_kl)
    best = _best(candidates, max_kl)
    key = (best.layer, best.position)
    return _reported(
        model, best, directions[key], measures, some(1, 2), candidates, random, seed,
        {"target": target.describe(), "positions": places, "layers": chosen, "max_kl": max_kl, "seed": seed,
         "prompts": [[len(part) for part in side] for side in split], "model": describe(model),
         "versions": versions()},
        texts,
    )  # fmt: skip


def _layers(model: SteeringModel, layers: str | Indices, deepest: float) -> list[int]:
    if not 0 < deepest <= 1:
        raise DataError(f"deepest={deepest}: give a part of the depth, above 0 and at most 1")
    indices = layer_indices(layers)
    asked = range(model.n_layers) if indices is None else sorted({model.shape.layer(i, "layers=") for i in indices})
    found = [layer for layer in asked if layer < deepest * model.n_layers]
    if not found:
        raise DataError(f"no layer of {list(asked)} lies in the first {deepest:g} of the depth; allow more by deepest=")
    return found


def _positions(ids: Sequence[Sequence[int]], positions: Sequence[int] | None) -> list[int]:
    shortest = min(map(len, ids))
    if positions is None:
        alike = takewhile(lambda k: len({row[-k] for row in ids}) == 1, range(1, min(MOST_POSITIONS, shortest - 1) + 1))
        return [-k for k in alike] or [-1]
    found = sorted(set(positions), reverse=True)
    if not found or found[0] >= 0 or -found[-1] > shortest:
        raise DataError(
            f"positions={list(positions)!r}: give indices from the end, -1 and below, within the shortest prompt "
            f"({shortest} tokens)"
        )
    return found


def _means(
    model: SteeringModel, prompts: Sequence[Prompt], layers: Sequence[int], positions: Sequence[int]
) -> dict[tuple[int, int], Tensor]:  # fmt: skip
    """(layer, position) -> mean activation ``[d_model]`` float64."""
    sums = {(layer, place): torch.zeros(model.d_model, dtype=torch.float64) for layer in layers for place in positions}

    def receive(number: int, layer: int, values: Tensor) -> None:
        for place in positions:
            sums[layer, place] += values[place].double()

    visit(model, list(prompts), layers, "resid_post", None, receive)
    return {key: total / len(prompts) for key, total in sums.items()}


def _scored(
    model: SteeringModel, directions: dict[tuple[int, int], Tensor], measures: dict[tuple[int, int], Measured],
    negative: Sequence[Prompt], max_kl: float,
) -> tuple[Candidate, ...]:  # fmt: skip
    ablations = [Plan(Ablate(direction)) for direction in directions.values()]
    additions = [_addition(direction, layer) for (layer, _), direction in directions.items()]
    bypass = measures[0, 1].values(ablations).mean(1)
    induce = measures[1, 1].values(additions).mean(1)
    spent = next_token_kl(model, negative, ablations).mean(1)
    return tuple(
        Candidate(layer, position, float(b), float(i), float(k), float(direction.norm()), bool(i > 0 and k < max_kl))
        for ((layer, position), direction), b, i, k in zip(directions.items(), bypass, induce, spent, strict=True)
    )


def _addition(direction: Tensor, layer: int) -> Plan:
    return Plan(Add(direction, layers=layer, positions="all"))


def _best(candidates: Sequence[Candidate], max_kl: float) -> Candidate:
    allowed = [c for c in candidates if c.allowed]
    if not allowed:
        weak, costly = sum(c.induce <= 0 for c in candidates), sum(c.kl >= max_kl for c in candidates)
        raise DataError(
            f"none of {len(candidates)} directions will do: {weak} do not bring the target above 0 when added, "
            f"{costly} cost {max_kl:g} nats or more when ablated; look at other layers or positions, or allow more by "
            "max_kl="
        )
    return min(allowed, key=lambda c: c.bypass)


def _reported(
    model: SteeringModel, best: Candidate, direction: Tensor, measures: dict[tuple[int, int], Measured],
    negative: Sequence[Prompt], candidates: tuple[Candidate, ...], random: int, seed: int, facts: dict[str, Any],
    texts: Sequence[str],
) -> AblationChoice:  # fmt: skip
    """The chosen direction on the prompts kept from everything, and what random ones do there."""
    plan, shown, others = Plan(Ablate(direction)), measures[0, 2], measures[1, 2]
    drawn: list[Plan] = []
    if random:
        cloud = token_activations(model, list(texts), layers=[best.layer])[best.layer]
        drawn = [Plan(Ablate(one)) for one in random_directions(direction, random, seed=seed, cloud=cloud)]
    values = shown.values([Plan(), plan, *drawn])
    moved = values[1:] - values[0]
    added = others.values([_addition(direction, best.layer)])[0]
    effect = statistics.mean(moved[0], shown.sources, seed=seed)
    induce = statistics.mean(added, others.sources, seed=seed)
    spent = statistics.mean(next_token_kl(model, negative, [plan])[0], seed=seed)
    null = [float(x) for x in moved[1:].mean(1)]
    p = statistics.rank_p_value(effect.value, null, side="less") if null else None
    told = {"effect": effect.as_json(), "induce": induce.as_json(), "kl": spent.as_json(), "p_value": p}
    evidence = {"kind": "ablation", **asdict(best), **told, "random": len(null), **facts}
    return AblationChoice(
        best.layer, best.position, direction, Plan(plan, evidence), effect, induce, spent, tuple(null), p, candidates,
        facts,
    )  # fmt: skip
