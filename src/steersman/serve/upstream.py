"""The vLLM server that stands behind: what is asked of it, and what its refusals mean."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from anyio import CancelScope

from ..engines.vllm.http import PREFIX
from .arms import Understood
from .errors import ApiError


class Upstream:
    """Asks vLLM.

    Args:
        client: with its address and key.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    @asynccontextmanager
    async def open(self, method: str, path: str, **content: Any) -> AsyncGenerator[httpx.Response]:
        """Its answer, before it is read. Left early, vLLM stops working on it.

        Raises:
            ApiError: it refuses, is not there, or takes too long.
        """
        try:
            answer = await self.client.send(self.client.build_request(method, path, **content), stream=True)
        except httpx.TimeoutException:
            raise ApiError(504, "timeout", "vLLM did not answer in time") from None
        except httpx.HTTPError as error:
            raise ApiError(502, "upstream_unreachable", f"vLLM cannot be reached: {type(error).__name__}") from None
        try:
            if answer.status_code >= 400:
                raise _refusal(answer.status_code, await _read(answer))
            yield answer
        finally:
            with CancelScope(shield=True):  # when the client goes, every await here is cancelled
                await answer.aclose()

    async def json(self, method: str, path: str, **content: Any) -> Any:
        """What it answers."""
        async with self.open(method, path, **content) as answer:
            await _read(answer)
            return answer.json()

    async def plan(self, document: Mapping[str, Any]) -> tuple[Mapping[str, Any], Understood]:
        """A spec with the digests of what its names stand for now, and what it comes to.

        Raises:
            ApiError: the engine would refuse it.
        """
        try:
            found = await self.json("POST", f"{PREFIX}/plan", json=document)
        except ApiError as error:
            if error.code != "upstream_refused" or error.status != 404:
                raise
            raise ApiError(
                502, "upstream_unsteered", "vLLM was started without the plugin's routes; start it with "
                "VLLM_PLUGINS=steersman,steersman_http"
            ) from None  # fmt: skip
        return found["spec"], Understood(found["interventions"], found["digest"])


async def lines(answer: httpx.Response) -> AsyncIterator[str]:
    """The lines of a stream."""
    try:
        async for line in answer.aiter_lines():
            yield line
    except httpx.HTTPError:
        raise ApiError(502, "upstream_lost", "vLLM went away") from None


async def _read(answer: httpx.Response) -> bytes:
    try:
        return await answer.aread()
    except httpx.HTTPError:
        raise ApiError(502, "upstream_lost", "vLLM went away") from None


def _refusal(status: int, body: bytes) -> ApiError:
    """A refusal of vLLM's, with a code of this server's."""
    try:
        error: Any = httpx.Response(status, content=body).json()["error"]
        message, param = str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, param = f"vLLM answers {status}", None
    ours = param == "steersman"
    param = "steering" if ours else param
    if status in (401, 403):
        return ApiError(502, "upstream_refused", f"vLLM does not take this server's key: {message}")
    if status == 404 and ours:
        return ApiError(404, "vector_not_found", message, param=param)
    if status in (400, 422):
        return ApiError(400, "invalid_steering" if ours else "invalid_value", message, param=param)
    if status == 503:
        return ApiError(503, "not_ready", message, headers={"Retry-After": "5"})
    if status >= 500:
        return ApiError(502, "upstream_failed", message)
    return ApiError(status, "upstream_refused", message, param=param)
