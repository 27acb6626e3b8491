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


def _command_says(capsys: pytest.CaptureFixture[str], words: list[str]) -> Any:
    assert words[0] == "steer"
    assert steer([words[1], "--json", "--offline", *words[2:]]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("prompt", [PROMPT, "--help is what"])
def test_a_command_runs(live: Live, there: Path, capsys: pytest.CaptureFixture[str], prompt: str) -> None:
    found = _command_says(capsys, shlex.split(_export(live, "cli", text=prompt).text))["results"][0]
    assert found["prompt"] == prompt
    assert found["steered"] == live.model.generate(
        prompt, steer=sm.Add(live.vector("happy"), layers=8), max_new_tokens=8
    )


INTRICATE = {"interventions": [
    {"vector": "happy", "layers": {"7": 0.5, "8": 1.0}, "strength": [0.0, 1.0, 2.0], "when":
        {"vector": "happy", "layer": 6, "above": -100.0}},
    {"operation": "ablate", "vector": "formal", "layers": [4], "positions": {"generation": [0, 2]}},
]}  # fmt: skip


@pytest.mark.parametrize("changes", [
    {}, {"steering": INTRICATE}, {"temperature": 0.8, "seed": 5, "top_k": 20}, {"steering": None},
    {"text": 'She said "\\no"\n\t\x7f\u2028 \U0001f600'},
    {"text": None, "messages": [{"role": "user", "content": "How was it?"}]},
    {"text": None, "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "How was it?"}]},
])  # fmt: skip
def test_a_recipe_is_run_and_gives_the_same_texts(
    live: Live, there: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    text = _export(live, "recipe", **changes).text
    (there / "recipe.toml").write_text(text, encoding="utf-8")
    words = text.splitlines()[0].partition(": ")[2].split()
    assert words == ["steer", "run", "recipe.toml"]
    found = _command_says(capsys, words)
    asked = {k: v for k, v in (BODY | changes).items() if v is not None or k == "steering"}
    chat = "messages" in asked
    asked = asked if chat else {"prompt": asked.pop("text"), **asked}
    with live.http() as client:
        answer = client.post(f"/v1/{'chat/' if chat else ''}completions", json=asked | {"baseline": True}).json()
    said = [one["message"]["content"] if chat else one["text"] for one in answer["choices"]]
    row = found["generation"]["results"][0]
    if asked["steering"] is None:
        assert row["unsteered"] == said[0]
    else:
        assert [row["steered"], row["unsteered"]] == said
        assert found["plan"]["digest"] == answer["choices"][0]["steering"]["digest"]


def test_a_recipe_is_about_the_vectors_that_steered_and_no_others_of_that_name(
    live: Live, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (there / "recipe.toml").write_text(_export(live, "recipe").text)
    (live.vector("happy") * 1.01).save(there / "happy.safetensors")
    assert steer(["run", "recipe.toml", "--offline"]) == 2
    assert "happy holds other directions" in " ".join(capsys.readouterr().err.split())
    assert not (there / "recipe").exists()
    (there / "happy.safetensors").unlink()  # the packaged one is the same
    assert _command_says(capsys, ["steer", "run", "recipe.toml"])["generation"]["results"][0]["steered"] == _expected(
        live
    )


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
