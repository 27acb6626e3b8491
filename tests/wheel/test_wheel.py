"""The wheel, installed where the source is not: what a user gets by ``pip install``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    return next(folder.glob("steersman-*.whl"))


@pytest.fixture(scope="session")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment that has the wheel, and of this one its libraries but not its packages in place.

    A path that a ``.pth`` file names is searched, while ``.pth`` files in it, such as those of editable installations,
    are not read.
    """
    folder = tmp_path_factory.mktemp("venv") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    found = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", str(found / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    own = subprocess.run([found / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                         check=True, capture_output=True, text=True).stdout.strip()  # fmt: skip
    (Path(own) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return found


@pytest.fixture
def run(scripts: Path, tmp_path: Path):
    """``run("steer", "demo")`` in an empty folder, with nothing of the source in reach."""

    def call(*words: str) -> str:
        done = subprocess.run([scripts / words[0], *words[1:]], cwd=tmp_path, env=environment(), capture_output=True,
                              text=True, timeout=300, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STEERSMAN"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "src/steersman"], cwd=ROOT, check=True, capture_output=True, text=True)
    tracked = {name.removeprefix("src/") for name in listed.stdout.split("\n") if name}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == tracked
    assert {"steersman/demo/model/model.safetensors", "steersman/serve/static/index.html", "steersman/py.typed"} < names


def test_what_is_imported_is_the_wheel(run, scripts: Path) -> None:
    found = run("python", "-c", "import sys, steersman; print(steersman.__file__, 'torch' in sys.modules)").split()
    assert Path(found[0]).is_relative_to(scripts.parent)
    assert found[1] == "False"


def test_the_tour_runs(run) -> None:
    tour = run("steer", "demo")
    assert "Steersman on its embedded model" in tour
    assert "chosen" in tour


def test_a_vector_steers_and_the_skill_is_there(run, tmp_path: Path) -> None:
    found = json.loads(
        run("steer", "generate", "demo", "I think the movie was", "-v", "happy:1@8", "--compare", "--json")
    )
    text = json.dumps(found)
    assert found["schema"].startswith("steersman.generate/")
    assert "beautiful" in text
    run("steer", "skill", "install", str(tmp_path))
    assert any(tmp_path.rglob("SKILL.md"))


def test_the_server_answers_and_has_its_page(scripts: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [scripts / "steer", "serve", "demo", "--ui", "--port", str(port), "--vectors", str(tmp_path / "data")]
    server = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            assert server.poll() is None, server.stdout.read().decode()
            try:
                urllib.request.urlopen(f"{url}/ready", timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        body = {"model": "demo", "prompt": "I think the movie was", "max_tokens": 4, "steering": ["happy:1@8"]}
        request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})  # fmt: skip
        answer = json.load(urllib.request.urlopen(request, timeout=60))
        assert "beautiful" in answer["choices"][0]["text"]
        assert b"<script" in urllib.request.urlopen(url, timeout=20).read()
    finally:
        server.terminate()
        server.wait(30)
