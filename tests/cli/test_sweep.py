from __future__ import annotations

import json

import pytest

import steersman as sm
from steersman.sweeping import Sweep

TARGET = ("--positive", " great", "--negative", " awful")


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text(
        "\n".join(f"the {a} {b}" for a in ("good", "bad", "a") for b in ("sea is", "dog was", "day")) + "\n"
    )
    neutral = tmp_path / "neutral.txt"
    neutral.write_text("the weather is good and\na dog was of the sea\n")
    return ("--prompts", file, "--neutral", neutral, "--random", 9, "--strengths", "-1,1,2")


def test_it_chooses_shows_and_saves(steer, model, vectors, prompts, tmp_path) -> None:
    out = tmp_path / "run"
    given = ("sweep", model, "-v", vectors / "glad.safetensors", *TARGET, *prompts, "--max-kl", 100, "--layers", "0-2")
    found = steer(*given, "-o", out)
    assert found.code == 0, found.err
    assert "chosen" in found.out
    assert "asking in words instead" in found.out
    names = {"rows.jsonl", "sweep.json", "report.html", "heatmap.svg", "dose.svg", "plan.safetensors", "run.json"}
    assert {file.name for file in out.iterdir()} == names
    saved = Sweep.load(out / "sweep.json")
    best = saved.best(100)
    plan = sm.Plan.load(out / "plan.safetensors")
    assert (plan[0].strength, list(plan[0].layers)) == (best.strength, [best.layer])
    again = steer(*given, "-o", out, "--json").json
    assert again["best"]["layer"] == best.layer
    assert [row["effect"] for row in again["rows"]] == [row.effect for row in saved]
    other = steer(*given, "-o", out, "--seed", 5)
    assert other.code == 2
    assert "seed" in other.err


def test_a_dry_run_counts_and_writes_nothing(steer, model, vectors, prompts, tmp_path) -> None:
    out = tmp_path / "run"
    found = steer(
        "sweep", model, "-v", vectors / "glad.safetensors", *TARGET, *prompts, "-o", out, "--dry-run", "--json"
    )
    document = json.loads(found.out)
    assert document["cells"] == 9
    assert document["control_cells"] == 3 * 2 * 9
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "no target"),
        (TARGET, "no prompts"),
    ],
)
def test_what_is_missing_is_said(steer, model, vectors, given, words) -> None:
    found = steer("sweep", model, "-v", vectors / "glad.safetensors", *given)
    assert found.code == 2
    assert words in found.err
