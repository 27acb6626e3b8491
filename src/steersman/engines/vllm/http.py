"""Routes of vLLM's server: the vectors that requests may name, what a spec comes to, and what the engine has steered.

The entry point ``vllm.endpoint_plugins``; vLLM loads it only if ``VLLM_PLUGINS`` names ``steersman_http`` (and then
also ``steersman``). Whoever reaches the server may use the routes: put them behind the same gate as the rest of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

from ...errors import SpecError, SteersmanError, UnknownVectorError
from ...registry import MAX_BYTES, Registry
from .requests import FrontEnd

PREFIX = "/v1/steersman"


class SteersmanEndpoints:
    """``GET /v1/steersman/vectors``; ``GET``, ``PUT``, ``DELETE /v1/steersman/vectors/NAME`` and ``GET .../file``;
    ``POST /v1/steersman/plan`` with a spec; ``GET /v1/steersman/stats``.
    """

    name = "steersman_http"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self.front: FrontEnd | None = None
        self.engine: Any = None
        self._lock = threading.Lock()

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Take the engine, and a front end over the vectors that it was started with."""
        from .engine import front_end

        self.engine = engine_client
        self.front = front_end(engine_client.vllm_config)

    @property
    def registry(self) -> Registry:
        """The vectors; SpecError where the engine has no folder of them."""
        found = self._front.compiler.registry
        if found is None:
            raise SpecError("this server has no folder of vectors; start it with STEERSMAN_VECTORS=<folder>")
        return found

    @property
    def _front(self) -> FrontEnd:
        assert self.front is not None, "init_state comes first"
        return self.front

    def _alone(self, work: Callable[..., Any], *given: Any) -> Any:
        with self._lock:
            return work(*given)

    def described(self, name: str | None = None) -> Any:
        """What is known of one vector, or of all."""
        shape = self._front.compiler.shape
        return {"vectors": self.registry.described(shape)} if name is None else self.registry.describe(name, shape)

    def put(self, name: str, content: bytes) -> Any:
        """Store a file under a name."""
        self.registry.put(name, content)
        return self.described(name)

    def delete(self, name: str) -> Any:
        """Forget a name."""
        self.registry.delete(name)
        return {"deleted": name}

    def plan(self, document: Any) -> Any:
        """What a spec comes to on this model, with the vectors as they are now; refused where the engine would."""
        if not isinstance(document, dict):
            raise SpecError('the body must be a spec: {"interventions": [...]}')
        return self._front.told(cast("dict[str, Any]", document))

    def attach_router(self, app: Any) -> None:
        """Add the routes."""
        from fastapi import Request
        from fastapi.responses import FileResponse, JSONResponse
        from starlette.concurrency import run_in_threadpool

        def refused(status: int, message: str) -> JSONResponse:
            error = {"message": message, "type": "BadRequestError", "param": "steersman", "code": status}
            return JSONResponse({"error": error}, status_code=status)

        async def answered(work: Callable[..., Any], *given: Any) -> Any:
            try:
                return await run_in_threadpool(self._alone, work, *given)
            except UnknownVectorError as error:
                return refused(404, str(error))
            except SteersmanError as error:
                return refused(400, str(error))

        async def vectors() -> Any:
            return await answered(self.described)

        async def vector(name: str) -> Any:
            return await answered(self.described, name)

        async def file(name: str) -> Any:
            return await answered(lambda: FileResponse(self.registry.path(name), media_type="application/octet-stream"))

        async def put(name: str, request: Any) -> Any:
            content = bytearray()
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_BYTES:
                    return refused(413, f"a vector has at most {MAX_BYTES} bytes")
            return await answered(self.put, name, bytes(content))

        async def delete(name: str) -> Any:
            return await answered(self.delete, name)

        async def plan(request: Any) -> Any:
            try:
                document = await request.json()
            except ValueError as error:
                return refused(400, f"the body is no JSON: {error}")
            return await answered(self.plan, document)

        async def stats() -> Any:
            return {"workers": await self.engine.collective_rpc("steersman_stats")}

        put.__annotations__ = {"name": str, "request": Request}
        plan.__annotations__ = {"request": Request}
        for route in (vectors, stats):
            route.__annotations__.pop("return", None)
        for route in (vector, file, delete):
            route.__annotations__ = {"name": str}
        one = f"{PREFIX}/vectors/{{name}}"
        app.add_api_route(f"{PREFIX}/vectors", vectors, methods=["GET"])
        app.add_api_route(one, vector, methods=["GET"])
        app.add_api_route(f"{one}/file", file, methods=["GET"], response_class=FileResponse)
        app.add_api_route(one, put, methods=["PUT"])
        app.add_api_route(one, delete, methods=["DELETE"])
        app.add_api_route(f"{PREFIX}/plan", plan, methods=["POST"])
        app.add_api_route(f"{PREFIX}/stats", stats, methods=["GET"])
