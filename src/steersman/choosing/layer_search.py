"""Over which layers, and how much in each: a search by optuna for effect against KL.

Tried are either tents over the depth (:mod:`steersman.choosing.kernel`) or free weights per layer. Optuna's sampler
(multivariate TPE: Bergstra et al. 2011; Watanabe 2023, arXiv:2304.11127) proposes, with two objectives, effect and KL,
and the KL budget as a constraint. Every single layer is tried first, so the answer is never worse on the tuning items
than the best single layer tried.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..charts import dose_response, write
from ..errors import DataError, InterventionError, UnsupportedError
from ..evaluation import statistics
from ..evaluation.controls import Cloud, random_plans, token_activations
from ..evaluation.items import Array, sources_of
from ..evaluation.neutral import default_texts
from ..evaluation.provenance import versions
from ..evaluation.statistics import Estimate
from ..evaluation.targets.base import LogitTarget
from ..installed import versions as versions_of
from ..model import SteeringModel
from ..model.provenance import describe
from ..model.tokens import Prompts
from ..operations import Ablate, Add, Rotate
from ..plan import Plan
from ..sites import Indices
from ..sweeping import calibrate
from ..sweeping.cells import Direction
from ..sweeping.measuring import Effects, SideEffects
from ..sweeping.where import layers_of
from ..vector import SteeringVector
from .kernel import Kernel

Shape = Literal["kernel", "weights"]
Progress = Callable[[str, int, int], None]
#: Kernels this narrow act in one layer; single layers are brought to this share of the budget, to lie within it.
NARROWEST, IN_BUDGET = 0.5, 0.95
#: Operations that a weight scales smoothly from nothing: additions have no natural size, the others are done at 1.
SCALED = {"add": Add, "ablate": Ablate, "rotate": Rotate}
#: The largest weight of an operation that is done in full at 1.
MOST = 1.5


@dataclass(frozen=True)
class LayerTrial:
    """One set of weights.

    Attributes:
        weights: layer -> strength there.
        tune_effect: the mean change of the target on the tuning items.
        kl: nats per affected token of neutral text.
    """

    weights: Mapping[int, float]
    tune_effect: float
    kl: float


@dataclass(frozen=True, eq=False)
class LayerSearch:
    """What was tried, and the choice.

    Attributes:
        trials: in the order tried: single layers first.
        chosen: the trial with the largest effect on the tuning items within the budget.
        single: the same among single layers.
        effect: of the chosen weights on the report items, with its interval.
        beyond: by how much it does more than the best single layer, paired on the report items, with its interval.
        p_value: of the rank of the effect among random directions, each of which was given every set of weights within
            the budget that was tried, by the largest of them.
        facts: settings, split, versions.
    """

    trials: tuple[LayerTrial, ...]
    chosen: LayerTrial
    single: LayerTrial
    effect: Estimate
    beyond: Estimate
    p_value: float | None
    facts: dict[str, Any] = field(repr=False)
    _made: Plan = field(repr=False)

    def plan(self) -> Plan:
        """The chosen weights as a plan, with this search as evidence."""
        evidence = {
            "kind": "layer search", "chosen": _plain(self.chosen), "single": _plain(self.single),
            "effect": self.effect.as_json(), "beyond": self.beyond.as_json(), "p_value": self.p_value, **self.facts,
        }  # fmt: skip
        return Plan(self._made, evidence)

    def pareto(self) -> list[LayerTrial]:
        """The trials that no other beats in both effect and KL, by KL ascending."""
        sign, front = self.facts["sign"], []
        for one in sorted(self.trials, key=lambda t: (t.kl, -sign * t.tune_effect)):
            if sign * one.tune_effect > max((sign * t.tune_effect for t in front), default=0.0):
                front.append(one)
        return front

    def frame(self) -> Any:
        """A pandas DataFrame, one row per trial; a column for the weight of each layer."""
        import pandas as pd

        layers = self.facts["layers"]
        return pd.DataFrame([
            {"tune_effect": t.tune_effect, "kl": t.kl, **{f"layer {i}": t.weights.get(i, 0.0) for i in layers}}
            for t in self.trials
        ])  # fmt: skip

    def chart(self, path: str | Path | None = None) -> str:
        """The Pareto front, effect over KL, as SVG; written to ``path`` if given."""
        front = self.pareto()
        svg = dose_response(
            [t.kl for t in front], [t.tune_effect for t in front], title="Effect against KL: the Pareto front",
            x_label="KL (nats per token)", y_label=f"effect ({self.facts['target']['unit']})",
        )  # fmt: skip
        if path is not None:
            write(svg, path)
        return svg


def choose_layers(
    model: SteeringModel,
    vector: Direction,
    *,
    target: LogitTarget,
    prompts: Prompts | None = None,
    sources: Sequence[str] | None = None,
    layers: str | Indices = "auto",
    shape: Shape = "kernel",
    max_kl: float = 0.1,
    sign: int = 1,
    neutral: Sequence[str] | None = None,
    operation: str = "add",
    trials: int = 100,
    random: int = 39,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> LayerSearch:
    """Search layer sets and weights for the largest effect within a KL budget. Needs ``pip install 'steersman[tune]'``.

    The choice is made on half of the items (by source) and reported on the other half.

    Args:
        model: the model.
        vector: a steering vector, each layer adding its own direction; or a tensor ``[d_model]``, the same in each.
        target: a target of next-token probabilities, such as :func:`steersman.contrast`.
        prompts, sources: what it is measured on, and where each prompt comes from.
        layers: where it may act; ``"auto"``: those of the vector between a tenth and nine tenths of the depth.
        shape: ``"kernel"``: a tent over the depth, four numbers; ``"weights"``: one free weight for each layer.
        max_kl: the budget, nats per affected token of neutral text.
        sign: 1 where the target should rise, -1 where it should fall. Whether the direction is added for it or
            subtracted, the single layers tell.
        neutral: texts on which the KL is measured; packaged ones unless given.
        operation: ``"add"``, ``"ablate"`` or ``"rotate"``.
        trials: weights tried, besides the single layers.
        random: random directions of the control; each costs as much as the vector. 0 for none.
        seed: of the sampler, the split, the directions, the resampling: the same seed, the same search.
        progress: called with (what, done, of).
        options: for the operation: ``positions``, ``site``, ``when``, ``angle`` ...

    Raises:
        UnsupportedError: optuna is not installed.
        DataError, PromptError, MismatchError: before any forward pass; DataError also where nothing tried moves the
            target that way within the budget.
    """
    optuna = _optuna()
    chosen = _checked(model, vector, layers, shape, max_kl, sign, operation, trials, random)
    make = _maker(vector, operation, options)
    like = make(dict.fromkeys(chosen, sign * 1.0))
    like.actions(model.shape)
    texts = tuple(neutral) if neutral is not None else default_texts(model.shape.name)
    items = target.items(model, prompts, sources=sources)
    own = sources_of(items)
    split = statistics.split_by_source(own, seed=seed)
    effects, side = Effects(model, target, items, like, chosen), SideEffects(model, texts, like, chosen)
    single = _single_sizes(model, vector, chosen, max_kl, texts, operation, options)
    tried = _Tried(make, effects, side, split[0])
    for way in (1, -1) if operation == "add" else (1,):
        for layer in chosen:
            tried.add({layer: way * single[layer]})
    alone = _best(tried.trials, max_kl, sign)
    way = 1 if next(iter(tried.trials[alone].weights.values())) > 0 else -1
    _search(optuna, tried, chosen, single, way, shape, max_kl, sign, trials, seed, operation, progress)
    facts = {
        "target": target.describe(), "operation": operation, "shape": shape, "layers": chosen, "max_kl": max_kl,
        "sign": sign, "trials": trials, "random": random, "seed": seed, "items": len(own),
        "tune_items": len(split[0]), "report_items": len(split[1]), "neutral_texts": len(texts),
        "options": {name: str(value) for name, value in options.items()}, "model": describe(model),
        "versions": versions() | versions_of(["optuna"]),
    }  # fmt: skip
    best = _best(tried.trials, max_kl, sign)
    cloud = None
    if operation != "add" and random:
        site = vector.site if isinstance(vector, SteeringVector) else "resid_post"
        cloud = Cloud.of(token_activations(model, list(texts), layers=chosen, site=site))
    report, known = split[1], [own[i] for i in split[1]]
    moved, singly = (tried.moved[number][report] for number in (best, alone))
    return LayerSearch(
        tuple(tried.trials), tried.trials[best], tried.trials[alone],
        statistics.mean(moved, known, seed=seed), statistics.mean(moved - singly, known, seed=seed),
        _p_value(tried, best, report, max_kl, random, seed, cloud) if random else None, facts, tried.plans[best],
    )  # fmt: skip


def _checked(
    model: SteeringModel, vector: Direction, layers: str | Indices, shape: str, max_kl: float, sign: int,
    operation: str, trials: int, random: int,
) -> list[int]:  # fmt: skip
    """The layers, after everything else was found good."""
    if shape not in ("kernel", "weights"):
        raise DataError(f'shape={shape!r}: use "kernel" or "weights"')
    if operation not in SCALED:
        raise InterventionError(f"operation={operation!r}: use one of {', '.join(SCALED)}")
    if not max_kl > 0:
        raise DataError(f"max_kl={max_kl!r}: give a budget above zero")
    if sign not in (1, -1):
        raise DataError(f"sign={sign!r}: give 1 for a target that should rise, -1 for one that should fall")
    if trials < 1 or random < 0:
        raise DataError(f"trials={trials!r}, random={random!r}: give at least one trial, and 0 or more directions")
    found = layers_of(model.shape, vector, layers)
    if len(found) < 2:
        raise DataError(f"layers={found}: a search over layers needs two or more")
    return found


def _maker(vector: Direction, operation: str, options: Mapping[str, Any]) -> Callable[[Mapping[int, float]], Plan]:
    kind = SCALED[operation]
    return lambda weights: Plan(kind(vector, layers=dict(weights), **options))


def _single_sizes(
    model: SteeringModel, vector: Direction, chosen: Sequence[int], max_kl: float, texts: Sequence[str],
    operation: str, options: Mapping[str, Any],
) -> dict[int, float]:  # fmt: skip
    """The strength at which each layer alone spends the budget; of what is done in full at 1, no more than that."""
    found: dict[int, float] = {}
    for layer in chosen:
        size = calibrate(
            model, vector, layer=layer, max_kl=max_kl * IN_BUDGET, neutral=texts, operation=operation, **options
        )
        found[layer] = size if operation == "add" else min(1.0, size)
    return found


class _Tried:
    """What was tried: weights, plans, and what they did."""

    def __init__(
        self, make: Callable[[Mapping[int, float]], Plan], effects: Effects, side: SideEffects, tune: Array
    ) -> None:
        self._make, self._side, self._tune = make, side, tune
        self.effects = effects
        self.base = effects.values([Plan()])[0]
        self.trials: list[LayerTrial] = []
        self.plans: list[Plan] = []
        self.moved: list[Array] = []

    def add(self, weights: Mapping[int, float]) -> LayerTrial:
        """Try weights, if they were not tried yet."""
        known = next((one for one in self.trials if one.weights == weights), None)
        if known is not None:
            return known
        plan = self._make(weights)
        moved = self.effects.values([plan])[0] - self.base
        found = LayerTrial(weights, float(moved[self._tune].mean()), self._side.measure([plan])[0].kl)
        self.trials.append(found)
        self.plans.append(plan)
        self.moved.append(moved)
        return found


def _search(
    optuna: Any, tried: _Tried, chosen: list[int], single: Mapping[int, float], way: int, shape: str, max_kl: float,
    sign: int, trials: int, seed: int, operation: str, progress: Progress | None,
) -> None:  # fmt: skip
    """What optuna proposes, once it was told how the single layers did."""
    low, high = min(single.values()) / 8, 2 * max(single.values())
    high = high if operation == "add" else MOST
    with _quietly(optuna):
        newer = hasattr(optuna.trial.Trial, "set_constraint")  # optuna 5 tells constraints trial by trial
        older: dict[str, Any] = {} if newer else {"constraints_func": _over}
        sampler = optuna.samplers.TPESampler(
            multivariate=True, seed=seed, n_startup_trials=min(60, max(1, trials // 3)), **older
        )
        study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
        for layer in chosen:
            study.enqueue_trial(_alone(chosen, layer, single[layer], shape))
        for number in range(len(chosen) + trials):
            if progress and number % 10 == 0:
                progress("weights", number, len(chosen) + trials)
            trial = study.ask()
            weights = _suggested(trial, chosen, low, high, shape)
            found = tried.add({layer: way * weight for layer, weight in weights.items()})
            if newer:
                trial.set_constraint("over", found.kl - max_kl)
            trial.set_user_attr("over", found.kl - max_kl)
            study.tell(trial, (sign * found.tune_effect, found.kl))
    if progress:
        progress("weights", len(chosen) + trials, len(chosen) + trials)


def _suggested(trial: Any, chosen: list[int], low: float, high: float, shape: str) -> dict[int, float]:
    if shape == "weights":
        # a weight is a size by a share, so that "much everywhere" and "little everywhere" are one number apart
        size = trial.suggest_float("size", low, high, log=True)
        shares = {layer: trial.suggest_float(f"share {layer}", 0.0, 1.0) for layer in chosen}
        return {layer: size * share for layer, share in shares.items() if share} or {chosen[0]: size}
    depth = chosen[-1] - chosen[0]
    return Kernel(
        trial.suggest_float("peak", low, high, log=True),
        trial.suggest_float("centre", chosen[0], chosen[-1]),
        trial.suggest_float("reach", NARROWEST, max(1.0, 0.6 * depth)),
        trial.suggest_float("floor", 0.0, 1.0),
    ).weights(chosen)


def _alone(chosen: list[int], layer: int, size: float, shape: str) -> dict[str, float]:
    """The parameters of one layer alone."""
    if shape == "weights":
        return {"size": size, **{f"share {other}": float(other == layer) for other in chosen}}
    return {"peak": size, "centre": float(layer), "reach": NARROWEST, "floor": 0.0}


def _over(trial: Any) -> tuple[float]:
    """By how much a trial is over the budget, as optuna 4 asks for it."""
    return (trial.user_attrs["over"],)


@contextmanager
def _quietly(optuna: Any) -> Generator[None]:
    """Without optuna's log of every trial, and its notices that parts of it are new; as it was afterwards."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _best(trials: Sequence[LayerTrial], max_kl: float, sign: int) -> int:
    """The number of the largest effect on the tuning items within the budget."""
    within = [i for i, t in enumerate(trials) if t.kl <= max_kl and sign * t.tune_effect > 0]
    if not within:
        raise DataError(
            f"nothing tried moves the target {'up' if sign > 0 else 'down'} within {max_kl:g} nats per token (the "
            f"least KL was {min(t.kl for t in trials):.3g}); allow more by max_kl=, or try the other sign"
        )
    return max(within, key=lambda i: sign * trials[i].tune_effect)


def _p_value(
    tried: _Tried, best: int, report: Array, max_kl: float, n: int, seed: int, cloud: Cloud | None
) -> float:  # fmt: skip
    """Random directions get the same search: all weights within the budget, and of these the largest effect."""
    within = [i for i, t in enumerate(tried.trials) if t.kl <= max_kl]
    null = np.stack([
        (tried.effects.values(random_plans(tried.plans[i], n, seed=seed, cloud=cloud)) - tried.base)[:, report].mean(1)
        for i in within
    ], axis=1)  # fmt: skip
    own = [tried.moved[i][report].mean() for i in within]
    return float(statistics.max_statistic(own, null)[within.index(best)])


def _plain(trial: LayerTrial) -> dict[str, Any]:
    return {"weights": {str(layer): w for layer, w in trial.weights.items()}, "tune_effect": trial.tune_effect,
            "kl": trial.kl}  # fmt: skip


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UnsupportedError("a search over layers needs optuna: pip install 'steersman[tune]'") from error
    return optuna
