"""What the kinds of jobs do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import ContrastPairs
from ..engines.weights import bake
from ..errors import DataError
from ..evaluation import contrast
from ..evaluation.metrics.fluency import repeated
from ..extraction import extract
from ..files.atomic import replacing
from ..model import SteeringModel
from ..plan import Plan
from ..sites import heads
from ..studies import ablation_study, logit_difference
from ..sweeping import sweep
from ..sweeping.result import Sweep
from .job_schema import AblationRequest, ExtractionRequest, SweepRequest
from .jobs import Context, Work
from .schema import Message

if TYPE_CHECKING:
    from .state import State

#: Prompts and new tokens on which repetition is measured.
TEXTS, TOKENS = 8, 32
_ROWS = 32
SWEEP_FILE, STUDY_FILE, ROWS_FILE = "sweep.json", "study.json", "rows.jsonl"


def kinds(state: State) -> dict[str, Work]:
    """The work of each kind of job on a server."""
    return {
        "extraction": lambda context: _extract(state, context),
        "sweep": lambda context: _sweep(state, context),
        "ablation": lambda context: _ablate(state.model, context),
        "checkpoint": lambda context: _bake(state, context),
    }


def plain_examples(positive: Sequence[Any], negative: Sequence[Any], name: str | None) -> ContrastPairs:
    """Contrast pairs from the examples of a request."""
    return ContrastPairs(
        positive=[_plain(item) for item in positive], negative=[_plain(item) for item in negative], name=name
    )


def _plain(example: str | list[Message]) -> Any:
    return example if isinstance(example, str) else [message.plain() for message in example]


def _extract(state: State, context: Context) -> Mapping[str, Any]:
    asked = ExtractionRequest.model_validate(context.request)
    pairs = plain_examples(asked.positive, asked.negative, asked.name)
    vector = extract(
        state.model, pairs, method=asked.method, layers=asked.layers, site=asked.site, read=asked.read, name=asked.name,
        seed=asked.seed, checkpoint=context.folder / "work.safetensors",
        progress=lambda done, of: context.progress("tokens", done, of),
    )  # fmt: skip
    digest = state.vectors.save(asked.name, vector)
    state.pairs.put(digest, pairs, vector.metadata.get("read"))
    return {"vector": asked.name, "digest": digest, "layer": vector.layer, "layers": list(vector.layers)}


def _sweep(state: State, context: Context) -> Mapping[str, Any]:
    request = dict(context.request)
    digest = request.pop("digest")
    asked = SweepRequest.model_validate(request)
    vector = state.vectors.entry(digest)
    found = sweep(
        state.model, vector, prompts=asked.prompts, target=contrast(asked.positive, asked.negative),
        layers=asked.layers, strengths=asked.strengths, neutral=asked.neutral, operation=asked.operation,
        random=asked.random, seed=asked.seed, rows=context.folder / ROWS_FILE, progress=context.progress,
        **asked.options(),
    )  # fmt: skip
    found.save(context.folder / SWEEP_FILE)
    best = None
    with suppress(DataError):  # no setting moves the target within the budget
        best = found.best(asked.max_kl)
    wanted = (best and best.layer, vector.layer, *asked.repetition)
    layers = sorted({layer for layer in wanted if layer in found.layers})
    repetition = {str(layer): _repetition(state.model, found, layer, asked.prompts, context) for layer in layers}
    return {
        "vector": asked.vector, "digest": digest, "max_kl": asked.max_kl, "best": best and asdict(best),
        "repetition": repetition, "prompts": len(asked.prompts), "layers": found.layers, "strengths": found.strengths,
    }  # fmt: skip


def _repetition(
    model: SteeringModel, found: Sweep, layer: int, prompts: Sequence[str], context: Context
) -> dict[str, float]:
    """The share of repeated 4-grams in greedy texts at each strength of a layer, averaged over a few prompts."""
    few = [model.tokens.encode(prompt) for prompt in prompts[:TEXTS]]
    plans = {strength: found.plans[layer, strength] for strength in found.strengths} | {0.0: Plan()}
    rows = [(strength, ids, plan) for strength, plan in sorted(plans.items()) for ids in few]
    shares: dict[float, list[float]] = {}
    for start in range(0, len(rows), _ROWS):
        context.progress(f"texts at layer {layer}", start, len(rows))
        part = rows[start : start + _ROWS]
        texts = model.generate_tokens([ids for _, ids, _ in part], steer=[p for *_, p in part], max_new_tokens=TOKENS)
        for (strength, *_), tokens in zip(part, texts, strict=True):
            shares.setdefault(strength, []).append(repeated(tokens))
    return {f"{strength:g}": sum(own) / len(own) for strength, own in shares.items()}


def _ablate(model: SteeringModel, context: Context) -> Mapping[str, Any]:
    asked = AblationRequest.model_validate(context.request)
    study = ablation_study(
        model, asked.prompts, sites=heads("all"), mode=asked.mode, reference=asked.reference,
        metric=logit_difference(asked.target, asked.foil), seed=asked.seed, rows=context.folder / ROWS_FILE,
        progress=lambda done, of: context.progress("heads", done, of),
    )  # fmt: skip
    document = {"figure": study.figure().document(), "study": study.document()}
    with replacing(context.folder / STUDY_FILE) as temporary:
        temporary.write_text(json.dumps(document), encoding="utf-8")
    return {"whole": study.whole.as_json(), "top": [study.row(one) for one in study.top(10)]}


def _bake(state: State, context: Context) -> Mapping[str, Any]:
    plan = state.resolver.of(None, True, context.request["steering"]).plan
    target = state.settings.folder / "checkpoints"
    target.mkdir(exist_ok=True)
    report = bake(
        state.model, target / str(context.request["name"]), plan,
        progress=lambda done, of: context.progress("bytes", done, of),
    )  # fmt: skip
    return {"folder": str(Path("checkpoints") / str(context.request["name"])), "report": str(report)}
