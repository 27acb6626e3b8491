"""Around every request: who may ask, how much and how slowly it may say, how it is counted, and what failed."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from starlette.requests import Request

from .errors import ApiError, is_expected, of_library
from .metrics import Metrics
from .security import Gate, secured
from .settings import Limits

log = logging.getLogger(__name__)
_UPLOADS = "/v1/vectors/"
#: Bytes a second that give the sender of a large body more time.
SLOWEST = 256 * 1024


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: Any, gate: Gate, limits: Limits, metrics: Metrics) -> None:
        self.app, self.gate, self.limits, self.metrics = app, gate, limits, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, sent = time.monotonic(), _Sent(send)
        body = _Body(receive, self._allowed(scope), self.limits.body_seconds)
        try:
            self.gate.check(Request(scope))
            body.check(scope)
            await self.app(scope, body, sent)
        except Exception as error:
            found = error if isinstance(error, ApiError) else body.error or of_library(error)
            if not is_expected(error) and body.error is None:
                log.exception("%s %s failed", scope["method"], scope["path"])
            if sent.status is None:
                if body.open:  # what is left of it is not waited for
                    found.headers.setdefault("Connection", "close")
                await found.response()(scope, receive, sent)
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            self.metrics.requests.labels(scope["method"] if route != "other" else "", route, str(sent.status)).inc()
            self.metrics.latency.labels(route).observe(time.monotonic() - begun)

    def _allowed(self, scope: Any) -> int:
        upload = scope["method"] == "PUT" and scope["path"].startswith(_UPLOADS)
        return self.limits.upload if upload else self.limits.body


class _Sent:
    """Sends, and remembers the status."""

    def __init__(self, send: Any) -> None:
        self.status: int | None = None
        self._send = send

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": secured(message.get("headers", []))}
        await self._send(message)


class _Body:
    """Receives a body of bounded size in bounded time.

    Attributes:
        open: whether more of it is to come.
        error: why it was refused.
    """

    def __init__(self, receive: Any, most: int, seconds: float) -> None:
        self.open = True
        self.error: ApiError | None = None
        self._receive, self._most = receive, most
        self._seconds, self._until = seconds, time.monotonic() + seconds
        self._size = 0

    def check(self, scope: Any) -> None:
        """Refuse by its declared length, before any of it is read."""
        self.open = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:18]) > self._most:
                raise self._too_large()

    async def __call__(self) -> Any:
        if not self.open:
            return await self._receive()
        try:
            until = self._until + self._size / SLOWEST
            async with asyncio.timeout(max(until - time.monotonic(), 0.01)):
                message = await self._receive()
        except TimeoutError:
            self.error = ApiError(408, "request_timeout", f"the body did not arrive within {self._seconds:g} seconds")
            raise self.error from None
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self.open = bool(message.get("more_body", False))
            if self._size > self._most:
                self.error = self._too_large()
                raise self.error
        return message

    def _too_large(self) -> ApiError:
        return ApiError(413, "body_too_large", f"the body has more than {self._most} bytes, which are allowed here")
