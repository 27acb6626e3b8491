"""What ``steer serve`` says before it serves; the server itself is tested in tests/serve."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest


def test_a_dry_run_says_where_and_what(steer: Any, model: str, tmp_path: Path) -> None:
    asked = ("serve", model, "--vectors", tmp_path / "v", "--port", 8123, "--batch", 4, "--dry-run")
    found = steer(*asked)
    assert found.code == 0
    assert "http://127.0.0.1:8123" in found.out
    assert "no key" in found.out
    assert not (tmp_path / "v").exists()
    document = steer(*asked, "--json").json
    assert document["schema"] == "steersman.dry-run/1"
    assert (document["url"], document["batch"], document["keys"]) == ("http://127.0.0.1:8123", 4, False)
    assert document["memory_bytes"]["work"] == 2 * 3 * 4 * 8 * 4 * 256 * 4  # keys and values of 4 rows of 256 tokens


def test_in_front_of_vllm_no_model_is_looked_for(steer: Any, tmp_path: Path) -> None:
    found = steer("serve", "some/model", "--engine", "vllm", "--vectors", tmp_path, "--dry-run", "--json")
    assert found.code == 0
    assert found.json["engine"] == "vllm"


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (("--engine", "vlm"), 2, "use hf or vllm"),
    (("--host", "0.0.0.0"), 2, "has no key"),
    (("--served-name", "a:b"), 2, "names a preset"),
])  # fmt: skip
def test_what_is_refused(
    steer: Any, model: str, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    found = steer("serve", model, "--vectors", tmp_path, *arguments)
    assert found.code == code
    assert says in found.err


def test_keys_come_from_the_environment(steer: Any, model: str, tmp_path: Path) -> None:
    asked = ("serve", model, "--vectors", tmp_path, "--host", "0.0.0.0", "--dry-run", "--json")
    document = steer(*asked, STEERSMAN_API_KEY="long enough").json
    assert document["keys"] is True
    assert steer(*asked, STEERSMAN_API_KEY="short").code == 2


def test_a_port_that_is_taken(steer: Any, model: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = steer("serve", model, "--vectors", tmp_path, "--port", taken.getsockname()[1])
    assert found.code == 1
    assert "another --port" in found.err
