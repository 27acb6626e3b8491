"""From what pydantic finds wrong with a request to the envelope."""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from . import schema
from .errors import ApiError, did_you_mean

_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_request", 413: "body_too_large"}


def of_validation(error: RequestValidationError, known: dict[str, list[str]]) -> ApiError:
    """The first thing wrong, and where; unknown keys with what was probably meant.

    Args:
        error: of FastAPI.
        known: the keys of each part of the request, by its path; ``""`` for the body itself.
    """
    problems = list(error.errors())
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    where = ".".join(place)[:200] or None
    if first["type"] == "json_invalid":
        return ApiError(400, "invalid_json", f"the body is no JSON: {first.get('ctx', {}).get('error', first['msg'])}")
    if first["type"] == "extra_forbidden":
        holder = ".".join("*" if part.isdecimal() else part for part in place[:-1])
        keys = known.get(holder, [])
        return ApiError(
            400, "unknown_key", f"unknown key {place[-1][:80]!r}{did_you_mean(place[-1], keys)}", param=where
        )
    if first["type"] == "missing":
        return ApiError(400, "missing_key", f"{where or 'the body'} is missing", param=where)
    return ApiError(400, "invalid_value", f"{where or 'the body'}: {first['msg']}", param=where)


def of_http(error: HTTPException) -> ApiError:
    """Of what the framework itself refuses."""
    code = _CODES.get(error.status_code, "invalid_request" if error.status_code < 500 else "internal_error")
    return ApiError(error.status_code, code, str(error.detail), headers=dict(error.headers or {}))


def keys_of(model: type[Any] | None) -> dict[str, list[str]]:
    """The keys of a request's model, and of the parts in it."""
    if model is None:
        return {}
    found = {"": list(model.model_fields)}
    found["stream_options"] = list(schema.StreamOptions.model_fields)
    found["messages.*"] = list(schema.Message.model_fields)
    return found
