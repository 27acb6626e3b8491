"""Whether the server lives, is ready, and how it fares."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from .errors import ApiError, Json
from .state import state_of

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> Json:
    """The process answers."""
    return Json({"status": "ok"})


@router.get("/ready")
async def ready(request: Request) -> Json:
    """The engine runs; 503 until it does, or when it has ended."""
    if not state_of(request).scheduler.alive:
        raise ApiError(503, "not_ready", "the engine does not run", headers={"Retry-After": "5"})
    return Json({"status": "ready"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(state_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
