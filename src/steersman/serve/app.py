"""The application: every route of a server over one model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from .. import __version__
from ..errors import SteersmanError
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
    validation,
    vector_routes,
)
from .errors import ApiError, Json, of_library
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
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
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
    _handlers(app)
    _document(app)
    return app


def _handlers(app: FastAPI) -> None:
    async def refused(request: Request, error: Any) -> Json:
        return error.response()

    async def library(request: Request, error: Any) -> Json:
        return of_library(error).response()

    async def invalid(request: Request, error: Any) -> Json:
        field = getattr(request.scope.get("route"), "body_field", None)
        model = getattr(getattr(field, "field_info", None), "annotation", None)
        return validation.of_validation(error, validation.keys_of(model)).response()

    async def http(request: Request, error: Any) -> Json:
        return validation.of_http(error).response()

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(SteersmanError, library)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


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
