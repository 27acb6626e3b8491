"""In front of vLLM: what leaves for it is what the plugin's own front end reads.

vLLM itself needs an environment of its own (see tests/vllm); in its place stands a server with the plugin's real routes
and the plugin's reading of requests, which generates with the reference engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from tests.serve.conftest import PATIENCE, demo

import steersman as sm
from steersman.engines.vllm.http import SteersmanEndpoints
from steersman.engines.vllm.requests import spec_in
from steersman.errors import SteersmanError
from steersman.serve import Settings
from steersman.serve.running import bound, in_thread, server
from steersman.serve.vllm import create_proxy


def _upstream(folder: Path) -> FastAPI:
    app, plugin = FastAPI(), SteersmanEndpoints()
    config = SimpleNamespace(additional_config={"steersman": {"vectors": str(folder)}})
    asyncio.run(plugin.init_state(SimpleNamespace(vllm_config=config), None, None))
    plugin.attach_router(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "demo"}]}

    @app.post("/v1/completions")
    async def completions(request: Request) -> Any:
        body = await request.json()
        try:
            document = spec_in(body.get("vllm_xargs"))
            assert plugin.registry is not None
            plan = None if document is None else sm.Plan.from_spec(document, plugin.registry)
        except SteersmanError as error:
            return JSONResponse({"error": {"message": str(error)}}, 400)
        text = demo().generate(body["prompt"], steer=plan, max_new_tokens=body["max_tokens"])
        if body.get("stream"):
            return StreamingResponse(
                iter([f"data: {word}\n\n" for word in text.split()]), media_type="text/event-stream"
            )
        return {"model": body["model"], "choices": [{"text": text}], "keys": sorted(body), "body": body}

    return app


@pytest.fixture(scope="module")
def proxied(stocked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = Settings(tmp_path_factory.mktemp("before"), port=0, name="demo")
    behind = bound(settings)
    upstream = uvicorn.Server(uvicorn.Config(_upstream(stocked), log_level="warning"))
    port = behind.getsockname()[1]
    with in_thread(upstream, behind):
        listening = bound(settings)
        own = replace(settings, port=listening.getsockname()[1])
        app = create_proxy(own, f"http://127.0.0.1:{port}")
        app.state.proxy.presets.put("happy", {"interventions": [{"vector": "happy", "layers": [8]}]})
        with (
            in_thread(server(app, own), listening),
            httpx.Client(
                base_url=f"http://127.0.0.1:{own.port}", timeout=PATIENCE, verify=False, trust_env=False
            ) as client,
        ):
            yield client


BODY: dict[str, Any] = {"model": "demo", "prompt": "I think the movie was", "max_tokens": 8}


@pytest.mark.parametrize("change", [
    {"steering": ["happy:1@8"]}, {"model": "demo:happy"},
    {"steering": {"interventions": [{"vector": "happy", "layers": [8]}]}, "vllm_xargs": {"other": 1}},
])  # fmt: skip
def test_steering_reaches_the_plugin(proxied: httpx.Client, stocked: Path, change: dict[str, Any]) -> None:
    vector = sm.SteeringVector.load(stocked / "happy.safetensors")
    answer = proxied.post("/v1/completions", json=BODY | change).json()
    assert answer["choices"][0]["text"] == demo().generate(
        BODY["prompt"], steer=sm.Add(vector, layers=8), max_new_tokens=8
    )
    assert answer["model"] == "demo"
    assert answer["keys"] == ["max_tokens", "model", "prompt", "temperature", "vllm_xargs"]


def test_without_steering_nothing_is_added(proxied: httpx.Client) -> None:
    for change in ({}, {"model": "demo:happy", "steering": None}):
        answer = proxied.post("/v1/completions", json=BODY | change).json()
        assert answer["choices"][0]["text"] == demo().generate(BODY["prompt"], max_new_tokens=8)
        assert "vllm_xargs" not in answer["keys"]


def test_it_is_greedy_unless_asked(proxied: httpx.Client) -> None:
    assert proxied.post("/v1/completions", json=BODY).json()["body"]["temperature"] == 0
    for change in ({"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}):
        sent = proxied.post("/v1/completions", json=BODY | change).json()["body"]
        assert sent.get("temperature") == change.get("temperature")
        assert sent.items() >= change.items()


def test_streams_and_refusals_pass_through(proxied: httpx.Client) -> None:
    stream = proxied.post("/v1/completions", json=BODY | {"stream": True})
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert len(stream.text.split("\n\n")) > 3
    refused = proxied.post("/v1/completions", json=BODY | {"steering": {"nobody": 1}})
    assert (refused.status_code, "nobody" in refused.text) == (400, True)


@pytest.mark.parametrize(("change", "status", "code"), [
    ({"baseline": True}, 400, "unsupported"), ({"vllm_xargs": {"steersman": "{}"}}, 400, "invalid_value"),
    ({"vllm_xargs": {"steersman_vector": "happy"}}, 400, "invalid_value"),
    ({"model": "demo:hapy"}, 404, "model_not_found"),
    ({"steering": {"happy": 1e9}}, 400, "strength_too_large"), ({"steering": 3}, 400, "invalid_steering"),
])  # fmt: skip
def test_what_does_not_reach_vllm(proxied: httpx.Client, change: dict[str, Any], status: int, code: str) -> None:
    answer = proxied.post("/v1/completions", json=BODY | change)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_vectors_are_those_of_vllm(proxied: httpx.Client, stocked: Path, tmp_path: Path) -> None:
    content = (stocked / "happy.safetensors").read_bytes()
    assert {"happy", "formal"} <= {one["name"] for one in proxied.get("/v1/vectors").json()["vectors"]}
    assert proxied.put("/v1/vectors/copied", content=content).status_code == 200
    assert proxied.delete("/v1/vectors/copied").status_code == 200
    assert proxied.put("/v1/vectors/..%2fx", content=content).status_code in (400, 404)
    assert proxied.get("/ready").status_code == proxied.get("/v1/models").status_code == 200


def test_a_server_that_is_not_there_is_502(tmp_path: Path) -> None:
    settings = Settings(tmp_path, port=0, name="demo")
    listening = bound(settings)
    own = replace(settings, port=listening.getsockname()[1])
    with in_thread(server(create_proxy(own, "http://127.0.0.1:9"), own), listening):
        answer = httpx.post(
            f"http://127.0.0.1:{own.port}/v1/completions", json=BODY, trust_env=False, verify=False, timeout=PATIENCE
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unreachable")
