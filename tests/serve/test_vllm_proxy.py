"""In front of vLLM: what leaves for it is what the plugin's own front end reads.

vLLM itself needs an environment of its own (see tests/vllm); in its place stands a server with the plugin's real routes
and the plugin's reading of requests, which generates with the reference engine.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
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
    config = SimpleNamespace(
        additional_config={"steersman": {"vectors": str(folder)}},
        model_config=SimpleNamespace(hf_text_config=demo().hf.config, model="demo"),
        scheduler_config=SimpleNamespace(max_num_seqs=8, max_num_batched_tokens=64),
        parallel_config=SimpleNamespace(pipeline_parallel_size=1), speculative_config=None,
    )  # fmt: skip
    asyncio.run(plugin.init_state(SimpleNamespace(vllm_config=config), None, None))
    plugin.attach_router(app)
    app.state.asked, app.state.open = [], 0

    async def slowly(event: Any) -> AsyncIterator[str]:
        app.state.open += 1
        try:
            for _ in range(100_000):
                yield f"data: {json.dumps(event)}\n\n"
                await asyncio.sleep(0.02)
        finally:
            app.state.open -= 1

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "demo", "object": "model"}]}

    @app.post("/v1/completions")
    async def completions(request: Request) -> Any:
        body = await request.json()
        app.state.asked.append(body)
        try:
            document = spec_in(body.get("vllm_xargs"))
            plan = None if document is None else sm.Plan.from_spec(document, plugin.registry)
        except SteersmanError as error:
            return JSONResponse({"error": {"message": str(error), "param": "steersman", "code": 400}}, 400)
        if body["max_tokens"] > 100:
            return JSONResponse({"error": {"message": "too long", "param": "max_tokens", "code": 400}}, 400)
        model, prompts = demo(), body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        found = []
        for index, prompt in enumerate(prompts):
            text = model.generate(prompt, steer=plan, max_new_tokens=body["max_tokens"])
            ids = {}
            if body.get("return_token_ids"):
                ids = {"prompt_token_ids": model.tokens.encode(prompt),
                       "token_ids": model.tokenizer.encode(text, add_special_tokens=False)}  # fmt: skip
            found.append({"index": index, "text": text, "logprobs": None, "finish_reason": "length", **ids})
        usage = {"prompt_tokens": 5 * len(prompts), "completion_tokens": 7 * len(prompts), "total_tokens": 0}
        head = {"id": f"cmpl-{len(app.state.asked)}", "object": "text_completion", "created": 1, "model": "demo"}
        if not body.get("stream"):
            return head | {"choices": found, "usage": usage}
        events: list[dict[str, Any]] = [head | {"choices": [piece]} for choice in found for piece in _pieces(choice)]
        if body["max_tokens"] == 98:
            return StreamingResponse(slowly(events[0]), media_type="text/event-stream")
        if body["max_tokens"] == 99:
            events = [*events[:2], {"error": {"message": "the engine died", "code": 500}}]
        elif body["stream_options"]["include_usage"]:
            events.append(head | {"choices": [], "usage": usage})
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        return StreamingResponse(iter([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream")

    return app


def _pieces(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks of a choice, as vLLM sends them: the prompt's tokens with the first."""
    words = choice["text"].split(" ")
    for number, word in enumerate(words):
        last = number == len(words) - 1
        yield {
            **choice, "text": word if last else f"{word} ", "finish_reason": "length" if last else None,
            "prompt_token_ids": None if number else choice.get("prompt_token_ids"),
            "token_ids": choice["token_ids"][number:] if last else choice["token_ids"][number : number + 1],
        }  # fmt: skip
        if not number:
            yield {**choice, "text": "", "finish_reason": None, "token_ids": [], "prompt_token_ids": None}


class Before:
    """The server in front, and what reached the one behind."""

    def __init__(self, http: httpx.Client, behind: FastAPI) -> None:
        self.http, self.behind = http, behind

    def ask(self, **more: Any) -> Any:
        self.behind.state.asked.clear()
        return self.http.post("/v1/completions", json=BODY | more).json()

    @property
    def asked(self) -> list[dict[str, Any]]:
        return self.behind.state.asked


@pytest.fixture(scope="module")
def before(stocked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    settings = Settings(tmp_path_factory.mktemp("before"), port=0, name="demo")
    behind = _upstream(stocked)
    socket = bound(settings)
    port = socket.getsockname()[1]
    with in_thread(uvicorn.Server(uvicorn.Config(behind, log_level="warning")), socket):
        listening = bound(settings)
        own = replace(settings, port=listening.getsockname()[1])
        app = create_proxy(own, f"http://127.0.0.1:{port}")
        with in_thread(server(app, own), listening), _client(own) as client:
            steering = {"interventions": [{"vector": "happy", "layers": [8]}]}
            client.put("/v1/presets/eight", json={"steering": steering}).raise_for_status()
            yield Before(client, behind)


def _client(settings: Settings) -> httpx.Client:
    url = f"http://127.0.0.1:{settings.port}"
    return httpx.Client(base_url=url, timeout=PATIENCE, verify=False, trust_env=False)


BODY: dict[str, Any] = {"model": "demo", "prompt": "I think the movie was", "max_tokens": 8}
PLAIN = {"digest": None, "preset": None, "interventions": []}


def steered(stocked: Path, layer: int = 8) -> str:
    vector = sm.SteeringVector.load(stocked / "happy.safetensors")
    return demo().generate(BODY["prompt"], steer=sm.Add(vector, layers=layer), max_new_tokens=8)


def events(answer: httpx.Response) -> list[Any]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    *found, done = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(line) for line in found]


@pytest.mark.parametrize("change", [
    {"steering": ["happy:1@8"]}, {"model": "demo:eight"}, {"steering": {"interventions": [{"vector": "happy",
     "layers": [8]}]}, "vllm_xargs": {"other": 1}},
])  # fmt: skip
def test_steering_reaches_the_plugin_by_digest(before: Before, stocked: Path, change: dict[str, Any]) -> None:
    answer = before.ask(**change)
    (choice,) = answer["choices"]
    assert choice["text"] == steered(stocked)
    (sent,) = before.asked
    assert sorted(sent) == ["max_tokens", "model", "prompt", "return_token_ids", "temperature", "vllm_xargs"]
    assert sent["vllm_xargs"].get("other") == change.get("vllm_xargs", {}).get("other")
    digest = before.http.get("/v1/vectors/happy").json()["digest"]
    assert json.loads(sent["vllm_xargs"]["steersman"])["interventions"][0]["vector"] == digest
    assert answer["model"] == change.get("model", "demo")
    assert "token_ids" not in choice


def test_a_choice_says_what_was_applied_as_the_other_engine_does(before: Before, live: Any) -> None:
    ablated = {"vector": "happy", "operation": "ablate", "layers": [8]}
    partly = {"vector": "formal", "strength": -1, "positions": "prompt[1:]+generation[0:2]"}
    for steering in (["happy:1@8"], {"interventions": [ablated]}, ["happy:2@6", partly]):
        answer = before.ask(steering=steering)
        assert "choices" in answer, answer
        found = answer["choices"][0]["steering"]
        with live.http() as client:
            alone = client.post("/v1/completions", json=BODY | {"steering": steering}).json()
        other = alone["choices"][0]["steering"]
        assert found["digest"] == other["digest"]
        for mine, theirs in zip(found["interventions"], other["interventions"], strict=True):
            generated = theirs["tokens"]["generation"] - mine["tokens"]["generation"]
            assert mine | {"tokens": theirs["tokens"]} == theirs
            assert mine["tokens"]["prompt"] == theirs["tokens"]["prompt"]
            assert generated in (0, 1)  # an end of text has no text, and so no token in this server's place
    conditional = {"vector": "happy", "when": {"vector": "formal", "layer": 7, "above": 0.0}, "layers": [9]}
    (told,) = before.ask(steering={"interventions": [conditional]})["choices"][0]["steering"]["interventions"]
    assert (told["tokens"], told["layers"]) == (None, [9])


def test_without_steering_nothing_is_added(before: Before) -> None:
    for change in ({}, {"model": "demo:happy", "steering": None}):
        (choice,) = before.ask(**change)["choices"]
        assert choice["text"] == demo().generate(BODY["prompt"], max_new_tokens=8)
        assert (choice["steering"], choice["arm"]) == (PLAIN, "steered")
        assert "vllm_xargs" not in before.asked[0]


def test_a_baseline_is_a_second_request_of_the_same_seed(before: Before, stocked: Path) -> None:
    answer = before.ask(steering=["happy:1@8"], baseline=True, prompt=[BODY["prompt"], "The song was"])
    plain = [demo().generate(prompt, max_new_tokens=8) for prompt in (BODY["prompt"], "The song was")]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [choice["arm"] for choice in answer["choices"]] == ["steered"] * 2 + ["baseline"] * 2
    assert answer["choices"][0]["text"] == steered(stocked) != plain[0]
    assert [choice["text"] for choice in answer["choices"][2:]] == plain
    assert answer["choices"][2]["steering"] == PLAIN
    assert answer["usage"] == {"prompt_tokens": 10, "completion_tokens": 28, "total_tokens": 38}
    before.ask(steering=["happy:1@8"], baseline=True, temperature=0.7)
    one, other = before.asked
    assert one["seed"] == other["seed"]
    before.ask(steering=["happy:1@8"], baseline=True, temperature=0.7, seed=5)
    assert [sent["seed"] for sent in before.asked] == [5, 5]


@pytest.mark.parametrize("usage", [False, True])
def test_streams_come_as_one(before: Before, stocked: Path, usage: bool) -> None:
    asked = BODY | {"steering": ["happy:1@8"], "baseline": True, "stream": True}
    asked |= {"stream_options": {"include_usage": True}} if usage else {}
    found = events(before.http.post("/v1/completions", json=asked))
    texts, last = {0: "", 1: ""}, {}
    for chunk in found[: -1 if usage else None]:
        assert ("usage" in chunk) == usage
        (choice,) = chunk["choices"]
        assert "token_ids" not in choice
        assert choice["text"] or choice["finish_reason"]
        assert ("steering" in choice) == bool(choice["finish_reason"])
        texts[choice["index"]] += choice["text"]
        last[choice["arm"]] = choice
    assert texts == {0: steered(stocked), 1: demo().generate(BODY["prompt"], max_new_tokens=8)}
    (told,) = last["steered"]["steering"]["interventions"]
    whole = before.ask(steering=["happy:1@8"])["choices"][0]["steering"]["interventions"][0]
    assert told == whole
    assert told["tokens"]["prompt"] == 1
    assert last["baseline"]["steering"] == PLAIN
    assert len({(chunk["id"], chunk["model"]) for chunk in found}) == 1
    if usage:
        assert found[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 14, "total_tokens": 19}


def test_an_error_ends_a_stream(before: Before) -> None:
    answer = before.http.post("/v1/completions", json=BODY | {"stream": True, "max_tokens": 99})
    *_, last = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert last["error"]["message"] == "the engine died"


@pytest.mark.parametrize("read", [0, 3])
def test_a_client_that_goes_ends_vllms_work(before: Before, read: int) -> None:
    asked = BODY | {"steering": ["happy:1@8"], "baseline": True, "stream": True, "max_tokens": 98}
    with before.http.stream("POST", "/v1/completions", json=asked) as answer:
        lines = answer.iter_lines()
        for _ in range(read):
            next(lines)
        _until(before, 2)
    _until(before, 0)


def _until(before: Before, streams: int) -> None:
    """Wait for that many streams of vLLM's to be open."""
    until = time.monotonic() + PATIENCE
    while before.behind.state.open != streams and time.monotonic() < until:
        time.sleep(0.02)
    assert before.behind.state.open == streams


def test_it_is_greedy_unless_asked(before: Before) -> None:
    before.ask()
    assert before.asked[0]["temperature"] == 0
    for change in ({"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}):
        before.ask(**change)
        (sent,) = before.asked
        assert sent.get("temperature") == change.get("temperature")
        assert sent.items() >= change.items()


@pytest.mark.parametrize(("change", "status", "code"), [
    ({"vllm_xargs": {"steersman": "{}"}}, 400, "invalid_value"),
    ({"vllm_xargs": {"steersman_vector": "happy"}}, 400, "invalid_value"),
    ({"model": "demo:hapy"}, 404, "model_not_found"), ({"steering": {"hapy": 1}}, 404, "vector_not_found"),
    ({"steering": {"happy": 1e9}}, 400, "strength_too_large"), ({"steering": 3}, 400, "invalid_steering"),
    ({"steering": ["happy:1@99"]}, 400, "invalid_steering"), ({"stream": True, "stream_options": 3}, 400,
     "invalid_value"), ({"steering": {"interventions": [{"vector": "happy", "operation": "rotate", "angle": 1.0,
     "layers": [8], "plane": "formal"}]}}, 400, "invalid_steering"), ({"max_tokens": 101}, 400, "invalid_value"),
])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_refusals(before: Before, change: dict[str, Any], status: int, code: str, stream: bool) -> None:
    before.behind.state.asked.clear()
    answer = before.http.post("/v1/completions", json=BODY | {"stream": stream} | change)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert bool(before.asked) == ("max_tokens" in change)  # the rest never reaches the engine
    assert "hapy" not in str(change) or "'happy'" in answer.json()["error"]["message"]


def test_vectors_are_those_of_vllm(before: Before, stocked: Path, live: Any) -> None:
    client, content = before.http, (stocked / "happy.safetensors").read_bytes()
    with live.http() as other:
        assert client.get("/v1/vectors").json() == other.get("/v1/vectors").json()
        assert client.get("/v1/vectors/happy").json() == other.get("/v1/vectors/happy").json()
        assert client.get("/v1/vectors/nobody").status_code == other.get("/v1/vectors/nobody").status_code == 404
    assert client.get("/v1/vectors/happy/file").content == content
    assert client.put("/v1/vectors/copied", content=content).json()["name"] == "copied"
    assert client.delete("/v1/vectors/copied").json()["deleted"] is True
    assert client.delete("/v1/vectors/copied").status_code == 404
    assert client.put("/v1/vectors/..%2fx", content=content).status_code in (400, 404)
    assert client.put("/v1/vectors/bad", content=b"x" * 64).status_code == 400


def test_presets_are_models(before: Before) -> None:
    client = before.http
    assert {one["id"] for one in client.get("/v1/models").json()["data"]} == {
        "demo", "demo:eight", "demo:happy", "demo:formal"
    }  # fmt: skip
    assert client.get("/v1/models/demo:eight").json()["preset"] == "eight"
    assert client.get("/v1/models/demo:nine").status_code == 404
    assert [one["name"] for one in client.get("/v1/presets").json()["data"]] == ["eight"]
    for steering in (None, ["happy:1@99"], ["nobody:1"]):
        assert client.put("/v1/presets/bad", json={"steering": steering}).status_code in (400, 404)
    client.put("/v1/presets/nine", json={"steering": ["happy:1@9"]}).raise_for_status()
    told = before.ask(model="demo:nine")["choices"][0]["steering"]
    assert (told["preset"], told["interventions"][0]["layers"]) == ("nine", [9])
    assert client.delete("/v1/presets/nine").json()["deleted"] is True
    assert client.delete("/v1/presets/nine").status_code == 404
    assert client.get("/ready").json() == {"status": "ready"}


def test_a_server_that_is_not_there_or_has_no_plugin_is_502(tmp_path: Path) -> None:
    settings = Settings(tmp_path, port=0, name="demo")
    stock = bound(settings)
    with in_thread(uvicorn.Server(uvicorn.Config(FastAPI(), log_level="warning")), stock):
        for port, code in ((9, "upstream_unreachable"), (stock.getsockname()[1], "upstream_unsteered")):
            listening = bound(settings)
            own = replace(settings, port=listening.getsockname()[1])
            with (
                in_thread(server(create_proxy(own, f"http://127.0.0.1:{port}"), own), listening), _client(own) as client
            ):  # fmt: skip
                answer = client.post("/v1/completions", json=BODY | {"steering": ["happy:1@8"]})
                assert (answer.status_code, answer.json()["error"]["code"]) == (502, code)
