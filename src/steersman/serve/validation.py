"""From what pydantic finds wrong with a request to the envelope."""

from __future__ import annotations

import re
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from . import schema
from .errors import ApiError, did_you_mean

#: A key or an index in the place of a problem; pydantic also names there the types it tried.
_KEY = re.compile(r"(?!(?:str|int|float|bool)$)[A-Za-z0-9_ -]+")
_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_request", 413: "body_too_large"}


def of_validation(error: RequestValidationError, known: dict[str, list[str]]) -> ApiError:
    """The first thing wrong, and where; unknown keys with what was probably meant.

    Args:
        error: of FastAPI.
        known: the keys of each part of the request, by its path; ``""`` for the body itself.
    """
    problems = list(error.errors())
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    place = [part for part in map(str, first["loc"][1:]) if _KEY.fullmatch(part)]  # without the names of types
    where = ".".join(place)[:200] or None
    if first["type"] == "json_invalid":
        return ApiError(400, "invalid_json", f"the body is no JSON: {first.get('ctx', {}).get('error', first['msg'])}")
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        parts = place[:-1] if place[-1:] == [key] else place
        keys = known.get(".".join("*" if part.isdecimal() else part for part in parts), [])
        return ApiError(400, "unknown_key", f"unknown key {key[:80]!r}{did_you_mean(key, keys)}", param=where)
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
    found["messages.*.content.*"] = list(schema.Part.model_fields)
    return found
