"""Many requests at once: each gets what it gets alone, room is bounded, and what nobody waits for is let go."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tests.serve.conftest import PATIENCE, Live, demo, serving

import steersman as sm
from steersman.model.decoding import Decoding
from steersman.serve import Settings, create_app
from steersman.serve.running import bound, in_thread, server

PROMPTS = ["I think the movie was", "The weather today is", "My day was", "The food at the restaurant was good and",
           "Paris is", "He gave the book to"]  # fmt: skip
STEERING: list[Any] = [
    None,
    {"interventions": [{"vector": "happy", "layers": [8]}]},
    {"interventions": [{"vector": "formal", "layers": [7], "strength": -1.0}]},
    {"interventions": [{"vector": "happy", "layers": [5, 6], "strength": [0.0, 1.0, 2.0]},
                       {"operation": "ablate", "vector": "formal", "layers": [4]}]},
    {"interventions": [{"vector": "happy", "layers": [9], "when": {"vector": "happy", "layer": 8, "above": 0.0}}]},
]  # fmt: skip


def test_64_streams_at_once_are_each_what_they_are_alone(live: Live) -> None:
    draw = random.Random(0)
    asked = [
        (draw.choice(PROMPTS), draw.randrange(len(STEERING)), draw.randrange(1, 16), bool(number % 2))
        for number in range(64)
    ]
    vectors = {name: live.vector(name) for name in ("happy", "formal")}

    def ask(one: tuple[str, int, int, bool]) -> str:
        prompt, plan, tokens, stream = one
        body = {"prompt": prompt, "max_tokens": tokens, "steering": STEERING[plan], "stream": stream}
        answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        if not stream:
            return answer.json()["choices"][0]["text"]
        lines = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        return "".join(line["choices"][0]["text"] for line in lines)

    every = httpx.Limits(max_connections=64)
    with ThreadPoolExecutor(64) as pool, live.http(limits=every) as client:
        found = list(pool.map(ask, asked))
    expected: dict[Any, str] = {}
    for one in asked:
        if one[:3] not in expected:
            steering = STEERING[one[1]]
            plan = None if steering is None else sm.Plan.from_spec(steering, vectors)
            expected[one[:3]] = live.model.generate(one[0], steer=plan, max_new_tokens=one[2])
    assert found == [expected[one[:3]] for one in asked]
    rows = live.state.metrics.registry.get_sample_value
    assert rows("steersman_joined_rows_sum") > rows("steersman_joined_rows_count")  # pyright: ignore[reportOperatorIssue]


@pytest.fixture(scope="module")
def slow_and_fast(stocked: Path) -> Iterator[tuple[Live, Live]]:
    """A server whose streams say nothing between their first text and their last, and one that says each token."""
    with serving(stocked, limits={"interval": 600.0}) as slow, serving(stocked, limits={"interval": 0.0}) as fast:
        yield slow, fast


@pytest.mark.parametrize(
    "more", [{}, {"stop": ["The movie", "was", "\n"]}, {"logprobs": 1}, {"temperature": 1.0, "seed": 3}]
)
def test_tokens_that_are_fast_travel_together_and_nothing_else_changes(
    slow_and_fast: tuple[Live, Live], more: dict[str, Any]
) -> None:
    body = {"prompt": PROMPTS[:3], "max_tokens": 10, "stream": True, "stream_options": {"include_usage": True}, **more}
    found: list[list[dict[str, Any]]] = []
    whole: dict[str, Any] = {}
    for live in slow_and_fast:
        with live.http() as client:
            client.post("/v1/completions", json=body)  # from then on, the slow one has spoken
            lines = client.post("/v1/completions", json=body).text.splitlines()
            found.append([json.loads(line[6:]) for line in lines if line.startswith("data: {")])
            whole = client.post("/v1/completions", json={k: v for k, v in body.items() if "stream" not in k}).json()
    for own in found:
        assert own[-1]["usage"] == whole["usage"]
        for index, expected in enumerate(whole["choices"]):
            said = [choice for chunk in own for choice in chunk["choices"] if choice["index"] == index]
            assert "".join(one["text"] for one in said) == expected["text"]
            assert said[-1]["finish_reason"] == expected["finish_reason"]
            if "logprobs" in more:
                tokens = [token for one in said if one["logprobs"] for token in one["logprobs"]["tokens"]]
                assert tokens == expected["logprobs"]["tokens"]
    # the first text and the last, and the chunk that says why it ended
    assert all(_chunks(found[0], index) <= 3 for index in range(3))
    assert sum(_chunks(found[1], index) for index in range(3)) > 9


def _chunks(found: list[dict[str, Any]], index: int) -> int:
    return sum(choice["index"] == index for chunk in found for choice in chunk["choices"])


def test_answers_are_sent_at_once(stocked: Path) -> None:
    """Not held back until what was sent before is acknowledged, which clients do after 40 ms."""
    settings = Settings(stocked, port=0, name="demo")
    listening = bound(settings)
    made = server(create_app(demo(), settings), settings)
    with in_thread(made, listening), httpx.Client(trust_env=False, verify=False) as client:
        assert client.get(f"http://127.0.0.1:{listening.getsockname()[1]}/health").status_code == 200
        (connection,) = made.server_state.connections
        own = connection.transport.get_extra_info("socket")  # pyright: ignore[reportOptionalMemberAccess]
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_client_that_goes_frees_its_row(live: Live) -> None:
    running = lambda: live.state.metrics.registry.get_sample_value("steersman_running_rows")  # noqa: E731
    for whole in (False, True):
        asked = {"prompt": PROMPTS[0], "max_tokens": 200, "ignore_eos": True, "stream": not whole}
        content = json.dumps(asked).encode()
        with socket.create_connection(("127.0.0.1", live.port), timeout=PATIENCE) as connection:
            head = (
                "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(content)}\r\n\r\n"
            )
            connection.sendall(head.encode() + content)
            _until(lambda: running() == 1)
            if not whole:
                assert connection.recv(100)
        produced = _produced(live)
        _until(lambda: running() == 0)
        assert _produced(live) - produced < 150


def _produced(live: Live) -> float:
    return live.state.metrics.registry.get_sample_value("steersman_generated_tokens_total") or 0.0


def _until(held: Any, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not held():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_thousands_of_requests_are_refused_in_bounded_memory(stocked: Path) -> None:
    """The engine is held up; what does not fit in the queue is refused at once, and the server then answers again."""
    gate = threading.Event()
    held = _Held(gate)
    with serving(stocked, limits={"batch": 2, "queue": 8}) as live, held:
        body = {"prompt": PROMPTS[0], "max_tokens": 1}
        with ThreadPoolExecutor(24) as pool, live.http(limits=httpx.Limits(max_connections=None)) as client:
            first = [pool.submit(client.post, "/v1/completions", json=body) for _ in range(12)]
            _until(lambda: live.state.metrics.registry.get_sample_value("steersman_waiting_rows") == 8)
            before = _memory()
            many = [client.post("/v1/completions", json=body) for _ in range(1000)]
            grown = _memory() - before
            assert {answer.status_code for answer in many} == {429}
            assert many[0].json()["error"]["code"] == "queue_full"
            assert 1 <= int(many[0].headers["Retry-After"]) <= 60
            assert client.get("/health").status_code == 200
            gate.set()
            codes = sorted(future.result().status_code for future in first)
        assert grown < 64 * 1024 * 1024
        assert codes.count(200) >= 8
        with live.http() as client:
            assert client.post("/v1/completions", json=body).status_code == 200


class _Held:
    """Prompts are run only when the gate is open."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate, self.join = gate, Decoding.join

    def __enter__(self) -> None:
        join, gate = self.join, self.gate

        def slow(decoding: Any, prompts: Any, steer: Any) -> Any:
            gate.wait(PATIENCE)
            return join(decoding, prompts, steer)

        Decoding.join = slow  # pyright: ignore[reportAttributeAccessIssue]

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        Decoding.join = self.join


def _memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_what_takes_too_long_is_504(stocked: Path) -> None:
    with serving(stocked, limits={"timeout": 0.3}) as live, live.http() as client:
        body = {"prompt": PROMPTS[0], "max_tokens": 240, "ignore_eos": True}
        late = client.post("/v1/completions", json=body)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        events = client.post("/v1/completions", json=body | {"stream": True}).text
        assert json.loads(events.splitlines()[-2].removeprefix("data: "))["error"]["code"] == "timeout"


@pytest.mark.parametrize("when", ["join", "step"])
def test_out_of_memory_is_503_and_the_server_goes_on(live: Live, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    body = {"prompt": PROMPTS[0], "max_tokens": 3}
    with live.http() as client:
        with monkeypatch.context() as patch:
            patch.setattr(Decoding, when, fail)
            answer = client.post("/v1/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "out_of_memory")
        again = client.post("/v1/completions", json=body)
        assert again.json()["choices"][0]["text"] == live.model.generate(PROMPTS[0], max_new_tokens=3)


def test_nothing_stays_hooked(live: Live) -> None:
    _until(lambda: live.state.metrics.registry.get_sample_value("steersman_running_rows") == 0)
    _until(lambda: not any(m._forward_hooks or m._forward_pre_hooks for m in demo().hf.modules()))
