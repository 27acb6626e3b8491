"""The application: every route of a server over one model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from .. import __version__
from ..model import SteeringModel
from . import (
    analysis_routes,
    chart_routes,
    completions,
    exports,
    health,
    job_routes,
    page,
    schema,
    vector_routes,
)
from .errors import Json
from .handling import add_handlers
from .middleware import Guard
from .security import Gate
from .settings import Settings
from .state import State


def create_app(model: SteeringModel, settings: Settings) -> FastAPI:
    """The application that serves a model.

    Args:
        model: the model; while the application runs, its generation belongs to the engine's thread.
        settings: see :class:`Settings`.
    """
    state, gate = State(model, settings), Gate(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        state.begin()
        try:
            yield
        finally:
            state.end()

    app = FastAPI(
        title="Steersman", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        summary="Steered generation behind OpenAI's API.", default_response_class=Json,
        middleware=[Middleware(Guard, gate=gate, limits=settings.limits, metrics=state.metrics)],
    )  # fmt: skip
    app.state.steersman, app.state.gate = state, gate
    for part in (completions, vector_routes, analysis_routes, chart_routes, job_routes, exports, health):
        app.include_router(part.router)
    if settings.ui:
        page.add(app, gate)
    add_handlers(app)
    _document(app)
    return app


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}


def _document(app: FastAPI) -> None:
    """The OpenAPI document: with this server's errors in the place of the framework's."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            parts = document.setdefault("components", {}).setdefault("schemas", {})
            parts |= schema.plan_schemas() | {"Error": _ERROR}
            for name in ("HTTPValidationError", "ValidationError"):
                parts.pop(name, None)
            refusal = {
                "description": "Refused.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            }
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    operation["responses"] |= {"4XX": refusal, "5XX": refusal}
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # pyright: ignore[reportAttributeAccessIssue]
