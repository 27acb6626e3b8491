"""The judge against a server on the loopback that speaks the protocol, well and badly."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from steersman.errors import DataError, JudgeError
from steersman.evaluation import Judge, Sampling


class Stub(ThreadingHTTPServer):
    """Rates a text by how often it says "good": ten points each. ``plan`` holds what to do with the next requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict[str, Any]] = []
        self.plan: list[Any] = []
        self.wait = "0"
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append({"path": self.path, "headers": dict(self.headers), **body})
            step = self.server.plan.pop(0) if self.server.plan else None
        if isinstance(step, float):
            time.sleep(step)
        if isinstance(step, int):
            self.answer(
                {"error": {"message": "not now", "type": "x", "code": "y"}}, step, {"Retry-After": self.server.wait}
            )
            return
        if isinstance(step, bytes):
            self.raw(step, 200, {})
            return
        text = re.search(r"<text>\n(.*)\n</text>", body["messages"][1]["content"], re.DOTALL)
        content = step if isinstance(step, str) else str(10 * text[1].count("good"))
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        self.answer({"id": "c", "object": "chat.completion", "model": body["model"], "choices": [choice]}, 200, {})

    def answer(self, document: dict[str, Any], status: int, headers: dict[str, str]) -> None:
        self.raw(json.dumps(document).encode(), status, headers)

    def raw(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        try:
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the judge has given up waiting
            pass

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Stub]:
    stub = Stub()
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield stub
    stub.shutdown()
    thread.join()
    stub.server_close()


def judge(server: Stub, **more: Any) -> Judge:
    return Judge(server.url, "rater", "approval", **({"retries": 2, "workers": 1} | more))


def test_each_text_is_rated_in_its_own_request(server, monkeypatch) -> None:
    monkeypatch.setenv("STEERSMAN_JUDGE_KEY", "secret")
    found = judge(server, workers=3).score_texts(["a", "b", "c"], ["good", "good good", "bad"])
    assert found.tolist() == [10, 20, 0]
    for request in server.seen:
        assert request["path"] == "/v1/chat/completions"
        assert request["headers"]["Authorization"] == "Bearer secret"
        assert (request["model"], request["temperature"]) == ("rater", 0)
        assert [m["role"] for m in request["messages"]] == ["system", "user"]
        assert "approval" in request["messages"][0]["content"]
    assert "secret" not in repr(judge(server, key="secret"))
    assert "secret" not in json.dumps(judge(server, key="secret").describe())


@pytest.mark.parametrize("failure", [429, 503, 500, "no idea", "70 or 80", "-4", "400", b"<html>", b"{}"])
def test_what_may_pass_is_tried_again_and_only_so_often(server, failure) -> None:
    server.plan = [failure, failure]
    assert judge(server).score_texts(["a"], ["good"]).tolist() == [10]
    assert len(server.seen) == 3
    server.plan = [failure] * 9
    with pytest.raises(JudgeError, match="failed 3 times"):
        judge(server).score_texts(["a"], ["good"])
    assert len(server.seen) == 6


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_will_not_pass_is_raised_at_once(server, status: int) -> None:
    server.plan = [status]
    with pytest.raises(JudgeError, match=f"status {status}.*not now"):
        judge(server).score_texts(["a"], ["good"])
    assert len(server.seen) == 1


def test_a_server_that_hangs_is_given_up(server) -> None:
    server.plan = [1.5, 1.5]
    start = time.perf_counter()
    with pytest.raises(JudgeError, match="failed 2 times"):
        judge(server, timeout=0.1, retries=1).score_texts(["a"], ["good"])
    assert time.perf_counter() - start < 1.4


def test_a_server_that_asks_for_time_gets_it(server) -> None:
    server.plan, server.wait = [429, 429], "0.15"
    start = time.perf_counter()
    assert judge(server).score_texts(["a"], ["good"]).tolist() == [10]
    assert time.perf_counter() - start >= 0.3


def test_nobody_there_is_said(server) -> None:
    url = "http://127.0.0.1:9/v1"
    with pytest.raises(JudgeError, match=r"127\.0\.0\.1:9.*failed 1 times"):
        Judge(url, "rater", "approval", retries=0).score_texts(["a"], ["b"])


def test_it_measures_a_model(server, gpt2) -> None:
    target = judge(server, sampling=Sampling(texts=1, max_new_tokens=4, temperature=None))
    found = target.measure(gpt2, ["Paris is good"])
    assert found.values[0] == 10 * found.texts[0].count("good")
    assert target.in_words() == "Answer in a way that shows this: approval."


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://x"},
        {"url": "file:///etc/passwd"},
        {"trait": " "},
        {"rubric": "rate"},
        {"retries": -1},
        {"timeout": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(DataError):
        Judge(**({"url": "http://127.0.0.1:1/v1", "model": "m", "trait": "t"} | wrong))
