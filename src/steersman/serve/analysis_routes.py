"""``/v1/vectors/{name}/analysis``, ``/v1/projections``, ``/v1/tokens``, ``/v1/read``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from ..analysis import cosine_matrix, projections
from ..analysis.lens import token_text
from ..analysis.projections import Projections
from ..errors import SteersmanError
from ..extraction import show_read
from .errors import ApiError, Json
from .job_routes import load_sweep
from .job_schema import Examples
from .jobs import Job
from .schema import Message, Steering, Strict, Text
from .state import State, state_of
from .vectors import checked_name
from .work import plain_examples

router = APIRouter(tags=["analysis"])


class TextRequest(Strict):
    """Something to read: a text, or a conversation."""

    text: Annotated[Text, Field(min_length=1)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)] | None = None

    def prompt(self) -> Any:
        """As the library takes it; ApiError unless there is exactly one."""
        if (self.text is None) == (self.messages is None):
            raise ApiError(400, "invalid_value", "give text or messages, one of them", param="text")
        return self.text if self.text is not None else [message.plain() for message in self.messages or ()]


class ProjectionRequest(TextRequest):
    """``POST /v1/projections``."""

    vector: Text
    layer: int | None = None
    steering: Steering = None
    continuation: Annotated[Text, Field(min_length=1)] | None = Field(None, description="What counts as generated.")


class ReadRequest(Strict):
    """``POST /v1/read``."""

    positive: Examples
    negative: Examples
    read: Text | int = "last"


@router.post("/v1/tokens")
async def tokens(body: TextRequest, request: Request) -> Json:
    """A text as the model sees it."""
    model = state_of(request).model
    ids = await run_in_threadpool(model.tokens.encode, body.prompt())
    return Json({"object": "tokens", "ids": ids, "texts": [token_text(model, token) for token in ids]})


@router.post("/v1/read")
async def read(body: ReadRequest, request: Request) -> Json:
    """Which token of each example an extraction would read."""
    state = state_of(request)
    pairs = plain_examples(body.positive, body.negative, None)
    view = await run_in_threadpool(lambda: show_read(state.model, pairs, read=body.read, count=64))
    shown = [
        {"label": one.label, "read": list(one.read), "tokens": one.length,
         "stretches": [{"text": text, "read": chosen} for text, chosen in one.stretches]}
        for one in view.texts
    ]  # fmt: skip
    return Json({"object": "read", "read": view.read, "total": view.total, "texts": shown})


@router.post("/v1/projections")
async def project(body: ProjectionRequest, request: Request) -> Json:
    """Each token of a text projected on a vector."""
    found = await project_on(state_of(request), body)
    return Json({"object": "projections", "vector": body.vector, "layer": found.layer, "tokens": found.tokens,
                 "values": found.values, "between": found.between, "classes": found.classes})  # fmt: skip


async def project_on(state: State, body: ProjectionRequest) -> Projections:
    """The projections that a request asks for."""
    prompt = body.prompt()

    def work() -> Projections:
        plan = state.resolver.of(None, True, body.steering).plan
        more = [] if body.continuation is None else state.model.tokens.continuation(body.continuation)
        state.model.check_length([[*state.model.tokens.encode(prompt), *more]])
        vector = state.vectors.vector(body.vector)
        return projections(state.model, prompt, vector, body.layer, steer=plan, continuation=body.continuation)

    return await state.analyse(work)


@router.get("/v1/vectors/{name}/analysis")
async def analysis(
    request: Request,
    name: str,
    max_kl: Annotated[float, Query(gt=0, allow_inf_nan=False)] = 0.1,
    max_repetition: Annotated[float, Query(ge=0, le=1)] = 0.2,
) -> Json:
    """What was measured of a vector, and the band of strengths within a budget."""
    state = state_of(request)
    return Json(await run_in_threadpool(_analysis, state, checked_name(name, "vector"), max_kl, max_repetition))


def _analysis(state: State, name: str, max_kl: float, max_repetition: float) -> dict[str, Any]:
    vector, described = state.vectors.vector(name), state.vectors.describe(name)
    swept = sweeps_of(state, described["digest"])
    bands = [band for job in swept[:1] for band in bands_of(state, job, max_kl, max_repetition)]
    return {
        "object": "vector.analysis", **described,
        "warnings": list((vector.quality or {}).get("warnings", ())),
        "cosines": _cosines(state, name), "has_pairs": state.pairs.has(described["digest"]),
        "sweeps": [job.id for job in swept], "bands": bands, "max_kl": max_kl, "max_repetition": max_repetition,
    }  # fmt: skip


def _cosines(state: State, name: str) -> dict[str, float]:
    """With the other vectors that have the same site and this one's chosen layer."""
    own = state.vectors.vector(name)
    found: dict[str, float] = {}
    for other in state.vectors.names():
        try:
            vector = state.vectors.vector(other)
            if other == name or own.layer is None or vector.site != own.site or own.layer not in vector:
                continue
            found[other] = float(cosine_matrix([own, vector], layer=own.layer).to_numpy()[0, 1])
        except (SteersmanError, ApiError):
            continue
    return found


def sweeps_of(state: State, digest: str) -> list[Job]:
    """The sweeps of a vector's content that have succeeded, the latest first."""
    return [
        job for job in state.jobs.all()
        if job.kind == "sweep" and job.status == "succeeded" and (job.result or {}).get("digest") == digest
    ]  # fmt: skip


def bands_of(state: State, job: Job, max_kl: float, max_repetition: float) -> list[dict[str, Any]]:
    """The strengths about zero, layer by layer, within a budget of KL, and where measured of repetition.

    Repetition is what steered texts repeat beyond unsteered ones.
    """
    swept, result = load_sweep(state, job), dict(job.result or {})
    found: list[dict[str, Any]] = []
    for layer in swept.layers:
        texts: dict[str, float] = result.get("repetition", {}).get(str(layer), {})
        plain = texts.get("0", 0.0)

        def within(strength: float, layer: int = layer, texts: dict[str, float] = texts, plain: float = plain) -> bool:
            repeats = texts.get(f"{strength:g}", plain) - plain
            return swept.row(layer, strength).kl <= max_kl and repeats <= max_repetition

        low = high = 0.0
        for strength in [s for s in swept.strengths if s > 0]:
            if not within(strength):
                break
            high = strength
        for strength in [s for s in reversed(swept.strengths) if s < 0]:
            if not within(strength):
                break
            low = strength
        found.append({
            "layer": layer, "low": low, "high": high, "sweep": job.id, "prompts": result.get("prompts"),
            "kl_tokens": swept.row(layer, swept.strengths[0]).kl_tokens, "repetition": texts or None,
        })  # fmt: skip
    return found
