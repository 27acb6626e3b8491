"""``--engine vllm``: the same API in front of a vLLM server with the plugin.

``steering``, presets and keys are this server's; generation, batching and vectors are vLLM's. The spec goes along as
``vllm_xargs``, checked by the plugin's front end; answers pass through as they come.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.middleware import Middleware

from .. import __version__
from ..engines.vllm.http import PREFIX
from .answers import sse
from .completions import unless_gone
from .errors import ApiError, Json, did_you_mean
from .handling import add_handlers
from .metrics import Metrics
from .middleware import Guard
from .security import Gate
from .settings import Settings
from .steering import read_steering
from .vectors import Presets, checked_name

#: Seconds that vLLM may take to be reached.
CONNECT = 5.0
#: Keys by which a request asks that tokens be drawn.
_DRAWN = {"temperature", "top_p", "top_k"}


def create_proxy(settings: Settings, upstream: str, key: str | None = None) -> FastAPI:
    """The application in front of a vLLM server.

    Args:
        settings: of this server; ``name`` must be what vLLM calls the model.
        upstream: vLLM's URL.
        key: vLLM's API key, if it has one.
    """
    metrics, gate = Metrics(), Gate(settings)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(settings.limits.timeout, connect=CONNECT)
    proxy = Proxy(settings, httpx.AsyncClient(base_url=upstream, headers=headers, timeout=timeout, trust_env=False))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        yield
        await proxy.client.aclose()

    app = FastAPI(
        title="Steersman before vLLM", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        default_response_class=Json, middleware=[Middleware(Guard, gate=gate, limits=settings.limits, metrics=metrics)],
    )  # fmt: skip
    app.state.gate, app.state.proxy = gate, proxy
    add_handlers(app)
    _add_routes(app, proxy, gate, metrics)
    return app


class Proxy:
    """Passes requests on."""

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        self.settings, self.client = settings, client
        self.presets = Presets(settings.folder / "presets")

    def translated(self, body: Any) -> dict[str, Any]:
        """A request as vLLM takes it: its steering among the extra arguments.

        Raises:
            ApiError, SteersmanError: steering that makes no sense, or keys that would reach the engine unchecked.
        """
        if not isinstance(body, Mapping):
            raise ApiError(400, "invalid_value", "the body is no object")
        found = dict(cast("Mapping[str, Any]", body))
        if found.pop("baseline", False):
            raise ApiError(400, "unsupported", 'with vLLM, ask a second time with "steering": null', param="baseline")
        given = found.get("vllm_xargs") or {}
        if not isinstance(given, Mapping) or any(str(name).startswith("steersman") for name in given):
            raise ApiError(400, "invalid_value", "say it in steering, not in vllm_xargs", param="vllm_xargs")
        if not found.keys() & _DRAWN:  # greedy unless asked, as without vLLM
            found["temperature"] = 0.0
        base, _, preset = str(found.get("model") or self.settings.name).partition(":")
        steering = found.pop("steering") if "steering" in found else self._preset(preset)
        found["model"] = base
        document = read_steering(steering, self.settings.limits)
        if document["interventions"]:
            found["vllm_xargs"] = {**given, "steersman": json.dumps(document)}
        return found

    def _preset(self, name: str) -> Any:
        if not name:
            return None
        steering = self.presets.get(name)
        if steering is None:
            raise ApiError(
                404, "model_not_found", f"there is no preset {name[:140]!r}{did_you_mean(name, self.presets.names())}",
                param="model",
            )  # fmt: skip
        return steering

    async def passed(self, request: Request, method: str, path: str, **content: Any) -> Response:
        """What vLLM answers, as it comes; when the client goes, vLLM is told so."""

        async def ask() -> httpx.Response:
            try:
                return await self.client.send(self.client.build_request(method, path, **content), stream=True)
            except httpx.TimeoutException:
                raise ApiError(504, "timeout", "vLLM did not answer in time") from None
            except httpx.HTTPError as error:
                raise ApiError(502, "upstream_unreachable", f"vLLM cannot be reached: {type(error).__name__}") from None

        answer = await unless_gone(request, ask)
        if answer is None:
            return Response(status_code=499)
        kind = answer.headers.get("content-type", "application/json")
        return StreamingResponse(_chunks(answer), answer.status_code, media_type=kind)


async def _chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_bytes():
            yield chunk
    except httpx.HTTPError:
        lost = ApiError(502, "upstream_lost", "vLLM went away")
        yield sse(lost.body()).encode()
    finally:
        await answer.aclose()


def _add_routes(app: FastAPI, proxy: Proxy, gate: Gate, metrics: Metrics) -> None:
    async def generate(request: Request) -> Response:
        try:
            body = await request.json()
        except ValueError as error:
            raise ApiError(400, "invalid_json", f"the body is no JSON: {error}") from None
        return await proxy.passed(request, "POST", request.url.path, json=proxy.translated(body))

    async def models(request: Request) -> Response:
        return await proxy.passed(request, "GET", "/v1/models")

    async def vectors(request: Request) -> Response:
        return await proxy.passed(request, "GET", f"{PREFIX}/vectors")

    async def put(request: Request, name: str) -> Response:
        gate.require_admin(request)
        path = f"{PREFIX}/vectors/{checked_name(name, 'vector')}"
        return await proxy.passed(request, "PUT", path, content=await request.body())

    async def delete(request: Request, name: str) -> Response:
        gate.require_admin(request)
        return await proxy.passed(request, "DELETE", f"{PREFIX}/vectors/{checked_name(name, 'vector')}")

    async def health() -> Json:
        return Json({"status": "ok"})

    async def ready(request: Request) -> Response:
        return await proxy.passed(request, "GET", "/health")

    async def told() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for path in ("/v1/completions", "/v1/chat/completions"):
        app.add_api_route(path, generate, methods=["POST"])
    app.add_api_route("/v1/models", models, methods=["GET"])
    app.add_api_route("/v1/vectors", vectors, methods=["GET"])
    app.add_api_route("/v1/vectors/{name}", put, methods=["PUT"])
    app.add_api_route("/v1/vectors/{name}", delete, methods=["DELETE"])
    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/ready", ready, methods=["GET"])
    app.add_api_route("/metrics", told, methods=["GET"])
