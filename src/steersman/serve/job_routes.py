"""``/v1/extractions``, ``/v1/sweeps``, ``/v1/ablations``, ``/v1/checkpoints``, ``/v1/jobs``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from ..evaluation import contrast
from ..evaluation.evaluate import continuations
from ..model.tokens import Prompt
from ..report import render
from ..sweeping.result import Sweep
from .errors import ApiError, Json
from .job_schema import AblationRequest, CheckpointRequest, ExtractionRequest, SweepRequest
from .jobs import Job, Jobs
from .state import State, state_of
from .vector_routes import Admin
from .vectors import checked_name
from .work import SWEEP_FILE, plain_examples

router = APIRouter(tags=["jobs"])

#: Seconds after which a silent stream of events says that it lives.
PULSE = 15.0


@router.post("/v1/extractions", status_code=202, dependencies=Admin)
async def extractions(body: ExtractionRequest, request: Request) -> Json:
    """Extract a vector from two columns of examples."""
    checked_name(body.name, "vector")
    plain_examples(body.positive, body.negative, body.name)
    return await _submit(state_of(request), "extraction", body.model_dump(mode="json"))


@router.post("/v1/sweeps", status_code=202, dependencies=Admin)
async def sweeps(body: SweepRequest, request: Request) -> Json:
    """Try a vector at layers and strengths, with controls."""
    state = state_of(request)

    def check() -> str:
        state.vectors.vector(body.vector).check(state.model.shape)
        contrast(body.positive, body.negative).tokens(state.model)
        return state.vectors.digests([body.vector])[body.vector]

    digest = await run_in_threadpool(check)
    return await _submit(state, "sweep", body.model_dump(mode="json") | {"digest": digest})


@router.post("/v1/ablations", status_code=202, dependencies=Admin)
async def ablations(body: AblationRequest, request: Request) -> Json:
    """Ablate each head in turn."""
    if body.mode == "zero" and body.reference is not None:
        raise ApiError(400, "invalid_value", 'mode "zero" needs no reference', param="reference")
    if body.mode == "mean" and body.reference is None and len(body.prompts) < 2:
        raise ApiError(400, "invalid_value", 'mode "mean" needs a reference, or more prompts', param="reference")
    return await _submit(state_of(request), "ablation", body.model_dump(mode="json"))


@router.post("/v1/checkpoints", status_code=202, dependencies=Admin)
async def checkpoints(body: CheckpointRequest, request: Request) -> Json:
    """Bake steering into weights, in the server's folder."""
    state = state_of(request)
    checked_name(body.name, "checkpoint")
    steered = await run_in_threadpool(state.resolver.of, None, True, body.steering)
    if not steered.plan:
        raise ApiError(400, "invalid_steering", "there is nothing to bake", param="steering")
    return await _submit(state, "checkpoint", {"name": body.name, "steering": steered.document})


async def _submit(state: State, kind: str, asked: dict[str, Any]) -> Json:
    job = await run_in_threadpool(state.jobs.submit, kind, asked)
    return Json(job.document(), 202, headers={"Location": f"/v1/jobs/{job.id}"})


@router.get("/v1/jobs")
async def jobs(request: Request) -> Json:
    """Every job, the latest first, in brief."""
    return Json({"object": "list", "data": [job.document(brief=True) for job in _jobs(request).all()]})


@router.get("/v1/jobs/{name}")
async def job(request: Request, name: str) -> Json:
    """One job."""
    return Json(_jobs(request).get(name).document())


@router.delete("/v1/jobs/{name}", dependencies=Admin)
async def cancel(request: Request, name: str) -> Json:
    """Cancel a job; remove one that has ended."""
    left = await run_in_threadpool(_jobs(request).cancel, name)
    return Json({"id": name, "object": "job.deleted", "deleted": True} if left is None else left.document())


@router.get("/v1/jobs/{name}/events")
async def events(request: Request, name: str) -> Response:
    """The job whenever it changes, until it ends, as server-sent events."""
    _jobs(request).get(name)
    return StreamingResponse(
        _told(_jobs(request), name), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


async def _told(jobs: Jobs, name: str) -> AsyncIterator[str]:
    changed = jobs.listen(name)
    try:
        while True:
            changed.clear()
            try:
                job = jobs.get(name)
            except ApiError:  # removed meanwhile
                return
            yield f"event: {job.status}\ndata: {json.dumps(job.document())}\n\n"
            if job.ended:
                return
            while not changed.is_set():
                try:
                    await asyncio.wait_for(changed.wait(), PULSE)
                except TimeoutError:
                    yield ": alive\n\n"
    finally:
        jobs.unlisten(name, changed)


@router.get("/v1/jobs/{name}/report")
async def report(request: Request, name: str) -> Response:
    """A sweep as one HTML file, with a few texts."""
    state = state_of(request)
    found = state.jobs.finished(name, "sweep")
    page = await state.analyse(lambda: report_of(state, found))
    told = {"Content-Disposition": f'attachment; filename="{name}.html"'}
    return HTMLResponse(page, headers=told)


def report_of(state: State, job: Job) -> str:
    """The HTML report of a sweep that has succeeded."""
    swept = load_sweep(state, job)
    best = (job.result or {}).get("best")
    prompts: list[Prompt] = list(job.request["prompts"])
    samples: Any = ()
    if best:
        item = {"vector": job.request["vector"], "strength": best["strength"], "layers": [best["layer"]],
                "operation": job.request["operation"]}  # fmt: skip
        names = ("positions", "unit", "site", "value", "alpha", "angle")
        item |= {name: job.request[name] for name in names if job.request.get(name) is not None}
        plan = state.resolver.plan_over(item, {job.request["vector"]: str(job.request["digest"])})
        samples = continuations(state.model, plan, prompts)
    title = f"Steering {state.settings.name} with {job.request['vector']}"
    return render(sweep=swept, max_kl=float(job.request["max_kl"]), samples=samples, title=title)


def load_sweep(state: State, job: Job) -> Sweep:
    """What a sweep found."""
    return Sweep.load(Path(state.jobs.folder(job.id)) / SWEEP_FILE)


def _jobs(request: Request) -> Jobs:
    return state_of(request).jobs
