"""What a plan does to a model, and what it breaks: one table, with controls, from one call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DataError, MismatchError
from ..model import SteeringModel
from ..model.provenance import describe
from ..model.tokens import Prompt, Prompts, listed
from ..plan import Plan, PlanLike
from .arms import Arm, Comparison, Settings
from .gates import Gate
from .metrics.base import Metric, Row
from .metrics.budget import AtBudget
from .metrics.capability import Capability, Fact, facts_of
from .metrics.dose import DoseResponse, scaled
from .metrics.effect import Effect, InWords
from .metrics.fluency import Fluency
from .metrics.side_effect import SideEffect
from .metrics.transfer import Transfer
from .neutral import default_texts
from .provenance import versions
from .result import Evaluation
from .samples import Sampling, draw
from .targets.base import LogitTarget, Target, prompt_sources
from .targets.contrast import text_of

Progress = Callable[[str], None]


def evaluate(
    model: SteeringModel,
    plan: PlanLike | SteeringModel = None,
    *,
    target: Target | None = None,
    prompts: Prompts | None = None,
    sources: Sequence[str] | None = None,
    neutral: Sequence[str] | None = None,
    facts: Sequence[Fact] | str | Path | bool = True,
    other_prompts: Prompts | None = None,
    other_sources: Sequence[str] | None = None,
    instruction: str | None = None,
    generate: bool = True,
    random: int = 100,
    max_kl: float = 0.1,
    max_new_tokens: int = 40,
    texts: int = 64,
    metrics: Sequence[Metric] | None = None,
    gates: Sequence[str] = (),
    seed: int = 0,
    progress: Progress = lambda text: None,
) -> Evaluation:
    """Measure what a plan does, beside what random directions, words and chance do, and what it breaks.

    Args:
        model: the model as it is.
        plan: what steers it; or another model to compare it with: an edited or a baked one.
        target: what steering is for, such as ``sm.contrast(positive=[" great"], negative=[" awful"])``; without one,
            side effects alone are measured.
        prompts: what the target is measured on and texts are generated from; without any, texts go on from the first
            words of the neutral ones.
        sources: where each prompt comes from (its template): intervals resample sources, not prompts.
        neutral: texts on which nothing should change; packaged ones unless given.
        facts: what the model should still know: a file of JSON lines (``prompt``, ``answer``, perhaps ``wrong``), or
            :class:`Fact` objects; True for packaged capitals, False for none.
        other_prompts, other_sources: prompts of another kind, on which the effect may or may not carry over.
        instruction: asks for the target in words; the target's own unless given.
        generate: whether texts are generated and their fluency measured.
        random: random directions drawn as control.
        max_kl: the KL budget, nats per affected token.
        max_new_tokens, texts: how much is generated.
        metrics: further metrics, after the standard ones.
        gates: conditions such as ``"kl<=0.1"`` or ``"effect.low>0"``; see :class:`~steersman.evaluation.gates.Gate`.
        seed: of everything drawn.
        progress: told what comes next.

    Returns:
        A table of rows, with settings, versions and hashes; see :class:`~steersman.evaluation.result.Evaluation`.

    Raises:
        DataError, PromptError, MismatchError: before any forward pass.
    """
    checked = [Gate.parse(text) for text in gates]
    comparison = _comparison(
        model, plan, target, prompts, sources, neutral,
        Settings(random, min(random, 20), Sampling(texts, max_new_tokens), max_kl, seed),
    )  # fmt: skip
    chosen = _metrics(comparison, facts, other_prompts, other_sources, instruction, generate, metrics)
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for metric in chosen:
        missing = _missing(metric, comparison)
        if missing:
            left_out[metric.name] = missing
            continue
        progress(f"measuring {metric.name}")
        rows += metric.rows(comparison)
    return Evaluation(
        rows=tuple(rows),
        gates=tuple(gate.check(rows) for gate in checked),
        left_out=left_out,
        model=describe(model),
        other=None if comparison.steered.model is model else describe(comparison.steered.model),
        plan=_plan_facts(comparison.steered.plan),
        target=target.describe() if target else None,
        settings=_settings(comparison, facts),
        samples=_shown(comparison) if generate else (),
        seed=seed,
        versions=versions(),
    )


def _comparison(
    model: SteeringModel, plan: PlanLike | SteeringModel, target: Target | None, prompts: Prompts | None,
    sources: Sequence[str] | None, neutral: Sequence[str] | None, settings: Settings,
) -> Comparison:  # fmt: skip
    if isinstance(plan, SteeringModel):
        _check_same_tokens(model, plan)
        steered = _edit(model, plan) or Arm(plan)
    else:
        steered = Arm(model, Plan.of(plan))
        steered.plan.actions(model.shape)
        if not steered.plan:
            raise DataError("nothing to evaluate: give a plan, or another model to compare with")
    given = listed(prompts)[0] if prompts is not None else None
    if given is not None:
        prompt_sources(sources, len(given))
    if target is not None and isinstance(target, LogitTarget):
        target.items(model, given, sources=sources)  # everything that is wrong with them shows before any pass
    texts = tuple(neutral) if neutral is not None else default_texts(model.shape.name)
    return Comparison(Arm(model), steered, target, given, list(sources) if sources else None, texts, settings)


def _edit(model: SteeringModel, other: SteeringModel) -> Arm | None:
    """An edit of the same weights as the plan it is, whose strength can be changed; None for another model."""
    shared = other.architecture.hf is model.architecture.hf
    before = len(model.plan)
    if not shared or Plan(other.plan.interventions[:before]) != model.plan or len(other.plan) == before:
        return None
    return Arm(model, Plan(other.plan.interventions[before:]))


def _check_same_tokens(model: SteeringModel, other: SteeringModel) -> None:
    """Two models can be compared token by token only if they share their tokens."""
    mine, theirs = (one.tokenizer.get_vocab() for one in (model, other))
    if mine != theirs:
        raise MismatchError(
            f"{other.shape.name} has another vocabulary than {model.shape.name}, so their predictions cannot be "
            "compared token by token"
        )


def _metrics(
    comparison: Comparison, facts: Any, other_prompts: Prompts | None, other_sources: Sequence[str] | None,
    instruction: str | None, generate: bool, further: Sequence[Metric] | None,
) -> list[Metric]:  # fmt: skip
    found: list[Metric] = [Effect(), InWords(instruction), DoseResponse(), SideEffect(), AtBudget()]
    if generate:
        found.append(Fluency())
    if facts is not False:
        found.append(Capability(facts_of(None if facts is True else facts)))
    if other_prompts is not None:
        found.append(Transfer(listed(other_prompts)[0], other_sources))
    return [*found, *(further or ())]


def _missing(metric: Metric, comparison: Comparison) -> str | None:
    """Why a metric cannot be measured here, or None."""
    if "target" in metric.needs and comparison.target is None:
        return "no target given"
    if "plan" in metric.needs and not comparison.scalable:
        return "another model has no strength to change"
    return None


def _plan_facts(plan: Plan) -> dict[str, Any] | None:
    if not plan:
        return None
    from ..operations import Custom

    written = [item.label for item in plan]
    spec: Any = None if any(isinstance(item, Custom) for item in plan) else plan.spec()
    return {"digest": plan.digest, "labels": written, **(spec or {})}


def _settings(comparison: Comparison, facts: Any) -> dict[str, Any]:
    own = comparison.settings
    return {
        "prompts": None if comparison.prompts is None else len(comparison.prompts),
        "prompts_sha256": _digest(comparison.prompts),
        "neutral_texts": len(comparison.neutral),
        "neutral_sha256": _digest(comparison.neutral),
        "facts": "packaged" if facts is True else str(facts) if isinstance(facts, str | Path) else bool(facts),
        "random_directions": own.random,
        "max_kl": own.max_kl,
        "texts": own.sampling.texts,
        "max_new_tokens": own.sampling.max_new_tokens,
        "temperature": own.sampling.temperature,
    }


def _digest(values: Any) -> str | None:
    return None if values is None else hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _shown(comparison: Comparison) -> tuple[dict[str, Any], ...]:
    own, base, steered = comparison.settings, comparison.base, comparison.steered
    return continuations(
        base.model, steered.plan if comparison.scalable else steered.model, comparison.openings,
        sampling=own.sampling, seed=own.seed,
    )  # fmt: skip


def continuations(
    model: SteeringModel, plan: PlanLike | SteeringModel, prompts: Sequence[Prompt], *, most: int = 6,
    sampling: Sampling | None = None, seed: int = 0,
) -> tuple[dict[str, Any], ...]:  # fmt: skip
    """Some prompts continued at minus, nothing and plus a plan, each with one seed; or by either of two models.

    Args:
        model: the model.
        plan: a plan, or another model.
        prompts: the first ``most`` are continued.
        sampling: how texts are drawn.
        seed: of the draw: the same prompt meets the same numbers in each.

    Returns:
        For each prompt ``{"prompt": ..., "texts": {"-": ..., "0": ..., "+": ...}}``, without ``"-"`` for a model.
    """
    asked = list(prompts)[:most]
    own = replace(sampling or Sampling(), texts=len(asked))
    if isinstance(plan, SteeringModel):
        arms = {"0": Arm(model), "+": Arm(plan)}
    else:
        steered = Plan.of(plan)
        arms = {"-": Arm(model, scaled(steered, -1.0)), "0": Arm(model), "+": Arm(model, steered)}
    drawn = {sign: draw(arm.model, asked, arm.plan, own, seed).texts for sign, arm in arms.items()}
    return tuple(
        {"prompt": text_of(prompt), "texts": {sign: texts[i] for sign, texts in drawn.items()}}
        for i, prompt in enumerate(asked)
    )
