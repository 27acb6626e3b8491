"""Running an ablation study."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, InterventionError
from ..evaluation.controls import random_directions, token_activations
from ..extraction.activations import TOKEN_BUDGET
from ..files.finished import Finished
from ..model import SteeringModel
from ..model.provenance import describe
from ..model.tokens import Prompt, Prompts, listed
from ..operations import Ablate
from ..plan import Plan
from ..positions import Positions, PositionsLike
from ..vector import SteeringVector
from .ablation import AblationStudy, Mode, effects
from .components import Component, SitesLike, components
from .groups import Group, grouped
from .measuring import Array, Meter, OneByOne, Trial, measure, runner
from .metrics import MetricLike, described, find_metric
from .sources import Means, OtherRun, Source, Zeros, drawn

#: Directions that are projected out: named, or a steering vector's own of each layer.
Directions = SteeringVector | Mapping[str, Tensor] | Tensor
Progress = Callable[[int, int], None]


def ablation_study(
    model: SteeringModel,
    prompts: Prompts,
    *,
    sites: SitesLike | Directions = "heads",
    mode: Mode = "mean",
    reference: Prompts | None = None,
    metric: MetricLike = "kl",
    positions: PositionsLike = "all",
    by_position: bool = False,
    controls: int = 40,
    seed: int = 0,
    token_budget: int = TOKEN_BUDGET,
    rows: str | Path | None = None,
    progress: Progress | None = None,
) -> AblationStudy:
    """Ablate each component in turn, and measure what becomes of a metric.

    Equal to one steered forward pass per component (``model.logits(prompts, steer=Mean(heads(4, 1), means))``, ...),
    and faster: everything below the component is computed once for all, and the last block's MLP, the final norm and
    the unembedding run at the scored tokens only.

    Args:
        model: the model; an edited one is studied as edited.
        prompts: texts or chats, of any lengths.
        sites: :func:`heads`, :func:`neurons`, :func:`attention`, :func:`mlp`, :func:`block`, :func:`site`, their names
            (``"heads"``) or a list of these: one component for each head, neuron or layer. A mapping name -> sites
            makes each entry one component, ablated together. For ``mode="directional"``: a direction ``[d_model]``, a
            mapping name -> direction, or a steering vector, whose direction of each layer is a component of its own.
        mode: ``"zero"``; ``"mean"``, over the reference; ``"resample"``: the values at the same positions of a text
            drawn from the reference; ``"directional"``: projected out of all that writes the residual stream.
        reference: texts for ``"mean"`` and ``"resample"``, by default the prompts themselves.
        metric: :func:`logit_difference`, :func:`probability`, ``"kl"``, ``"loss"``, or a function of the logits.
        positions: the tokens at which components are ablated.
        by_position: for ``"mean"``: a mean for each position (of texts made from one template) instead of one over all
            tokens but the first.
        controls: random directions for ``"directional"``, drawn from the covariance of the model's own activations: an
            isotropic one would mostly point where the model writes nothing.
        seed: of resampling, random directions and intervals.
        token_budget: padded tokens per forward pass.
        rows: a ``.jsonl`` file that each measured component is added to; a study that finds it goes on where it
            stopped. A metric that is a function is told from others by its name only.
        progress: called with how much is done and of how much.

    Raises:
        DataError, InterventionError, MismatchError, PromptError: before any component is ablated; MismatchError also
            for a file of ``rows`` that was made with other settings, naming those that differ.
    """
    items, _ = listed(prompts)
    if mode not in get_args(Mode):
        raise InterventionError(f"mode={mode!r}: use one of {', '.join(get_args(Mode))}")
    if reference is not None and mode in ("zero", "directional"):
        raise InterventionError(f'mode="{mode}" needs no reference; leave it out, or use mode="mean"')
    ids = [model.tokens.encode(item) for item in items]
    model.check_length(ids)
    where = Positions.parse(positions)
    chosen = find_metric(metric)
    meter = Meter(model, chosen, len(items))
    groups = list(grouped(model, ids, token_budget))
    settings: dict[str, Any] = {
        "seed": seed, "prompts": len(items), "positions": str(where),
        "by_position": by_position if mode == "mean" else None,
        "reference": None if reference is None else len(listed(reference)[0]),
    }  # fmt: skip
    repeated = settings | {
        "mode": mode, "metric": described(chosen), "token_budget": token_budget, "ids": _hash(ids),
        "texts": None if reference is None else _hash(listed(reference)[0]),
        "model": {name: fact for name, fact in describe(model).items() if name != "device"},
    }  # fmt: skip
    if mode == "directional":
        return _directional(
            model, cast(Directions, sites), items, groups, meter, where, controls, seed, settings, progress,
            lambda plans: Finished(rows, repeated | {"components": _hash([plan.digest for plan in plans])}),
        )  # fmt: skip
    parts = components(model.shape, cast(SitesLike, sites), "ablation_study()")
    _check_positions(groups, where)
    source = _source(model, items, ids, parts, mode, reference, by_position, seed, token_budget)
    for group in groups:
        source.check(group, where)
    done = Finished(rows, repeated | {"components": _hash(parts)})
    trials = [Trial(part, where) for part in parts]
    run = runner(model, meter, token_budget)
    count = counting(progress, len(trials) * len(groups))
    base, values = measure(groups, trials, source, meter, run, progress=count, done=done)
    return AblationStudy(chosen.name, mode, base, values, effects(parts, base, values, seed), settings=settings)


def _source(
    model: SteeringModel, items: Sequence[Prompt], ids: Sequence[Sequence[int]], parts: Sequence[Component], mode: Mode,
    reference: Prompts | None, by_position: bool, seed: int, token_budget: int,
) -> Source:  # fmt: skip
    if mode == "zero":
        return Zeros()
    if mode == "resample":
        return OtherRun(model, drawn(model, ids, reference, seed))
    if reference is None and len(items) < 2:
        raise DataError('mode="mean" over the one prompt itself would change little; give a reference= corpus')
    return Means.over(model, items if reference is None else reference, parts, by_position, token_budget)


def _check_positions(groups: Sequence[Group], where: Positions) -> None:
    met = [bool(row) for group in groups for row in group.selected(where).any(1)]
    if not any(met):
        raise DataError(f"positions {where} mean no token of any prompt")


def _hash(what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


def counting(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function that is told how much more is done, and tells ``progress`` how much that is of all."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    return count


# -- directions -------------------------------------------------------------------------------------------------------


def _directional(
    model: SteeringModel, sites: Directions, items: Sequence[Prompt], groups: Sequence[Group], meter: Meter,
    where: Positions, controls: int, seed: int, settings: dict[str, Any], progress: Progress | None,
    before: Callable[[Sequence[Plan]], Finished],
) -> AblationStudy:  # fmt: skip
    named = _directions(model, sites)
    random = _random_directions(model, items, controls, seed)
    count = counting(progress, (len(named) + len(random)) * len(groups))
    plans = [Plan(Ablate(direction, positions=where)) for direction in (*named.values(), *random)]
    for plan in plans:
        plan.actions(model.shape)
    done, one = before(plans), OneByOne(model, meter)
    total = sum(group.rows for group in groups)
    base, values = np.full(total, np.nan), np.full((len(plans), total), np.nan)
    for order, group in enumerate(groups):
        own, whole = list(group.numbers), f"prompts {order}"
        untouched = one.untouched(group)
        done.put(whole, meter(untouched, group).cpu())
        base[own] = done[whole]
        for number, plan in enumerate(plans):
            key = f"{whole} trial {number}"
            if key not in done:
                done.put(key, meter(one.steered(group, plan), group, untouched).cpu())
            values[number, own] = done[key]
            count(1)
    parts = [Component(name, (), "direction") for name in named]
    drawn_effects: Array = (values[len(named) :] - base).mean(1)
    found = effects(parts, base, values[: len(named)], seed, drawn_effects)
    settings = {**settings, "controls": controls}
    return AblationStudy(
        meter.metric.name, "directional", base, values[: len(named)], found, controls=drawn_effects, settings=settings
    )


def _directions(model: SteeringModel, sites: object) -> dict[str, Tensor]:
    if isinstance(sites, SteeringVector):
        sites.check(model.shape)
        return {f"{sites.name or 'vector'} of layer {layer}": sites[layer] for layer in sites}
    if isinstance(sites, Tensor):
        return {"direction": sites}
    given = cast("Mapping[str, Any]", sites) if isinstance(sites, Mapping) else {}
    if not given or not all(isinstance(value, Tensor) for value in given.values()):
        raise InterventionError(
            'mode="directional" projects directions out: give sites= a tensor [d_model], a mapping name -> tensor, or '
            "a steering vector"
        )
    return dict(given)


def _random_directions(model: SteeringModel, items: Sequence[Prompt], count: int, seed: int) -> list[Tensor]:
    """Directions as the residual stream of the middle layer varies, over all tokens of the prompts but the first."""
    if count < 1:
        return []
    layer = model.n_layers // 2
    cloud = token_activations(model, list(items), layers=layer)[layer]
    return list(random_directions(torch.ones(model.d_model), count, seed=seed, cloud=cloud))
