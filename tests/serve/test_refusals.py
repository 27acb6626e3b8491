"""What is refused, with which code, and what to do about it."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.serve.conftest import PATIENCE, Live, serving

from steersman.errors import DataError
from steersman.serve import Settings

COMPLETION: dict[str, Any] = {"prompt": "I think", "max_tokens": 2}
HAPPY = {"vector": "happy", "layers": [8]}


@pytest.mark.parametrize(("body", "status", "code", "says"), [
    ({"steerin": {}}, 400, "unknown_key", "did you mean 'steering'"),
    ({"stream": True, "stream_options": {"include_usag": True}}, 400, "unknown_key", "include_usage"),
    ({"prompt": None}, 400, "invalid_value", "prompt"),
    ({"prompt": ""}, 400, "invalid_prompt", "empty"),
    ({"prompt": []}, 400, "invalid_prompt", "no prompt"),
    ({"prompt": [99999]}, 400, "invalid_prompt", "99999"),
    ({"prompt": [-1]}, 400, "invalid_prompt", "-1"),
    ({"prompt": "\ud800"}, 400, "invalid_value", "surrogate"),
    ({"max_tokens": "2"}, 400, "invalid_value", "max_tokens"),
    ({"max_tokens": -1}, 400, "invalid_value", "max_tokens"),
    ({"max_tokens": 255}, 400, "context_length_exceeded", "256 positions"),
    ({"max_tokens": 100_000}, 400, "too_many_tokens", "4096"),
    ({"temperature": float("nan")}, 400, "invalid_value", "temperature"),
    ({"top_p": 0}, 400, "invalid_value", "top_p"),
    ({"n": 2}, 400, "invalid_value", "temperature"),
    ({"n": 32, "temperature": 1, "prompt": ["a"] * 9}, 400, "too_many_rows", "288 rows"),
    ({"stop": ""}, 400, "invalid_value", "empty stop"),
    ({"logit_bias": {"x": 1}}, 400, "invalid_value", "token id"),
    ({"logit_bias": {"99999999999999": 1}}, 400, "invalid_value", "token id"),
    ({"stream_options": {"include_usage": True}}, 400, "invalid_value", "stream"),
    ({"model": "dmo"}, 404, "model_not_found", "did you mean 'demo'"),
    ({"model": "demo:hapy"}, 404, "model_not_found", "did you mean 'demo:happy'"),
    ({"steering": {"hapy": 1}}, 404, "vector_not_found", "did you mean 'happy'"),
    ({"steering": {"../../etc/passwd": 1}}, 404, "vector_not_found", "there is no vector"),
    ({"steering": {"/etc/passwd": 1}}, 404, "vector_not_found", "there is no vector"),
    ({"steering": ["happy:1@99"]}, 400, "steering_mismatch", "13 layers"),
    ({"steering": {"happy": True}}, 400, "invalid_steering", "strength"),
    ({"steering": 3}, 400, "invalid_steering", "int"),
    ({"steering": [3]}, 400, "invalid_steering", "int"),
    ({"steering": {"happy": 1e9}}, 400, "strength_too_large", "1000"),
    ({"steering": {"happy": 1e400}}, 400, "invalid_steering", "finite"),
    ({"steering": {"interventions": [{**HAPPY, "strenght": 1}]}}, 400, "invalid_steering", "did you mean 'strength'"),
    ({"steering": {"interventions": [{"vector": None}]}}, 400, "invalid_steering", "needs 'vector'"),
    ({"steering": {"interventions": [HAPPY] * 17}}, 400, "too_many_interventions", "16"),
    ({"steering": {"interventions": [{**HAPPY, "positions": {"prompt": [0] * 5000}}]}}, 400, "too_many_values", "5000"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, 400, "invalid_value", "1024"),
    ({"prompt": ["a"] * 100_000}, 400, "too_many_rows", "100000"),
    ({"steering": {"interventions": [{**HAPPY, "positions": 'after("zzz")'}]}}, 400, "steering_not_applied", "zzz"),
    ({"steering": {"interventions": [{**HAPPY, "positions": "generation[9:]"}]}}, 400, "steering_not_applied", "9"),
    ({"steering": {"interventions": [{"operation": "custom", "vector": "happy"}]}}, 400, "invalid_steering", "add"),
])  # fmt: skip
def test_a_completion_that_makes_no_sense(live: Live, body: dict[str, Any], status: int, code: str, says: str) -> None:
    with live.http() as client:
        answer = client.post(
            "/v1/completions", content=json.dumps(COMPLETION | body), headers={"Content-Type": "application/json"}
        )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("body", "code"), [
    ({"messages": []}, "invalid_value"),
    ({"messages": [{"role": "wizard", "content": "a"}]}, "invalid_value"),
    ({"messages": [{"role": "user", "content": "a", "nam": "b"}]}, "unknown_key"),
    ({"messages": [{"role": "user", "content": "a"}], "tools": []}, "unknown_key"),
    ({"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2}, "invalid_value"),
    ({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "max_completion_tokens": 1}, "invalid_value"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "unknown_key"),
])  # fmt: skip
def test_a_conversation_that_makes_no_sense(live: Live, body: dict[str, Any], code: str) -> None:
    with live.http() as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 5000, b'{"prompt": 1' + b"0" * 5000 + b"}"]
)
def test_a_body_that_is_no_request(live: Live, content: bytes) -> None:
    with live.http() as client:
        answer = client.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_openais_client_raises_its_own_errors(live: Live) -> None:
    with pytest.raises(openai.BadRequestError, match="did you mean 'steering'"):
        live.openai().completions.create(model="demo", prompt="a", extra_body={"steerng": 1})
    with pytest.raises(openai.NotFoundError):
        live.openai().completions.create(model="nobody", prompt="a")


def test_keys_and_scopes(stocked: Path) -> None:
    with serving(stocked, api_key="reading-key", admin_key="admin-key-1") as live:
        for key, status in ((None, 401), ("wrong-key", 401), ("reading-ke", 401), ("reading-key", 200),
                            ("admin-key-1", 200)):  # fmt: skip
            with live.http(key) as client:
                assert client.get("/v1/models").status_code == status
                assert client.post("/v1/completions", json=COMPLETION).status_code == status
                assert client.get("/metrics").status_code == status
                assert client.get("/health").status_code == 200
                assert client.get("/ready").status_code == 200
        with live.http("reading-key") as client:
            for answer in (
                client.put("/v1/vectors/a", content=b""), client.delete("/v1/vectors/happy"),
                client.put("/v1/presets/a", json={"steering": {"happy": 1}}), client.delete("/v1/presets/happy"),
                client.post("/v1/extractions", json={"name": "a", "positive": ["a"], "negative": ["b"]}),
                client.delete("/v1/jobs/job-1"),
            ):  # fmt: skip
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "admin_required")
        with pytest.raises(openai.AuthenticationError):
            live.openai("wrong-key").models.list()


def test_without_an_admin_key_nobody_changes_a_server_with_a_key(stocked: Path) -> None:
    with serving(stocked, api_key="reading-key") as live, live.http("reading-key") as client:
        assert client.delete("/v1/vectors/happy").status_code == 403


def test_another_host_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no key"):
        Settings(tmp_path, host="0.0.0.0")
    assert Settings(tmp_path, host="0.0.0.0", api_key="long enough").addressed
    with pytest.raises(DataError, match="at least 8"):
        Settings(tmp_path, api_key="short")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "", "localhost.evil.example", "[::2]"])
def test_requests_for_another_name_are_refused(live: Live, host: str) -> None:
    with live.http() as client:
        answer = client.get("/v1/models", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "unknown_host")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "LOCALHOST:80", "[::1]:80"])
def test_names_of_this_machine_are_its_own(live: Live, host: str) -> None:
    with live.http() as client:
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_are_refused(live: Live) -> None:
    with live.http() as client:
        other = client.post("/v1/completions", json=COMPLETION, headers={"Origin": "https://evil.example"})
        assert (other.status_code, other.json()["error"]["code"]) == (403, "cross_origin")
        own = client.post("/v1/completions", json=COMPLETION, headers={"Origin": live.url})
        assert own.status_code == 200
        assert not [name for name in own.headers if name.startswith("access-control")]
        plain = client.post("/v1/completions", content=json.dumps(COMPLETION), headers={"Content-Type": "text/plain"})
        assert plain.status_code == 400


def test_bodies_that_are_too_large(live: Live) -> None:
    size = live.settings.limits.body
    with live.http() as client:
        declared = client.post("/v1/completions", json={"prompt": "a" * (size + 1)})
        chunked = client.post(
            "/v1/completions", content=(b"a" * 65536 for _ in range(size // 65536 + 2)),
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        for answer in (declared, chunked):
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert client.get("/health").status_code == 200


def _answered(port: int, *parts: bytes, pause: float = 0.05, seconds: float = PATIENCE) -> bytes:
    """What a server says to someone who speaks slowly; empty when it hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break
            time.sleep(pause)
        found = b""
        while chunk := _received(connection):
            found += chunk
        return found


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionError:
        return b""


def test_slow_clients_are_let_go(stocked: Path) -> None:
    limits = {"body_seconds": 0.4, "header_seconds": 0.4}
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
    )
    with serving(stocked, limits=limits) as live:
        assert _answered(live.port) == b""  # says nothing
        assert _answered(live.port, *[bytes([c]) for c in head[:12]], pause=0.1) == b""  # its head never ends
        slow = _answered(live.port, head + b"\r\n", *[b" "] * 8, pause=0.1)  # its body never ends
        assert slow.startswith(b"HTTP/1.1 408")
        assert b"request_timeout" in slow
        with live.http() as client:
            assert client.post("/v1/completions", json=COMPLETION).status_code == 200


def test_heads_that_are_too_large(live: Live) -> None:
    found = _answered(live.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000)
    assert found.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431")) or found == b""


def test_unknown_routes_and_methods(live: Live) -> None:
    with live.http() as client:
        for answer, status, code in (
            (client.get("/v1/nothing"), 404, "not_found"), (client.get("/v1/completions"), 405, "method_not_allowed"),
            (client.get("/etc/passwd"), 404, "not_found"), (client.get("/docs"), 404, "not_found"),
        ):  # fmt: skip
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
