"""The sweep: a vector at every layer and strength, what it does, what it breaks, and what random directions do."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..data import ContrastPairs
from ..errors import DataError
from ..evaluation.neutral import default_texts
from ..evaluation.provenance import versions
from ..evaluation.targets.base import Target
from ..files.finished import Finished
from ..model import SteeringModel
from ..model.provenance import describe
from ..model.tokens import Prompts
from ..plan import Plan
from ..sites import Indices
from .cells import Direction, Grid, Make, maker
from .controls import drawn_directions, in_words, random_effects, shuffled_effects
from .measuring import Measurer, SideEffects, check_screen, measurer
from .passes import Way
from .result import Sweep, checked_strengths
from .rows import rows_of, split_of
from .stages import Search, searched
from .where import layers_of

log = logging.getLogger(__name__)

STRENGTHS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
Progress = Callable[[str, int, int], None]


def sweep(
    model: SteeringModel,
    vector: Direction,
    *,
    prompts: Prompts | None = None,
    target: Target,
    layers: str | Indices = "auto",
    strengths: Sequence[float] = STRENGTHS,
    neutral: Sequence[str] | None = None,
    operation: str | Make = "add",
    random: int = 100,
    pairs: ContrastPairs | None = None,
    sources: Sequence[str] | None = None,
    seed: int = 0,
    screen: int | None = None,
    halving: int | None = None,
    way: Way | None = None,
    rows: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Sweep:
    """Try a direction at layers and strengths, and measure each cell against controls.

    Every row is exact: the same numbers as whole forward passes cell by cell, by the cheapest way the plan allows
    (:mod:`steersman.sweeping.passes`), which ``sweep.engine`` and the log name. A first stage may drop layers or cells
    before, and tells which: ``sweep.dropped``.

    Args:
        model: the model.
        vector: a steering vector; or a tensor ``[d_model]``, tried as it is at each layer.
        prompts: what the target is measured after; None for a target that brings its own.
        target: such as :func:`steersman.contrast`.
        layers: indices, a range, ``"all"``, or ``"auto"``: those of the vector between a tenth and nine tenths of the
            depth (the last layers move the output more than they steer).
        strengths: multiples of the direction as stored; 0 need not be among them.
        neutral: texts on which the side effect is measured; packaged ones unless given.
        operation: ``"add"``, ``"ablate"``, ``"clamp"``, ``"affine"``, ``"rotate"``, or a function of (direction, layer,
            strength) that gives a plan.
        random: random directions of the control, as long as the vector in each layer. They are tried at positive
            strengths, and stand for the negative ones mirrored.
        pairs: the examples the vector was extracted from; with them, labels are also shuffled.
        sources: where each prompt comes from; prompts of one source are never parted between tuning and reporting.
        seed: of everything random.
        screen: layers to keep by first-order screening: those where the target changes fastest with the strength at
            strength zero, all told by one forward and one backward pass over the tuning prompts (``sum <dm/dh, v>``;
            attribution patching, Nanda 2023). Each random direction is screened by the same rule and keeps its own
            layers, so p-values hold over all layers searched. Only for targets read off the logits.
        halving: prompts of the first round of successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943): all
            cells are measured on so many tuning prompts, the better half of the layers at each strength on twice as
            many, and so on; what is left is measured on all. Random directions go through the same rounds.
        way: ``"branches"``, ``"resume"`` or ``"plain"``, to insist on one.
        rows: a ``.jsonl`` file that each finished layer is added to; a sweep that finds it goes on where it stopped.
        progress: called with (what, done, of).
        options: for the operation: ``positions``, ``site``, ``when``, ``unit``, ``value`` ...

    Raises:
        DataError, MismatchError, PromptError: before any forward pass; MismatchError also for a file of ``rows`` that
            was made with other settings, naming those that differ.
        UnsupportedError: a stage that the target does not allow.
    """
    doses, chosen = checked_strengths(strengths), layers_of(model.shape, vector, layers)
    _check_counts(random=random, screen=screen, halving=halving)
    if screen is not None:
        check_screen(target)
    make = maker(operation, options)
    bare = Grid(make, vector, chosen, doses)
    plans = {(layer, s): bare.plan(vector, layer, s) for layer in chosen for s in doses}
    for plan in plans.values():
        plan.actions(model.shape)
    like = next(plan for plan in plans.values() if plan.actions(model.shape))
    texts = tuple(neutral) if neutral is not None else default_texts(model.shape.name)
    measure = measurer(model, target, prompts, sources, like, chosen, way)
    side = SideEffects(model, texts, like, chosen, way)
    log.info("effects by %s, side effects by %s", measure.engine, side.passes.way)
    which = {name: fact for name, fact in describe(model).items() if name != "device"}  # it may go on on another one
    settings = {
        "layers": chosen, "strengths": doses, "operation": operation if isinstance(operation, str) else "function",
        "random": random, "screen": screen, "halving": halving, "seed": seed, "target": target.describe(),
        "items": len(measure.sources), "options": {name: str(value) for name, value in options.items()},
        "vector": _hash([plan.digest for plan in plans.values()]), "neutral": _hash(texts),
        "prompts": _hash([repr(prompts)]), "model": which,
    }  # fmt: skip
    done = Finished(rows, settings)
    grid = Grid(make, vector, chosen, doses, drawn_directions(model, vector, chosen, random, seed, operation, texts))
    tune, report, notes = split_of(measure.sources, seed)
    base = done.get("base", lambda: measure.values([Plan()])[0])
    left = searched(done, measure, grid, tune.tolist(), screen=screen, halving=halving, seed=seed)
    for line in left.said():
        log.info("%s", line)
    _measure(done, measure, side, grid, left, progress)
    controls = {**in_words(done, model, target, prompts, sources, base, measure.sources, seed),
                **shuffled_effects(done, model, pairs, measure, grid, left, base, seed)}  # fmt: skip
    facts = settings | {
        "engine": measure.engine, "kl_engine": side.passes.way, "why": measure.why, "neutral_texts": len(texts),
        "controls": controls, "versions": versions(), "notes": notes, "stages": left.facts, "dropped": left.dropped,
        "split": {"tune": tune.tolist(), "report": None if report is None else report.tolist()},
    }  # fmt: skip
    found = rows_of(done, grid, left, base, measure.sources, tune, report, seed)
    return Sweep(found, facts, {(row.layer, row.strength): plans[row.layer, row.strength] for row in found})


def _measure(
    done: Finished, measure: Measurer, side: SideEffects, grid: Grid, left: Search, progress: Progress | None
) -> None:
    """Measure what is left, layer by layer: the vector's effects, what it breaks, and what random directions do."""
    for number, layer in enumerate(grid.layers):
        if progress:
            progress(f"layer {layer}", number, len(grid.layers))
        _layer(done, measure, side, grid, left, layer)
    if progress:
        progress("layers", len(grid.layers), len(grid.layers))


def _layer(done: Finished, measure: Measurer, side: SideEffects, grid: Grid, left: Search, layer: int) -> None:
    own = [grid.plan(grid.vector, layer, s) for s in left.strengths(layer, grid)]
    if own:
        done.get(f"effect {layer}", lambda: measure.values(own))
        done.get(f"kl {layer}", lambda: [[e.kl, e.kl_p95, e.top1, e.tokens] for e in side.measure(own)])
    if grid.drawn:
        done.get(f"random {layer}", lambda: random_effects(measure, grid, left, layer))


def _check_counts(*, random: int, screen: int | None, halving: int | None) -> None:
    if random < 0 or isinstance(random, bool):
        raise DataError(f"random={random!r}: give a number of directions, 0 for no control")
    if screen is not None and (screen < 1 or isinstance(screen, bool)):
        raise DataError(f"screen={screen!r}: give the number of layers to keep, at least 1, or None for all")
    if halving is not None and (halving < 1 or isinstance(halving, bool)):
        raise DataError(f"halving={halving!r}: give the number of prompts of its first round, at least 1, or None")


def _hash(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
