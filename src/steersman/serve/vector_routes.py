"""``/v1/vectors`` and ``/v1/presets``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from ..vector import SteeringVector
from .errors import ApiError, Json, missing
from .schema import Steering, Strict
from .state import state_of
from .vectors import checked_name


def admin(request: Request) -> None:
    """What a route that changes things depends on."""
    request.app.state.gate.require_admin(request)


router = APIRouter(tags=["vectors"])
Admin = [Depends(admin)]


@router.get("/v1/vectors")
async def vectors(request: Request) -> Json:
    """Every vector there is."""
    store = state_of(request).vectors
    found = await run_in_threadpool(lambda: [store.describe(name) for name in store.names()])
    return Json({"object": "list", "data": found})


@router.get("/v1/vectors/{name}")
async def vector(request: Request, name: str) -> Json:
    """What is known of one."""
    store = state_of(request).vectors
    return Json(await run_in_threadpool(store.describe, checked_name(name, "vector")))


@router.get("/v1/vectors/{name}/file")
async def file(request: Request, name: str, format: Literal["safetensors", "gguf"] = "safetensors") -> Response:  # noqa: A002
    """The vector as a file."""
    store = state_of(request).vectors
    found = await run_in_threadpool(store.vector, checked_name(name, "vector"))
    content = await run_in_threadpool(_written, found, format)
    told = {"Content-Disposition": f'attachment; filename="{name}.{format}"'}
    return Response(content, media_type="application/octet-stream", headers=told)


@router.put("/v1/vectors/{name}", dependencies=Admin, openapi_extra={
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {
        "type": "string", "format": "binary", "description": "A safetensors file as steersman writes it."}}}}
})  # fmt: skip
async def put_vector(request: Request, name: str) -> Json:
    """Upload a vector: a safetensors file. It takes the place of one of that name."""
    checked_name(name, "vector")
    content = await request.body()
    return Json(await run_in_threadpool(state_of(request).vectors.put, name, content))


@router.delete("/v1/vectors/{name}", dependencies=Admin)
async def delete_vector(request: Request, name: str) -> Json:
    """Forget a vector; requests that use it finish."""
    await run_in_threadpool(state_of(request).vectors.delete, checked_name(name, "vector"))
    return Json({"id": name, "object": "vector.deleted", "deleted": True})


class PresetRequest(Strict):
    """``PUT /v1/presets/{name}``."""

    steering: Steering


@router.get("/v1/presets")
async def presets(request: Request) -> Json:
    """The presets stored; every vector with a chosen layer is one besides."""
    store = state_of(request).presets
    return Json({"object": "list", "data": [
        {"name": name, "object": "preset", "steering": store.get(name)} for name in store.names()
    ]})  # fmt: skip


@router.put("/v1/presets/{name}", dependencies=Admin)
async def put_preset(request: Request, name: str, body: PresetRequest) -> Json:
    """Store steering under a name: a model MODEL:NAME."""
    state = state_of(request)
    checked_name(name, "preset")
    steered = await run_in_threadpool(state.resolver.of, None, True, body.steering)
    if not steered.plan:
        raise ApiError(400, "invalid_steering", "a preset has to steer; this does nothing", param="steering")
    await run_in_threadpool(state.presets.put, name, steered.document)
    return Json({"name": name, "object": "preset", "steering": state.presets.get(name)})


@router.delete("/v1/presets/{name}", dependencies=Admin)
async def delete_preset(request: Request, name: str) -> Json:
    """Forget a preset."""
    store = state_of(request).presets
    if name not in store.names():
        raise missing("preset", name, store.names())
    await run_in_threadpool(store.delete, name)
    return Json({"id": name, "object": "preset.deleted", "deleted": True})


def _written(vector: SteeringVector, kind: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return Path(vector.save(Path(folder) / f"vector.{kind}")).read_bytes()
