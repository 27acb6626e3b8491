"""``--engine vllm``: the same API in front of a vLLM server with the plugin.

``steering``, presets, baselines and keys are this server's; generation, batching and vectors are vLLM's. The plugin
says what a plan comes to and refuses what it cannot do; then the spec goes along as ``vllm_xargs``.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.middleware import Middleware

from .. import __version__
from ..engines.vllm.http import PREFIX
from . import arms
from .arms import Arm, Understood
from .completions import unless_gone
from .errors import ApiError, Json, did_you_mean, missing
from .handling import add_handlers
from .metrics import Metrics
from .middleware import Guard
from .security import Gate
from .settings import Settings
from .steering import read_steering
from .upstream import Upstream, lines
from .vector_routes import PresetRequest
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
    room = httpx.Limits(max_connections=None, max_keepalive_connections=settings.limits.connections)
    client = httpx.AsyncClient(base_url=upstream, headers=headers, timeout=timeout, limits=room, trust_env=False)
    proxy = Proxy(settings, Upstream(client))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        yield
        await client.aclose()

    app = FastAPI(
        title="Steersman before vLLM", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        default_response_class=Json, middleware=[Middleware(Guard, gate=gate, limits=settings.limits, metrics=metrics)],
    )  # fmt: skip
    app.state.gate, app.state.proxy = gate, proxy
    add_handlers(app)
    _add_generation(app, proxy)
    _add_vectors(app, proxy, gate)
    _add_presets(app, proxy, gate)
    _add_health(app, proxy, metrics)
    return app


@dataclass(frozen=True, eq=False)
class Asked:
    """What vLLM is asked for a request.

    Attributes:
        arms: the answers that it wants.
        bodies: the request for each.
        name: of the model, as it was said.
        stream, usage: whether it wants a stream, and the usage at its end.
    """

    arms: Sequence[Arm]
    bodies: Sequence[Mapping[str, Any]]
    name: str
    stream: bool
    usage: bool


class Proxy:
    """Turns requests into vLLM's."""

    def __init__(self, settings: Settings, upstream: Upstream) -> None:
        self.settings, self.upstream = settings, upstream
        self.presets = Presets(settings.folder / "presets")

    async def read(self, body: Any) -> Asked:
        """What vLLM is to be asked.

        Raises:
            ApiError, SteersmanError: steering that makes no sense, or keys that would reach the engine unchecked.
        """
        if not isinstance(body, Mapping):
            raise ApiError(400, "invalid_value", "the body is no object")
        found = dict(cast("Mapping[str, Any]", body))
        baseline, shown = bool(found.pop("baseline", False)), bool(found.get("return_token_ids"))
        others = found.get("vllm_xargs") or {}
        if not isinstance(others, Mapping) or any(str(name).startswith("steersman") for name in others):
            raise ApiError(400, "invalid_value", "say it in steering, not in vllm_xargs", param="vllm_xargs")
        name = str(found.get("model") or self.settings.name)
        found["model"], _, preset = name.partition(":")
        if "steering" in found:
            preset, steering = "", found.pop("steering")
        else:
            steering = await self.preset(preset) if preset else None
        _make_comparable(found, baseline)
        spec, understood = await self.plan(steering)
        usage = _wants_usage(found)
        steered = found | ({"vllm_xargs": {**others, "steersman": json.dumps(spec)}} if spec else {})
        all_arms = [Arm("steered", replace(understood, preset=preset or None), shown=shown)]
        if baseline:
            all_arms.append(Arm("baseline", Understood(), first=_rows(found), shown=shown))
        return Asked(all_arms, [steered, found][: len(all_arms)], name, bool(found.get("stream")), usage)

    async def plan(self, steering: Any) -> tuple[Mapping[str, Any] | None, Understood]:
        """The spec of what a request says, over digests, and what it comes to; None for nothing."""
        document = read_steering(steering, self.settings.limits)
        return await self.upstream.plan(document) if document["interventions"] else (None, Understood())

    async def preset(self, name: str) -> Any:
        """The steering of a preset: one that is stored, or a vector with a chosen layer.

        Raises:
            ApiError: 404 when there is neither.
        """
        steering = self.presets.get(name)
        if steering is not None:
            return steering
        own = await self.preset_names()
        if name in own:
            return [name]
        raise ApiError(
            404, "model_not_found", f"there is no preset {name[:140]!r}{did_you_mean(name, own)}", param="model"
        )

    async def preset_names(self) -> list[str]:
        """The presets there are."""
        try:
            found = await self.vectors()
        except ApiError as error:
            if error.status != 400:  # it is, of a vLLM that has no folder of vectors
                raise
            found = []
        own = {one["name"] for one in found if one.get("layer") is not None and one.get("fits")}
        return sorted({*self.presets.names(), *own})

    async def vectors(self) -> list[dict[str, Any]]:
        """What is known of each vector."""
        return (await self.upstream.json("GET", f"{PREFIX}/vectors"))["vectors"]

    async def models(self) -> list[dict[str, Any]]:
        """vLLM's models, and the presets of the one that this server is for."""
        found: list[dict[str, Any]] = (await self.upstream.json("GET", "/v1/models"))["data"]
        own = self.settings.name
        base = next((one for one in found if one["id"] == own), None)
        names = [] if base is None else await self.preset_names()
        return [
            *({**one, "preset": None} for one in found),
            *({**(base or {}), "id": f"{own}:{name}", "preset": name} for name in names),
        ]

    async def whole(self, asked: Asked, path: str) -> dict[str, Any]:
        """The answer to a request, at once."""
        asking = [asyncio.ensure_future(self.upstream.json("POST", path, json=body)) for body in asked.bodies]
        try:
            return arms.whole(asked.arms, await asyncio.gather(*asking), asked.name)
        finally:
            for one in asking:  # where one is refused, nobody wants the other
                one.cancel()

    async def begin(self, asked: Asked, path: str) -> AsyncGenerator[str]:
        """The answer to a request as a stream, which vLLM has taken on.

        Raises:
            ApiError: it refuses.
        """
        stack = AsyncExitStack()
        try:
            answers = [
                await stack.enter_async_context(self.upstream.open("POST", path, json=body)) for body in asked.bodies
            ]
        except BaseException:
            await stack.aclose()
            raise
        return _closing(stack, arms.streamed(asked.arms, [lines(one) for one in answers], asked.name, asked.usage))


async def _closing(stack: AsyncExitStack, chunks: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """A stream that lets go of what it is read from when it is closed."""
    async with stack, aclosing(chunks):
        async for chunk in chunks:
            yield chunk


def _make_comparable(body: dict[str, Any], baseline: bool) -> None:
    """Greedy unless asked, as without vLLM; and if drawn, by both arms from one seed."""
    if not body.keys() & _DRAWN:
        body["temperature"] = 0.0
    elif baseline and body.get("seed") is None:
        body["seed"] = secrets.randbelow(2**31)
    if not body.get("echo"):  # with token ids, vLLM would echo those alone
        body["return_token_ids"] = True


def _wants_usage(body: dict[str, Any]) -> bool:
    """Whether a stream is to end with its usage; vLLM is asked for it either way, to be added up."""
    if not body.get("stream"):
        return False
    options = body.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise ApiError(400, "invalid_value", "stream_options is an object", param="stream_options")
    wanted = bool(cast("Mapping[str, Any]", options).get("include_usage"))
    body["stream_options"] = {**options, "include_usage": True}
    return wanted


def _rows(body: Mapping[str, Any]) -> int:
    """How many choices an arm has."""
    prompt, n = body.get("prompt"), body.get("n")
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    each = n if isinstance(n, int) and n > 0 else 1
    return each * (len(cast("list[Any]", prompt)) if several else 1)


def _add_generation(app: FastAPI, proxy: Proxy) -> None:
    async def generate(request: Request) -> Response:
        try:
            body = await request.json()
        except ValueError as error:
            raise ApiError(400, "invalid_json", f"the body is no JSON: {error}") from None
        path = request.url.path
        asked = await proxy.read(body)
        if asked.stream:
            chunks = await unless_gone(request, lambda: proxy.begin(asked, path))
            if chunks is not None:
                return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        else:
            found = await unless_gone(request, lambda: proxy.whole(asked, path))
            if found is not None:
                return Json(found)
        return Response(status_code=499)

    async def models() -> Json:
        return Json({"object": "list", "data": await proxy.models()})

    async def model(model: str) -> Json:
        known = {one["id"]: one for one in await proxy.models()}
        if model not in known:
            raise ApiError(
                404, "model_not_found", f"there is no model {model[:140]!r}{did_you_mean(model, known)}", param="model"
            )
        return Json(known[model])

    for path in ("/v1/completions", "/v1/chat/completions"):
        app.add_api_route(path, generate, methods=["POST"])
    app.add_api_route("/v1/models", models, methods=["GET"])
    app.add_api_route("/v1/models/{model:path}", model, methods=["GET"])


def _add_vectors(app: FastAPI, proxy: Proxy, gate: Gate) -> None:
    def of(name: str) -> str:
        return f"{PREFIX}/vectors/{checked_name(name, 'vector')}"

    async def vectors() -> Json:
        return Json({"object": "list", "data": await proxy.vectors()})

    async def vector(name: str) -> Json:
        return Json(await proxy.upstream.json("GET", of(name)))

    async def file(name: str) -> Response:
        async with proxy.upstream.open("GET", f"{of(name)}/file") as answer:
            content = await answer.aread()
        told = {"Content-Disposition": f'attachment; filename="{name}.safetensors"'}
        return Response(content, media_type="application/octet-stream", headers=told)

    async def put(request: Request, name: str) -> Json:
        gate.require_admin(request)
        return Json(await proxy.upstream.json("PUT", of(name), content=await request.body()))

    async def delete(request: Request, name: str) -> Json:
        gate.require_admin(request)
        await proxy.upstream.json("DELETE", of(name))
        return Json({"id": name, "object": "vector.deleted", "deleted": True})

    app.add_api_route("/v1/vectors", vectors, methods=["GET"])
    app.add_api_route("/v1/vectors/{name}", vector, methods=["GET"])
    app.add_api_route("/v1/vectors/{name}/file", file, methods=["GET"])
    app.add_api_route("/v1/vectors/{name}", put, methods=["PUT"])
    app.add_api_route("/v1/vectors/{name}", delete, methods=["DELETE"])


def _add_presets(app: FastAPI, proxy: Proxy, gate: Gate) -> None:
    store = proxy.presets

    def listed(name: str) -> dict[str, Any]:
        return {"name": name, "object": "preset", "steering": store.get(name)}

    async def presets() -> Json:
        return Json({"object": "list", "data": [listed(name) for name in store.names()]})

    async def put(request: Request, name: str, body: PresetRequest) -> Json:
        gate.require_admin(request)
        checked_name(name, "preset")
        document = read_steering(body.steering, proxy.settings.limits)
        if not document["interventions"]:
            raise ApiError(400, "invalid_steering", "a preset has to steer; this does nothing", param="steering")
        await proxy.upstream.plan(document)
        store.put(name, document)
        return Json(listed(name))

    async def delete(request: Request, name: str) -> Json:
        gate.require_admin(request)
        if name not in store.names():
            raise missing("preset", name, store.names())
        store.delete(name)
        return Json({"id": name, "object": "preset.deleted", "deleted": True})

    app.add_api_route("/v1/presets", presets, methods=["GET"])
    app.add_api_route("/v1/presets/{name}", put, methods=["PUT"])
    app.add_api_route("/v1/presets/{name}", delete, methods=["DELETE"])


def _add_health(app: FastAPI, proxy: Proxy, metrics: Metrics) -> None:
    async def health() -> Json:
        return Json({"status": "ok"})

    async def ready() -> Json:
        async with proxy.upstream.open("GET", "/health"):
            return Json({"status": "ready"})

    async def said() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/ready", ready, methods=["GET"])
    app.add_api_route("/metrics", said, methods=["GET"])
