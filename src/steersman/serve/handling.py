"""From exceptions to answers, on an application."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ..errors import SteersmanError
from . import validation
from .errors import ApiError, Json, of_library


def add_handlers(app: FastAPI) -> None:
    """Answer every refusal in the envelope."""

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
