"""Routes of vLLM's server: the vectors that requests may name, and what the engine has steered.

The entry point ``vllm.endpoint_plugins``; vLLM loads it only if ``VLLM_PLUGINS`` names ``steersman_http`` (and then
also ``steersman``). Whoever reaches the server may use the routes: put them behind the same gate as the rest of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import FileFormatError, SpecError, SteersmanError
from ...registry import MAX_BYTES, Registry
from .settings import Settings

PREFIX = "/v1/steersman"


class SteersmanEndpoints:
    """``GET /v1/steersman/vectors``; ``PUT`` and ``DELETE /v1/steersman/vectors/NAME``; ``GET /v1/steersman/stats``."""

    name = "steersman_http"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self.registry: Registry | None = None
        self.engine: Any = None

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Take the engine, and the folder of vectors that it was started with."""
        self.engine = engine_client
        folder = Settings.of(engine_client.vllm_config).vectors
        self.registry = None if folder is None else Registry(Path(folder))

    def attach_router(self, app: Any) -> None:
        """Add the routes."""
        from fastapi import Request
        from fastapi.responses import JSONResponse
        from starlette.concurrency import run_in_threadpool

        def refused(status: int, message: str) -> JSONResponse:
            error = {"message": message, "type": "BadRequestError", "param": "steersman", "code": status}
            return JSONResponse({"error": error}, status_code=status)

        def registry() -> Registry:
            if self.registry is None:
                raise SpecError("this server has no folder of vectors; start it with STEERSMAN_VECTORS=<folder>")
            return self.registry

        async def vectors() -> Any:
            try:
                known = registry()
                return {"vectors": await run_in_threadpool(_described, known)}
            except SteersmanError as error:
                return refused(400, str(error))

        async def put(name: str, request: Any) -> Any:
            content = bytearray()
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_BYTES:
                    return refused(413, f"a vector has at most {MAX_BYTES} bytes")
            try:
                known = registry()
                digest = await run_in_threadpool(known.put, name, bytes(content))
            except SteersmanError as error:
                return refused(400, str(error))
            return {"name": name, "digest": digest}

        async def delete(name: str) -> Any:
            try:
                registry().delete(name)
            except SteersmanError as error:
                return refused(404, str(error))
            return {"deleted": name}

        async def stats() -> Any:
            return {"workers": await self.engine.collective_rpc("steersman_stats")}

        put.__annotations__ = {"name": str, "request": Request}
        for route in (vectors, delete, stats):
            route.__annotations__.pop("return", None)
        delete.__annotations__ = {"name": str}
        app.add_api_route(f"{PREFIX}/vectors", vectors, methods=["GET"])
        app.add_api_route(f"{PREFIX}/vectors/{{name}}", put, methods=["PUT"])
        app.add_api_route(f"{PREFIX}/vectors/{{name}}", delete, methods=["DELETE"])
        app.add_api_route(f"{PREFIX}/stats", stats, methods=["GET"])


def _described(registry: Registry) -> list[dict[str, Any]]:
    """Every vector; one whose file is damaged is listed with what is wrong."""
    found: list[dict[str, Any]] = []
    for name in registry.names():
        try:
            found.append(registry.describe(name))
        except (FileFormatError, SpecError) as error:
            found.append({"name": name, "error": str(error)})
    return found
