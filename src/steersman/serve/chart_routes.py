"""``/v1/charts/...``: the numbers of the page's charts, or the charts themselves."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from ..analysis import cosine_matrix, geometry, lens
from ..charts import Figure
from ..extraction import activations
from ..files.atomic import replacing
from ..probe import LinearProbe
from ..sweeping.result import Sweep
from .analysis_routes import ProjectionRequest, project_on, sweeps_of
from .errors import ApiError, Json
from .job_routes import load_sweep
from .schema import Strict, Text
from .state import State, state_of
from .work import STUDY_FILE

router = APIRouter(tags=["charts"], prefix="/v1/charts")

#: Of the probes: one regularisation for all layers, and few shuffles, since someone waits for them.
PENALTY, SHUFFLES = 0.1, 3

Format = Literal["json", "svg"]
Budget = Annotated[float, Field(gt=0)]


class SweepChart(Strict):
    """A chart of a sweep: named, or the last one of a vector."""

    sweep: Text | None = None
    vector: Text | None = None
    layer: int | None = None
    max_kl: Budget = 0.1
    format: Format = "json"


class MapChart(SweepChart):
    """Of what the map is."""

    value: Literal["effect", "kl"] = "effect"


class ProjectionChart(ProjectionRequest):
    """``POST /v1/charts/token-projections``."""

    format: Format = "json"


class LensChart(Strict):
    """``POST /v1/charts/lens``."""

    vector: Text
    layer: int | None = None
    k: Annotated[int, Field(ge=1, le=200)] = 20
    norm: Literal["gain", "none"] = "gain"
    prompt: Annotated[Text, Field(min_length=1)] | None = None
    strength: Annotated[float, Field(ge=-1000, le=1000)] = 1.0
    format: Format = "json"


class VectorChart(Strict):
    """A chart of a vector's examples."""

    vector: Text
    layer: int | None = None
    format: Format = "json"


class CosineChart(Strict):
    """``POST /v1/charts/cosines``."""

    vectors: Annotated[list[Text], Field(min_length=1, max_length=64)] | None = None
    layer: int | None = None
    format: Format = "json"


class StudyChart(Strict):
    """``POST /v1/charts/heads``."""

    ablation: Text
    format: Format = "json"


@router.post("/dose-response")
async def dose_response(body: SweepChart, request: Request) -> Response:
    """Effect and cost over strengths at one layer, with the band of random directions."""
    state = state_of(request)

    def work() -> Figure:
        swept = _swept(state, body)
        layer = body.layer
        if layer is None:
            layer = swept.best(body.max_kl).layer
        if layer not in swept.layers:
            raise ApiError(400, "invalid_value", f"layer {layer} was not swept; {swept.layers} were", param="layer")
        return swept.dose_figure(layer=layer, max_kl=body.max_kl)

    return _answer(await state.analyse(work), body.format)


@router.post("/heatmap")
async def heatmap(body: MapChart, request: Request) -> Response:
    """Effect or cost by layer and strength; the choice within the budget is marked, if there is one."""
    state = state_of(request)

    def work() -> Figure:
        swept = _swept(state, body)
        chosen = any(r.strength and r.kl <= body.max_kl and r.tune_effect > 0 for r in swept)
        return swept.map_figure(value=body.value, max_kl=body.max_kl if chosen else None)

    return _answer(await state.analyse(work), body.format)


@router.post("/token-projections")
async def token_projections(body: ProjectionChart, request: Request) -> Response:
    """A text whose tokens are coloured by their projection."""
    return _answer((await project_on(state_of(request), body)).figure(), body.format)


@router.post("/lens")
async def lens_table(body: LensChart, request: Request) -> Response:
    """The tokens that a vector boosts and suppresses."""
    state = state_of(request)

    def work() -> Figure:
        vector = state.vectors.vector(body.vector)
        return lens(
            state.model, vector, body.layer, body.k, norm=body.norm, prompt=body.prompt, strength=body.strength
        ).figure()

    return _answer(await state.analyse(work), body.format)


@router.post("/geometry")
async def contrast_geometry(body: VectorChart, request: Request) -> Response:
    """The examples of a vector in the plane in which they vary most."""
    state = state_of(request)

    def work() -> Figure:
        vector = state.vectors.vector(body.vector)
        layer = vector.layer if body.layer is None else body.layer
        if layer is None:
            raise ApiError(400, "invalid_value", f"{body.vector!r} has no chosen layer; name one", param="layer")
        layer = state.model.shape.layer(layer, "the chart")
        if layer not in vector:
            raise ApiError(400, "invalid_value", f"{body.vector!r} has the layers {list(vector.layers)}", param="layer")
        return geometry(*_sides(state, body.vector), layer=layer).figure()

    return _answer(await state.analyse(work), body.format)


@router.post("/probes")
async def probes(body: VectorChart, request: Request) -> Response:
    """How well a linear probe tells a vector's examples apart, layer by layer."""
    state = state_of(request)
    return _answer(await state.analyse(lambda: _probed(state, body.vector)), body.format)


@router.post("/cosines")
async def cosines(body: CosineChart, request: Request) -> Response:
    """How alike vectors are."""
    state = state_of(request)

    def work() -> Figure:
        names = body.vectors or state.vectors.names()
        found = [state.vectors.vector(name) for name in names]
        matrix = cosine_matrix(found, layer=body.layer)
        matrix.columns = matrix.index = names
        return matrix.figure()

    return _answer(await state.analyse(work), body.format)


@router.post("/heads")
async def ablated_heads(body: StudyChart, request: Request) -> Response:
    """What is lost without each head."""
    state = state_of(request)
    job = state.jobs.finished(body.ablation, "ablation")
    found = json.loads((state.jobs.folder(job.id) / STUDY_FILE).read_text(encoding="utf-8"))["figure"]
    return _answer(Figure(found["chart"], found["arguments"]), body.format)


# -- what they are drawn from -----------------------------------------------------------------------------------------


def _answer(figure: Figure, form: Format) -> Response:
    if form == "svg":
        return Response(figure.svg(), media_type="image/svg+xml")
    return Json(figure.document())


def _swept(state: State, body: SweepChart) -> Sweep:
    if (body.sweep is None) == (body.vector is None):
        raise ApiError(400, "invalid_value", "give sweep or vector, one of them", param="sweep")
    if body.sweep is not None:
        return load_sweep(state, state.jobs.finished(body.sweep, "sweep"))
    digest = state.vectors.digests([body.vector])[str(body.vector)]
    found = sweeps_of(state, digest)
    if not found:
        raise ApiError(
            409, "not_measured", f"{body.vector!r} has not been swept as it is; POST /v1/sweeps", param="vector"
        )
    return load_sweep(state, found[0])


def _sides(state: State, name: str) -> tuple[Any, Any]:
    """The activations of a vector's examples, in its layers; those of the last one asked for are kept."""
    digest = state.vectors.digests([name])[name]
    if state.read_last is None or state.read_last[0] != digest:
        vector, (pairs, read) = state.vectors.vector(name), state.pairs.get(digest)
        sides = [
            activations(state.model, list(texts), layers=list(vector.layers), site=vector.site, read=read or "last")
            for texts in (pairs.positive, pairs.negative)
        ]
        state.read_last = digest, sides[0], sides[1]
    return state.read_last[1], state.read_last[2]


def _probed(state: State, name: str) -> Figure:
    """Fitted once for the content of a vector, and kept."""
    digest = state.vectors.digests([name])[name]
    kept = state.settings.folder / "pairs" / f"{digest}.probes.json"
    if not kept.is_file():
        positive, negative = _sides(state, name)
        groups = state.pairs.get(digest)[0].groups()
        both = {layer: torch.cat([positive[layer], negative[layer]]) for layer in positive.layers}
        labels = [1] * len(positive[positive.layers[0]]) + [0] * len(negative[negative.layers[0]])
        probe = LinearProbe(c=PENALTY, shuffles=SHUFFLES).fit(both, labels, groups=[*groups[0], *groups[1]])
        with replacing(kept) as temporary:
            temporary.write_text(json.dumps(probe.figure().document()), encoding="utf-8")
    found = json.loads(kept.read_text(encoding="utf-8"))
    return Figure(found["chart"], found["arguments"])
