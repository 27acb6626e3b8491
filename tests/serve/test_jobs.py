"""Jobs find what the library finds, tell how far they are, can be cancelled, and outlive their server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve.conftest import PATIENCE, Live, demo

import steersman as sm
from steersman import demo as packaged
from steersman.serve.jobs import ATTEMPTS, Context, Jobs, Work
from steersman.serve.metrics import Metrics

POSITIVE = ["I love this", "What a great day", "It is good", "This is wonderful"]
NEGATIVE = ["I hate this", "What a bad day", "It is awful", "This is terrible"]
SWEEP: dict[str, Any] = {
    "vector": "happy", "prompts": ["I think the movie was", "The weather today is"], "positive": [" great"],
    "negative": [" awful"], "layers": [7, 8], "strengths": [-1, 0, 1], "random": 4, "max_kl": 1.0,
    "neutral": ["The book is on the table."],
}  # fmt: skip

ABLATION = {"prompts": ["I love this song. The singer was", "I love this. It was"], "target": " great", "foil": " bad"}


@pytest.fixture(scope="module")
def swept(live: Live) -> dict[str, Any]:
    """A sweep that has succeeded."""
    with live.http() as client:
        answer = client.post("/v1/sweeps", json=SWEEP)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    return live.wait(answer.json()["id"])


def test_an_extraction_is_the_librarys(live: Live) -> None:
    body = {"name": "nice", "positive": POSITIVE, "negative": NEGATIVE, "layers": [3, 8]}
    with live.http() as client:
        job = live.wait(client.post("/v1/extractions", json=body).json()["id"])
        assert job["status"] == "succeeded", job["error"]
        own = sm.extract(demo(), sm.ContrastPairs(positive=POSITIVE, negative=NEGATIVE, name="nice"), layers=[3, 8])
        found = live.vector("nice")
        assert found == own
        assert job["result"]["digest"] == live.state.vectors.digests(["nice"])["nice"]
        assert client.delete("/v1/vectors/nice").status_code == 200
        assert client.delete(f"/v1/jobs/{job['id']}").json()["deleted"] is True
        assert client.get(f"/v1/jobs/{job['id']}").json()["error"]["code"] == "job_not_found"


def test_a_sweep_is_the_librarys(live: Live, swept: dict[str, Any]) -> None:
    assert swept["status"] == "succeeded", swept["error"]
    own = sm.sweep(
        demo(), live.vector("happy"), prompts=SWEEP["prompts"], target=sm.contrast([" great"], [" awful"]),
        layers=[7, 8], strengths=[-1, 0, 1], random=4, neutral=SWEEP["neutral"],
    )  # fmt: skip
    from steersman.serve.job_routes import load_sweep

    found = load_sweep(live.state, live.state.jobs.get(swept["id"]))
    assert [vars(row) for row in found] == [vars(row) for row in own]
    best = own.best(1.0)
    assert (swept["result"]["best"]["layer"], swept["result"]["best"]["strength"]) == (best.layer, best.strength)
    assert set(swept["result"]["repetition"]) <= {"7", "8", "10"}


def test_the_band_is_what_the_sweep_measured(live: Live, swept: dict[str, Any]) -> None:
    with live.http() as client:
        for budget in (1e-6, 0.03, 1.0):
            found = client.get("/v1/vectors/happy/analysis", params={"max_kl": budget, "max_repetition": 1}).json()
            for band in found["bands"]:
                rows = {row.strength: row.kl for row in _rows(live, swept) if row.layer == band["layer"]}
                assert band["high"] == (1.0 if rows[1.0] <= budget else 0.0)
                assert band["low"] == (-1.0 if rows[-1.0] <= budget else 0.0)
                assert band["prompts"] == 2
        assert client.get("/v1/vectors/happy/analysis", params={"max_kl": "nan"}).status_code == 400


def _rows(live: Live, job: dict[str, Any]) -> Any:
    from steersman.serve.job_routes import load_sweep

    return load_sweep(live.state, live.state.jobs.get(job["id"]))


def test_events_tell_of_a_job_until_it_ends(live: Live) -> None:
    body = {"name": "told", "positive": POSITIVE, "negative": NEGATIVE, "layers": [3]}
    with live.http() as client:
        job = client.post("/v1/extractions", json=body).json()["id"]
        with client.stream("GET", f"/v1/jobs/{job}/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in answer.iter_lines() if line]
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        assert events[-1]["status"] == "succeeded"
        assert [line for line in lines if line.startswith("event: ")][-1] == "event: succeeded"
        client.delete("/v1/vectors/told")


def test_a_job_that_fails_says_why(live: Live) -> None:
    with live.http() as client:
        body = {"name": "same", "positive": ["a b"], "negative": ["a b"]}
        job = live.wait(client.post("/v1/extractions", json=body).json()["id"])
        assert job["status"] == "failed"
        assert "look the same" in job["error"]["message"]
        assert client.get("/v1/vectors/same").status_code == 404


@pytest.mark.parametrize(("path", "body", "status", "code"), [
    ("extractions", {"name": "a", "positive": [], "negative": ["b"]}, 400, "invalid_value"),
    ("extractions", {"name": "../a", "positive": ["a"], "negative": ["b"]}, 400, "invalid_name"),
    ("extractions", {"name": "a", "positive": ["a"], "negative": ["b"], "method": "pickle"}, 400, "invalid_value"),
    ("extractions", {"name": "a", "positive": ["a"], "negative": ["b"], "checkpoint": "/tmp/x"}, 400, "unknown_key"),
    ("sweeps", SWEEP | {"vector": "hapy"}, 404, "vector_not_found"),
    ("sweeps", SWEEP | {"positive": [" great"], "negative": [" great"]}, 400, "invalid_data"),
    ("sweeps", SWEEP | {"rows": "/etc/passwd"}, 400, "unknown_key"),
    ("ablations", {"prompts": ["a"], "target": " b", "foil": " c"}, 400, "invalid_value"),
    ("checkpoints", {"name": "../x", "steering": {"happy": 1}}, 400, "invalid_name"),
    ("checkpoints", {"name": "x", "steering": None}, 400, "invalid_steering"),
])  # fmt: skip
def test_jobs_that_make_no_sense(live: Live, path: str, body: dict[str, Any], status: int, code: str) -> None:
    with live.http() as client:
        answer = client.post(f"/v1/{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


# -- the queue, without a model ---------------------------------------------------------------------------------------


def _jobs(folder: Path, work: Work, limit: int = 8) -> Jobs:
    return Jobs(folder, {"test": work}, limit, Metrics())


def _ended(jobs: Jobs, name: str) -> str:
    until = time.monotonic() + PATIENCE
    while not jobs.get(name).ended:
        assert time.monotonic() < until
        time.sleep(0.002)
    return jobs.get(name).status


def test_jobs_run_one_at_a_time_in_order_and_can_be_cancelled(tmp_path: Path) -> None:
    order: list[Any] = []
    free = {"go": False}

    def work(context: Context) -> dict[str, Any]:
        order.append(context.request["n"])
        while not free["go"]:
            context.progress("waiting", 0, 1)
            time.sleep(0.002)
        return {"n": context.request["n"]}

    jobs = _jobs(tmp_path, work)
    jobs.start()
    names = [jobs.submit("test", {"n": n}).id for n in range(4)]
    assert jobs.cancel(names[2]).status == "cancelled"  # pyright: ignore[reportOptionalMemberAccess]
    while jobs.get(names[0]).status != "running":
        time.sleep(0.002)
    jobs.cancel(names[0])
    assert _ended(jobs, names[0]) == "cancelled"
    free["go"] = True
    assert [_ended(jobs, name) for name in names] == ["cancelled", "succeeded", "cancelled", "succeeded"]
    assert order == [0, 1, 3]
    assert jobs.get(names[3]).result == {"n": 3}
    jobs.stop()


def test_a_stopped_server_leaves_its_job_to_the_next(tmp_path: Path) -> None:
    first = _jobs(tmp_path, _never)
    first.start()
    name = first.submit("test", {}).id
    waiting = first.submit("test", {}).id
    while first.get(name).progress is None:
        time.sleep(0.002)
    first.stop()
    second = _jobs(tmp_path, lambda context: {"done": True})
    assert second.get(name).status == second.get(waiting).status == "queued"
    second.start()
    assert [_ended(second, one) for one in (name, waiting)] == ["succeeded", "succeeded"]
    assert second.get(name).attempts == 1
    second.stop()


def _never(context: Context) -> dict[str, Any]:
    while True:
        context.progress("waiting", 0, 1)
        time.sleep(0.002)


def test_a_job_that_ends_its_server_is_given_up(tmp_path: Path) -> None:
    before = _jobs(tmp_path, _never)
    name = before.submit("test", {}).id
    document = json.loads((tmp_path / name / "job.json").read_text())
    (tmp_path / name / "job.json").write_text(json.dumps(document | {"status": "running", "attempts": ATTEMPTS}))
    jobs = _jobs(tmp_path, _never)
    jobs.start()
    assert _ended(jobs, name) == "failed"
    assert (jobs.get(name).error or {})["code"] == "given_up"
    jobs.stop()


def test_too_many_jobs_are_refused_and_damaged_ones_passed_over(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, _never, limit=2)
    jobs.submit("test", {})
    jobs.submit("test", {})
    with pytest.raises(Exception, match="waiting"):
        jobs.submit("test", {})
    (tmp_path / "job-00000000000-00000000").mkdir()
    (tmp_path / "job-00000000000-00000000" / "job.json").write_text("{")
    assert len(_jobs(tmp_path, _never).all()) == 2


# -- killed -----------------------------------------------------------------------------------------------------------


#: Forks a server for each line, which saves loading everything each time. The jobs of a server stand still half way
#: through what they call ``held``, so that it is certain where it is killed.
_SERVERS = """
import json, os, sys, time
import steersman as sm
from steersman.cli import main
from steersman.serve import create_app
from steersman.serve.jobs import Jobs

sm.demo_model()
become, held = Jobs._become, None

def stand_still(jobs, known, **changes):
    become(jobs, known, **changes)
    told = changes.get("progress")
    if told and held and told["what"].startswith(held) and 2 * told["done"] >= told["of"]:
        time.sleep(3600)

Jobs._become = stand_still
for line in sys.stdin:
    folder, held = json.loads(line)
    if not os.fork():
        print(os.getpid(), flush=True)
        sys.argv[1:] = ["serve", "demo", "--json", "--port", "0", "--vectors", folder]
        main()
"""


@dataclass
class Killable:
    """``steer serve demo`` in a process of its own."""

    process: int
    http: httpx.Client

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.process, signal.SIGKILL)
        _wait(lambda: not self.answers())

    def answers(self) -> bool:
        try:
            return self.http.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def killed_half_way(self, folder: Path, job: str) -> bytes:
        """The rows that a job had measured when its server was killed."""
        _wait(lambda: _half(self.http.get(f"/v1/jobs/{job}").json()["progress"]))
        self.kill()
        assert json.loads((folder / "jobs" / job / "job.json").read_text())["status"] == "running"
        rows = (folder / "jobs" / job / "rows.jsonl").read_bytes()
        assert rows.count(b"\n") > 2
        return rows[: rows.rfind(b"\n") + 1]

    def resumed(self, folder: Path, job: str, before: bytes) -> dict[str, Any]:
        """The job when this server has ended it: what was measured before was not measured again."""
        _wait(lambda: self.http.get(f"/v1/jobs/{job}").json()["status"] in ("succeeded", "failed"))
        found = self.http.get(f"/v1/jobs/{job}").json()
        assert found["status"] == "succeeded", found["error"]
        assert found["attempts"] == 2
        rows = (folder / "jobs" / job / "rows.jsonl").read_bytes()
        assert rows.startswith(before)
        assert len(rows) > len(before)
        keys = [json.loads(line)["key"] for line in rows.splitlines()[1:]]
        assert len(keys) == len(set(keys))
        return found


@contextmanager
def _servers() -> Generator[Callable[..., Killable]]:
    """Starts servers; all are gone afterwards."""
    environment = os.environ | {"PYTHONPATH": str(Path(sm.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    environment.pop("STEERSMAN_API_KEY", None)
    command, pipe = [sys.executable, "-c", _SERVERS], subprocess.PIPE
    started: list[Killable] = []
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        asked, told = nursery.stdin, nursery.stdout

        def start(folder: Path, held: str = "") -> Killable:
            print(json.dumps([str(folder), held]), file=asked, flush=True)
            process, lines = int(told.readline()), [""]
            while lines[-1] != "}\n":
                lines.append(told.readline())
                assert lines[-1], "the server ended"
            url = json.loads("".join(lines))["url"]
            started.append(
                Killable(process, httpx.Client(base_url=url, timeout=PATIENCE, verify=False, trust_env=False))
            )
            _wait(started[-1].answers)
            return started[-1]

        try:
            yield start
        finally:
            for one in started:
                one.kill()
            nursery.kill()


def _half(told: dict[str, Any] | None) -> bool:
    return told is not None and 0 < told["of"] <= 2 * told["done"]


def _wait(held: Any) -> None:
    until = time.monotonic() + PATIENCE
    while not held():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_killed_server_loses_no_vector_and_no_job_and_goes_on_with_the_one_it_was_at(
    live: Live, stocked: Path, swept: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(stocked, folder, ignore=shutil.ignore_patterns("jobs"))
    quick = {"name": "kept", "positive": POSITIVE, "negative": NEGATIVE, "layers": [3]}
    with _servers() as start:
        server = start(folder, "layer")
        done = server.http.post("/v1/extractions", json=quick).json()["id"]
        sweep = server.http.post("/v1/sweeps", json=SWEEP).json()["id"]
        before = server.killed_half_way(folder, sweep)
        vectors = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
        server = start(folder, "heads")
        assert server.http.get(f"/v1/jobs/{done}").json()["status"] == "succeeded"
        assert server.resumed(folder, sweep, before)["result"] == swept["result"]
        ablation = server.http.post("/v1/ablations", json=ABLATION).json()["id"]
        before = server.killed_half_way(folder, ablation)
        server = start(folder)
        found = server.resumed(folder, ablation, before)
        names = {one["name"] for one in server.http.get("/v1/vectors").json()["data"]}
    assert names == {"kept", "happy", "formal"}
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} == vectors
    with live.http() as client:
        undisturbed = live.wait(client.post("/v1/ablations", json=ABLATION).json()["id"])
        study = json.loads((folder / "jobs" / ablation / "study.json").read_text())
        assert study == json.loads((live.state.jobs.folder(undisturbed["id"]) / "study.json").read_text())
    assert found["result"] == undisturbed["result"]


def test_packaged_pairs_are_known_for_packaged_vectors(live: Live) -> None:
    pairs, read = live.state.pairs.get(live.state.vectors.digests(["happy"])["happy"])
    own = packaged.pairs("sentiment")
    assert (list(pairs.positive), list(pairs.negative)) == (list(own.positive), list(own.negative))
    assert read == "last"
