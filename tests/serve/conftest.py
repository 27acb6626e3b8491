"""A real server on loopback, in a thread of the test's process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import steersman as sm
from steersman.serve import Limits, Settings, create_app
from steersman.serve.packaged import prepare
from steersman.serve.running import bound, in_thread, server
from steersman.serve.state import State

#: Seconds that a test waits for what is to come, on however busy a machine.
PATIENCE = 900.0


@cache
def demo() -> sm.SteeringModel:
    return sm.demo_model()


@dataclass
class Live:
    """A server that runs."""

    url: str
    port: int
    settings: Settings
    app: Any
    model: sm.SteeringModel

    @property
    def state(self) -> State:
        return self.app.state.steersman

    def http(self, key: str | None = None, **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(
            base_url=self.url, headers=headers, timeout=PATIENCE, verify=False, trust_env=False, **options
        )

    def openai(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key, max_retries=0,
            http_client=httpx.Client(timeout=PATIENCE, verify=False, trust_env=False),
        )  # fmt: skip

    def vector(self, name: str) -> Any:
        return self.state.vectors.vector(name)

    def wait(self, job: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The job when it has ended."""
        until = time.monotonic() + seconds
        with self.http() as client:
            while time.monotonic() < until:
                found = client.get(f"/v1/jobs/{job}").json()
                if found["status"] in ("succeeded", "failed", "cancelled"):
                    return found
                time.sleep(0.05)
        raise AssertionError(f"{job} has not ended")


@contextmanager
def serving(
    folder: Path, model: sm.SteeringModel | None = None, limits: dict[str, Any] | None = None, **options: Any
) -> Iterator[Live]:
    """A server while the context is open."""
    model = model or demo()
    settings = Settings(
        folder, port=0, name="demo", limits=Limits(**({"timeout": PATIENCE} | (limits or {}))), **options
    )
    listening = bound(settings)
    settings = replace(settings, port=listening.getsockname()[1])
    app = create_app(model, settings)
    with in_thread(server(app, settings), listening):
        yield Live(f"http://127.0.0.1:{settings.port}", settings.port, settings, app, model)


@pytest.fixture(scope="session")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packaged vectors."""
    folder = tmp_path_factory.mktemp("stocked")
    prepare(demo(), Settings(folder, name="demo"))
    return folder


@pytest.fixture(scope="session")
def live(stocked: Path) -> Iterator[Live]:
    """A server without keys, with the packaged vectors. Shared: leave it as you find it."""
    with serving(stocked) as found:
        yield found


@pytest.fixture
def unswept(live: Live, tmp_path: Path) -> Iterator[str]:
    """The name of a vector that no sweep was made of, on the shared server while the test runs."""
    (live.vector("formal") * 0.5).save(tmp_path / "unswept.safetensors")
    with live.http() as client:
        client.put("/v1/vectors/unswept", content=(tmp_path / "unswept.safetensors").read_bytes()).raise_for_status()
        yield "unswept"
        client.delete("/v1/vectors/unswept").raise_for_status()
