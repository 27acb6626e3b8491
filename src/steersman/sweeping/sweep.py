"""The sweep: a vector at every layer and strength, what it does, what it breaks, and what random directions do."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..data import ContrastPairs
from ..errors import DataError, MismatchError
from ..evaluation import statistics
from ..evaluation.controls import (
    Cloud,
    prompt_baseline,
    random_directions,
    random_vectors,
    rescaled,
    shuffled_vectors,
    token_activations,
)  # fmt: skip
from ..evaluation.items import Array, sources_of
from ..evaluation.neutral import default_texts
from ..evaluation.provenance import describe, versions
from ..evaluation.targets.base import LogitTarget, Target
from ..model import SteeringModel
from ..model.tokens import Prompts
from ..plan import Plan
from ..sites import Indices, layer_indices
from ..vector import SteeringVector
from .cells import Direction, Make, maker, plan_of
from .measuring import Effects, SideEffects
from .passes import Way
from .result import Row, Sweep, checked_strengths

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
    way: Way | None = None,
    rows: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Sweep:
    """Try a direction at layers and strengths, and measure each cell against controls.

    Exact throughout: the same numbers as whole forward passes cell by cell, by the cheapest way the plan allows
    (:mod:`steersman.sweeping.passes`), which ``sweep.engine`` and the log name.

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
        way: ``"branches"``, ``"resume"`` or ``"plain"``, to insist on one.
        rows: a ``.jsonl`` file that each finished layer is added to; a sweep that finds it goes on where it stopped.
        progress: called with (what, done, of).
        options: for the operation: ``positions``, ``site``, ``when``, ``unit``, ``value`` ...

    Raises:
        DataError, MismatchError, PromptError: before any forward pass; MismatchError also for a file of ``rows`` that
            was made with other settings, naming those that differ.
    """
    doses, chosen = checked_strengths(strengths), _layers(model, vector, layers)
    make = maker(operation, options)
    plans = {(layer, s): plan_of(make, vector, layer, s) for layer in chosen for s in doses}
    for plan in plans.values():
        plan.actions(model.shape)
    if random < 0 or isinstance(random, bool):
        raise DataError(f"random={random!r}: give a number of directions, 0 for no control")
    texts = tuple(neutral) if neutral is not None else default_texts(model.shape.name)
    measure = _measurer(model, target, prompts, sources, plans, chosen, way)
    side = SideEffects(model, texts, _like(plans, doses), chosen, way)
    log.info("effects by %s, side effects by %s", measure.engine, side.passes.way)
    settings = {
        "layers": chosen, "strengths": doses, "operation": operation if isinstance(operation, str) else "function",
        "random": random, "seed": seed, "target": target.describe(), "items": len(measure.sources),
        "options": {name: str(value) for name, value in options.items()},
        "vector": _hash([plan.digest for plan in plans.values()]), "neutral": _hash(texts),
        "prompts": _hash([repr(prompts)]), "model": describe(model),
    }  # fmt: skip
    done = _Finished(rows, settings)
    drawn = _drawn(model, vector, chosen, random, seed, operation, texts)
    magnitudes = sorted({abs(s) for s in doses if s})
    base = done.get("base", lambda: measure.values([Plan()])[0])
    for number, layer in enumerate(chosen):
        if progress:
            progress(f"layer {layer}", number, len(chosen))
        _layer(done, measure, side, make, plans, layer, doses, magnitudes, drawn)
    if progress:
        progress("layers", len(chosen), len(chosen))
    controls = _other_controls(
        done, model, target, prompts, sources, pairs, vector, measure, make, chosen, magnitudes, base, seed
    )
    found = _rows(done, base, measure.sources, chosen, doses, random, seed)
    facts = settings | {
        "engine": measure.engine, "kl_engine": side.passes.way, "why": measure.why, "neutral_texts": len(texts),
        "controls": controls, "versions": versions(), "split": found[1], "notes": found[2],
    }  # fmt: skip
    return Sweep(found[0], facts, plans)


def _layers(model: SteeringModel, vector: Direction, layers: str | Indices) -> list[int]:
    own = list(vector.layers) if isinstance(vector, SteeringVector) else list(range(model.n_layers))
    if isinstance(vector, SteeringVector):
        vector.check(model.shape)
    if layers == "auto":
        return within_depth(own, model.n_layers)
    indices = layer_indices(layers)
    found = own if indices is None else sorted({model.shape.layer(i, "layers=") for i in indices})
    missing = [layer for layer in found if layer not in own]
    if missing:
        raise MismatchError(f"the vector has no direction for layer {missing[0]}; it has {own}")
    return found


def within_depth(layers: Sequence[int], n_layers: int) -> list[int]:
    """Those between a tenth and nine tenths of the depth, or all of them if there is none."""
    return [layer for layer in layers if 0.1 * n_layers <= layer < 0.9 * n_layers] or list(layers)


def _like(plans: Mapping[tuple[int, float], Plan], doses: Sequence[float]) -> Plan:
    return next(plan for (_, strength), plan in plans.items() if strength)


class _Logits:
    """A logit target, by the fast ways."""

    def __init__(self, effects: Effects) -> None:
        self.effects = effects
        self.engine: str = effects.passes.way
        self.why = effects.passes.why
        self.sources = sources_of(effects.items)

    def values(self, plans: Sequence[Plan]) -> Array:
        return self.effects.values(plans)


class _Measured:
    """Any other target, plan by plan."""

    engine, why = "measure", "the target is not read off the logits"

    def __init__(self, model: SteeringModel, target: Target, prompts: Prompts | None, sources: Any) -> None:
        self._measure: Callable[[Plan], Any] = lambda plan: target.measure(model, prompts, steer=plan, sources=sources)
        first = self._measure(Plan())
        self.sources, self._base = first.sources, first.values

    def values(self, plans: Sequence[Plan]) -> Array:
        return np.stack([self._measure(plan).values if plan else self._base for plan in plans])


def _measurer(
    model: SteeringModel, target: Target, prompts: Any, sources: Any, plans: Any, chosen: list[int], way: Way | None
) -> _Logits | _Measured:  # fmt: skip
    if not isinstance(target, LogitTarget):
        return _Measured(model, target, prompts, sources)
    items = target.items(model, prompts, sources=sources)
    like = next(plan for plan in plans.values() if plan.actions(model.shape))
    return _Logits(Effects(model, target, items, like, chosen, way))


def _drawn(
    model: SteeringModel, vector: Direction, chosen: list[int], n: int, seed: int, operation: Any, texts: Sequence[str]
) -> list[Direction]:  # fmt: skip
    """The random directions; for operations that are not additions, drawn from the activations' covariance."""
    if not n:
        return []
    cloud = None
    if operation != "add":
        site = vector.site if isinstance(vector, SteeringVector) else "resid_post"
        cloud = Cloud.of(token_activations(model, list(texts), layers=chosen, site=site))
    if isinstance(vector, SteeringVector):
        return list(random_vectors(vector, n, seed=seed, cloud=cloud))
    values = None if cloud is None else cloud.values[cloud.nearest(chosen[len(chosen) // 2])]
    return list(random_directions(vector, n, seed=seed, cloud=values))


class _Finished:
    """What is measured already, in memory and in a file that is added to line by line."""

    def __init__(self, path: str | Path | None, settings: Mapping[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        self._known: dict[str, Any] = {}
        plain = json.loads(json.dumps(settings))
        if self._path is not None and self._path.exists() and self._path.stat().st_size:
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # a line cut off in writing is measured again
            first = json.loads(whole[0])["settings"] if whole else plain
            differ = sorted(key for key in {*first, *plain} if first.get(key) != plain.get(key))
            if differ:
                raise MismatchError(
                    f"{path} holds a sweep with other settings ({', '.join(differ)} differ); give another file"
                )
            self._known = {entry["key"]: entry["value"] for entry in map(json.loads, whole[1:])}
            if len(whole) < len(lines):
                self._path.write_text("".join(whole), encoding="utf-8")
        if self._path is not None and (not self._path.exists() or not self._path.stat().st_size):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps({"settings": plain}) + "\n", encoding="utf-8")

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """A value, computed and written down the first time."""
        if key not in self._known:
            value = compute()
            self._known[key] = value.tolist() if isinstance(value, np.ndarray | Tensor) else value
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as opened:
                    opened.write(json.dumps({"key": key, "value": self._known[key]}) + "\n")
        return self._known[key]


def _layer(
    done: _Finished, measure: Any, side: SideEffects, make: Make, plans: Any, layer: int, doses: list[float],
    magnitudes: list[float], drawn: Sequence[Direction],
) -> None:  # fmt: skip
    own = [plans[layer, s] for s in doses]
    done.get(f"effect {layer}", lambda: measure.values(own))
    done.get(f"kl {layer}", lambda: [[e.kl, e.kl_p95, e.top1, e.tokens] for e in side.measure(own)])
    if drawn:
        done.get(f"random {layer}", lambda: _random(measure, make, layer, magnitudes, drawn))


def _random(measure: Any, make: Make, layer: int, magnitudes: list[float], drawn: Sequence[Direction]) -> Array:
    """The mean value under each random direction, ``[magnitudes, directions]``."""
    found = [measure.values([plan_of(make, one, layer, m) for one in drawn]).mean(1) for m in magnitudes]
    return np.stack(found)


def _other_controls(
    done: _Finished, model: SteeringModel, target: Target, prompts: Any, sources: Any, pairs: ContrastPairs | None,
    vector: Direction, measure: Any, make: Make, chosen: list[int], magnitudes: list[float], base: Any, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The same thing asked for in words, and vectors from shuffled labels at raw and at equal norm."""
    found: dict[str, Any] = {}
    asked = done.get("prompt", lambda: _in_words(target, model, prompts, sources))
    if asked is not None:
        estimate = statistics.mean(np.array(asked) - np.array(base), measure.sources, seed=seed)
        found["prompt"] = {"instruction": target.in_words(), **estimate.as_json()}
    if pairs is not None and isinstance(vector, SteeringVector):
        top = magnitudes[-1]
        for name in ("raw", "equal"):

            def shuffled(name: str = name) -> Array:
                made = shuffled_vectors(model, pairs, vector, seed=seed)
                made = made if name == "raw" else rescaled(made, vector)
                return np.stack(
                    [measure.values([plan_of(make, v, layer, top) for v in made]).mean(1) for layer in chosen]
                )

            values = np.array(done.get(f"shuffled {name}", shuffled)) - np.mean(base)
            found[f"shuffled_{name}"] = {
                "strength": top,
                "effects": {str(layer): row.tolist() for layer, row in zip(chosen, values, strict=True)},
            }
    return found


def _in_words(target: Target, model: SteeringModel, prompts: Any, sources: Any) -> Any:
    found = prompt_baseline(target, model, prompts, sources=sources)
    return None if found is None else found.values


def _rows(
    done: _Finished, base: Any, sources: Sequence[str], chosen: list[int], doses: list[float], random: int, seed: int
) -> tuple[tuple[Row, ...], dict[str, Any], list[str]]:  # fmt: skip
    """Statistics over what was measured."""
    unsteered = np.array(base)
    notes: list[str] = []
    split = _split(sources, seed, notes)
    tune, report = split
    found: list[Row] = []
    magnitudes = sorted({abs(s) for s in doses if s})
    effects = {layer: np.array(done.get(f"effect {layer}", list)) - unsteered for layer in chosen}
    drawn = None
    if random:
        drawn = np.stack([np.array(done.get(f"random {layer}", list)) for layer in chosen]) - unsteered.mean()
    p_values = {s: _p_values(effects, drawn, chosen, doses, magnitudes, s) for s in doses if s}
    for place, layer in enumerate(chosen):
        slopes = statistics.slopes(doses, effects[layer].T) if len(doses) > 1 else None
        kls = done.get(f"kl {layer}", list)
        for number, strength in enumerate(doses):
            each = effects[layer][number]
            whole = statistics.mean(each, sources, seed=seed)
            kept = (
                statistics.mean(each[report], [sources[i] for i in report], seed=seed) if report is not None else None
            )
            band = _band(drawn, place, magnitudes, strength)
            kl, p95, top1, tokens = kls[number]
            found.append(Row(
                layer, strength, whole.value, whole.low, whole.high, float(each[tune].mean()),
                None if kept is None else kept.value, None if kept is None else kept.low,
                None if kept is None else kept.high,
                None if slopes is None else float(slopes.mean()),
                None if slopes is None else float((slopes < 0).mean()),
                kl, p95, top1, tokens, *band, p_values[strength][place] if strength and random else None,
            ))  # fmt: skip
    parted = {"tune": tune.tolist(), "report": None if report is None else report.tolist()}
    return tuple(found), parted, notes


def _split(sources: Sequence[str], seed: int, notes: list[str]) -> tuple[Array, Array | None]:
    if len(set(sources)) < 4:
        notes.append("too few sources to keep some from the choice: nothing is reported on items it was not made on")
        return np.arange(len(sources)), None
    return statistics.split_by_source(sources, seed=seed)


def _p_values(
    effects: Any, drawn: Any, chosen: list[int], doses: list[float], magnitudes: list[float], s: float
) -> Any:
    if drawn is None:
        return None
    own = [effects[layer][doses.index(s)].mean() for layer in chosen]
    return statistics.max_statistic(own, drawn[:, magnitudes.index(abs(s))].T).tolist()


def _band(drawn: Any, place: int, magnitudes: list[float], s: float) -> tuple[float | None, float | None]:
    if drawn is None or not s:
        return (0.0, 0.0) if drawn is not None else (None, None)
    low, high = np.quantile(drawn[place, magnitudes.index(abs(s))], [0.025, 0.975])
    return (float(low), float(high)) if s > 0 else (float(-high), float(-low))


def _hash(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
