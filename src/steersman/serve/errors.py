"""What goes wrong, as OpenAI's clients expect it: one envelope, stable codes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..errors import (
    DataError,
    FileFormatError,
    InterventionError,
    MismatchError,
    NotAppliedError,
    PromptError,
    ResourceError,
    SpecError,
    SteersmanError,
    UnsupportedError,
)

#: HTTP status -> the ``type`` of the envelope.
TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 409: "conflict_error", 411: "invalid_request_error",
    413: "invalid_request_error", 415: "invalid_request_error", 421: "invalid_request_error",
    429: "rate_limit_error", 500: "server_error", 502: "server_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip

#: Errors of the library -> status and code; the first that fits.
_LIBRARY: tuple[tuple[type[SteersmanError], int, str], ...] = (
    (NotAppliedError, 400, "steering_not_applied"),
    (MismatchError, 400, "steering_mismatch"),
    (SpecError, 400, "invalid_steering"),
    (InterventionError, 400, "invalid_steering"),
    (PromptError, 400, "invalid_prompt"),
    (FileFormatError, 400, "invalid_file"),
    (DataError, 400, "invalid_data"),
    (UnsupportedError, 400, "unsupported"),
    (ResourceError, 503, "out_of_memory"),
)


class ApiError(HTTPException):
    """A refusal. Of the framework's kind, since FastAPI turns any other that a body meets into one without its reasons.

    Attributes:
        status: of HTTP.
        code: stable, for programs.
        message: what, why, and how to put it right.
        param: the part of the request it is about.
        headers: of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(status, message, dict(headers or {}))
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers: dict[str, str] = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The envelope."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Json:
        """As an answer."""
        return Json(self.body(), self.status, headers=self.headers)


class Json(JSONResponse):
    """JSON in ASCII, so that whatever a client sent can be quoted; numbers that are not finite are null."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return dumps(content).encode("ascii")


def dumps(content: Any) -> str:
    """Compact JSON in ASCII, without NaN."""
    try:
        return json.dumps(content, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value


def of_library(error: Exception, param: str | None = None) -> ApiError:
    """The refusal that an error of the library means; what is none of its own is the server's fault."""
    for kind, status, code in _LIBRARY:
        if isinstance(error, kind):
            return ApiError(status, code, str(error), param=param)
    if _out_of_memory(error):
        return ApiError(
            503, "out_of_memory", "the device has no memory left for this; send fewer or shorter rows, or try again",
            param=param, headers={"Retry-After": "5"},
        )  # fmt: skip
    return ApiError(500, "internal_error", "the server failed; its log says more")


def is_expected(error: Exception) -> bool:
    """Whether an error needs no traceback in the log."""
    return isinstance(error, SteersmanError | ApiError) or _out_of_memory(error)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "AcceleratorError")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'happy'?``, or what there is."""
    names = sorted(known)
    close = get_close_matches(name, names, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    shown = ", ".join(names[:20]) or "none"
    return f"; there are {shown}" + (", ..." if len(names) > 20 else "")


def missing(what: str, name: str, known: Iterable[str], param: str | None = None) -> ApiError:
    """404 for a name that stands for nothing."""
    return ApiError(
        404, f"{what}_not_found", f"there is no {what} {name[:140]!r}{did_you_mean(name, known)}", param=param
    )
