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


def test_first_stages_say_what_they_dropped(steer, model, vectors, prompts, tmp_path) -> None:
    given = ("sweep", model, "-v", vectors / "glad.safetensors", *TARGET, *prompts, "--max-kl", 100, "--layers", "0-2",
             "--screen", 2, "--halving", 1)  # fmt: skip
    found = steer(*given, "-o", tmp_path / "run")
    assert found.code == 0, found.err
    assert "first-order screening on 4 tuning items kept 2 of 3 layers and dropped layer" in found.out
    assert "halving on 1 tuning item dropped 3 of 6 cells" in found.out
    assert "First stage: first-order screening" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    document = steer(*given, "-o", tmp_path / "run", "--json").json
    lost = [row for row in document["rows"] if row["stage"]]
    assert {row["stage"] for row in lost} == {"screening", "halving"}
    assert all(row["effect"] is None for row in lost)
    assert document["facts"]["dropped"] == [
        {key: row[key] for key in ("stage", "layer", "strength", "items", "score")} for row in lost
    ]
    dry = steer(*given, "--dry-run").out
    assert "keeps 2 layers; halving begins with 1 prompt" in dry


def test_shuffled_labels_are_tried_where_the_pairs_are_given(steer, model, vectors, prompts, tmp_path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"positive": f"the {a} is good", "negative": f"the {a} is bad"} for a in ("sea", "dog", "tea", "sun")]
    pairs.write_text("\n".join(map(json.dumps, rows)) + "\n")
    found = steer("sweep", model, "-v", vectors / "glad.safetensors", *TARGET, *prompts, "--max-kl", 100,
                  "--layers", "1", "--pairs", pairs)  # fmt: skip
    assert found.code == 0, found.err
    assert "20 vectors from shuffled labels there at +2: mean size" in found.out


@pytest.mark.parametrize("kind", ["choices", "regex", "probe"])
def test_any_target_of_an_evaluation_can_be_swept(steer, model, vectors, prompts, tmp_path, kind) -> None:
    given = ["sweep", model, "-v", vectors / "glad.safetensors", "--layers", "0-1", "--strengths", "-4,4", "--json",
             "--neutral", prompts[3], "--random", 3]  # fmt: skip
    if kind == "choices":
        path = tmp_path / "q.jsonl"
        row = {"question": "Which?\n(A) bad\n(B) good", "answer_matching_behavior": " (B)",
               "answer_not_matching_behavior": " (A)"}  # fmt: skip
        path.write_text("\n".join([json.dumps(row)] * 8))
        given += ["--choices", path]
    elif kind == "regex":
        given += ["--regex", "[ao]", "--prompts", prompts[1]]
    else:
        data, path = tmp_path / "data.jsonl", tmp_path / "probe.safetensors"
        texts = [{"text": f"the {a} is {b}", "label": b} for a in ("sea", "dog", "tea", "sun", "cat", "hat")
                 for b in ("good", "bad")]  # fmt: skip
        data.write_text("\n".join(map(json.dumps, texts)) + "\n")
        assert steer("probe", model, "--data", data, "--folds", 2, "-o", path).code == 0
        given += ["--probe", path, "--probe-layer", 2, "--prompts", prompts[1]]
    found = steer(*given)
    assert found.code == 0, found.err
    document = found.json
    assert document["facts"]["engine"] == ("branches" if kind == "choices" else "measure")
    assert (
        document["facts"]["target"]["kind"]
        == {"choices": "multiple_choice", "regex": "regex", "probe": "activation"}[kind]
    )
    assert len(document["rows"]) == 4
    assert all(row["p_value"] in {1 / 4, 2 / 4, 3 / 4, 1.0} for row in document["rows"])


def test_a_dry_run_counts_and_writes_nothing(steer, model, vectors, prompts, tmp_path) -> None:
    out = tmp_path / "run"
    found = steer(
        "sweep", model, "-v", vectors / "glad.safetensors", *TARGET, *prompts, "-o", out, "--dry-run", "--json"
    )
    document = json.loads(found.out)
    assert document["cells"] == 2 * 3  # auto leaves out the first of three layers
    assert document["control_cells"] == 2 * 2 * 9
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "no target"),
        (TARGET, "is measured on prompts"),
        (("--regex", "a", *TARGET), "two targets"),
        (("--positive", " great"), "go together"),
        (("--probe-layer", "1"), "add --probe FILE"),
        (("--regex", "a", "--prompts", __file__, "--screen", "1"), "read off the logits"),
    ],
)
def test_what_is_missing_is_said(steer, model, vectors, given, words) -> None:
    found = steer("sweep", model, "-v", vectors / "glad.safetensors", *given)
    assert found.code == 2
    assert words in found.err
