"""Each export, used: it does what the request did."""

from __future__ import annotations

import io
import json
import shlex
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from tests.serve.conftest import Live

import steersman as sm
from steersman.cli import run as steer

PROMPT = "I think the movie was"
BODY: dict[str, Any] = {"steering": ["happy:1@8"], "text": PROMPT, "max_tokens": 8}


def _export(live: Live, form: str, **changes: Any) -> Any:
    with live.http() as client:
        answer = client.post("/v1/export", json=BODY | {"format": form} | changes)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.fixture
def there(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the vectors' files, in which one works."""
    with live.http() as client:
        for name in ("happy", "formal"):
            (tmp_path / f"{name}.safetensors").write_bytes(client.get(f"/v1/vectors/{name}/file").content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _expected(live: Live, **settings: Any) -> str:
    return live.model.generate(PROMPT, steer=sm.Add(live.vector("happy"), layers=8), max_new_tokens=8, **settings)


def test_python_runs(live: Live, there: Path) -> None:
    for more in ({}, {"temperature": 0.8, "seed": 5}):
        said = io.StringIO()
        with redirect_stdout(said):
            exec(_export(live, "python", **more).text, {})
        assert said.getvalue() == _expected(live, **more) + "\n"


@pytest.mark.parametrize("form", ["cli", "recipe"])
def test_commands_run(live: Live, there: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    text = _export(live, form).text
    if form == "recipe":
        (there / "recipe.toml").write_text(text)
        text = text.splitlines()[0].removeprefix("# ")
    words = shlex.split(text)
    assert words[:2] == ["steer", "generate"]
    assert steer([*words[1:], "--json", "--offline"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["steered"] == _expected(live)


def test_what_the_command_line_cannot_say_goes_by_a_plan(
    live: Live, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steering = {"interventions": [{"vector": "happy", "layers": [8], "strength": [0.0, 1.0, 2.0]}]}
    (there / "plan.safetensors").write_bytes(_export(live, "safetensors", steering=steering).content)
    words = shlex.split(_export(live, "cli", steering=steering).text.splitlines()[-1])
    assert steer([*words[1:], "--json", "--offline"]) == 0
    with live.http() as client:
        body = {"prompt": PROMPT, "max_tokens": 8, "steering": steering}
        text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    assert json.loads(capsys.readouterr().out)["results"][0]["steered"] == text


@pytest.mark.parametrize("chat", [False, True])
def test_curl_asks_the_same(live: Live, chat: bool) -> None:
    changes = {"text": None, "messages": [{"role": "user", "content": 'It\'s "good"?'}]} if chat else {}
    words = shlex.split(_export(live, "curl", **changes).text.replace("\\\n", " "))
    assert words[0] == "curl"
    with live.http() as client:
        document = json.loads(words[words.index("-d") + 1])
        answer = client.post(words[1].removeprefix(live.url), json=document).json()["choices"][0]
    if chat:
        asked = [{"role": "user", "content": 'It\'s "good"?'}]
        plan = sm.Add(live.vector("happy"), layers=8)
        assert answer["message"]["content"] == live.model.generate(asked, steer=plan, max_new_tokens=8)
    else:
        assert answer["text"] == _expected(live)


def test_files_load(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "plan.safetensors"
    path.write_bytes(_export(live, "safetensors").content)
    assert sm.Plan.load(path) == sm.Plan(sm.Add(live.vector("happy"), layers=8))
    everywhere = {"interventions": [{"vector": "happy", "layers": [8], "positions": "all"}]}
    path = tmp_path / "plan.gguf"
    path.write_bytes(_export(live, "gguf", steering=everywhere).content)
    assert sm.SteeringVector.load(path).layers == (8,)
    assert _export(live, "spec").json() == {"interventions": [{"vector": "happy", "strength": 1.0, "layers": [8]}]}


def test_exports_that_cannot_be(live: Live, unswept: str) -> None:
    with live.http() as client:
        for change, status, code in (
            ({"format": "gguf"}, 400, "unsupported"),
            ({"format": "html", "steering": {unswept: 1}}, 409, "not_measured"),
            ({"format": "safetensors", "steering": None}, 400, "invalid_steering"),
            ({"format": "exe"}, 400, "invalid_value"),
        ):  # fmt: skip
            answer = client.post("/v1/export", json=BODY | change)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
