"""``steer eval``: the table, the gates, the files."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(
        "\n".join(f"the {noun} is" for noun in ("tea", "sea", "sun", "dog", "cat", "bed", "hat", "pie", "bus"))
    )
    return path


@pytest.fixture
def neutral(tmp_path):
    path = tmp_path / "neutral.txt"
    path.write_text("the weather of Paris\nLondon is good and\nthe bad was\n" * 3)
    return path


@pytest.fixture
def small(model, vectors, prompts, neutral):
    """The arguments of an evaluation that takes a moment."""
    target = ["--positive", " great", "--positive", " good", "--negative", " awful"]
    return ["eval", model, "-v", "glad:1@1", "--vectors", vectors, *target, "--prompts", prompts, "--neutral", neutral,
            "--random", 5, "--no-facts", "--no-texts"]  # fmt: skip


def test_a_table_with_controls_and_a_verdict(steer, small) -> None:
    found = steer(*small)
    assert found.code == 0
    for words in (
        "effect",
        "steered",
        "difference [95%]",
        "control",
        "KL on neutral text",
        "random directions",
        "affected tokens",
    ):
        assert words in found.out, words


def test_gates_decide_the_exit_code(steer, small) -> None:
    assert steer(*small, "--fail-under", "kl<=1000").code == 0
    failed = steer(*small, "--fail-under", "kl<=1000", "--fail-under", "kl<=0")
    assert failed.code == 3
    assert "met: kl<=1000" in failed.out
    assert "not met: kl<=0" in failed.out
    assert steer(*small, "--fail-under", "kl ~ 1").code == 2


def test_json_is_one_document_and_files_are_written_with_a_record(steer, small, tmp_path) -> None:
    path = tmp_path / "out.json"
    found = steer(*small, "--json", "-o", path)
    document = found.json
    assert document["schema"] == "steersman.evaluation/1"
    assert {row["name"] for row in document["rows"]} >= {"effect", "slope", "kl", "effect_at_budget"}
    assert json.loads(path.read_text())["rows"] == document["rows"]
    assert json.loads((tmp_path / "run.json").read_text())["command"] == "eval"
    page = tmp_path / "out.html"
    assert steer(*small, "-o", page).code == 0
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_another_model_is_compared_with(steer, model, neutral) -> None:
    found = steer("eval", model, "--against", model, "--neutral", neutral, "--no-facts", "--no-texts", "--json")
    assert found.code == 0
    rows = {row["name"]: row for row in found.json["rows"]}
    assert rows["kl"]["value"] == 0
    assert rows["top1"]["value"] == 1
    assert found.json["other"]


def test_questions_are_asked(steer, model, vectors, neutral, tmp_path) -> None:
    path = tmp_path / "q.jsonl"
    row = {
        "question": "Which?\n(A) bad\n(B) good",
        "answer_matching_behavior": " (B)",
        "answer_not_matching_behavior": " (A)",
    }
    path.write_text("\n".join([json.dumps(row)] * 8))
    arguments = ["-v", "glad@1", "--vectors", vectors, "--choices", path, "--neutral", neutral, "--random", 2]
    found = steer("eval", model, *arguments, "--no-facts", "--no-texts", "--json")
    assert found.json["target"] == {"kind": "multiple_choice", "unit": "nats", "measure": "propensity", "questions": 8,
                                    "both_orders": 8, "form": "auto"}  # fmt: skip


def test_a_dry_run_says_what_it_takes_and_does_nothing(steer, small, tmp_path) -> None:
    found = steer(*small, "--dry-run", "-o", tmp_path / "x.json")
    assert found.code == 0
    assert "9 prompts, 9 neutral texts" in found.out
    assert not (tmp_path / "x.json").exists()
    document = steer(*small, "--dry-run", "--json").json
    assert document["schema"] == "steersman.dry-run/1"
    assert document["prompts"] == 9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to evaluate"),
        (["-v", "glad@1", "--against", "demo"], "instead of a plan"),
        (["-v", "glad@1", "--positive", " a"], "go together"),
        (["-v", "glad@1", "--regex", "a"], "is measured on prompts"),
        (["-v", "glad@1", "--regex", "a", "--positive", " a", "--negative", " b"], "two targets"),
        (["-v", "glad@1", "-o", "x.txt"], "must end in .json or .html"),
        (["-v", "glad@1", "-o", "nowhere/x.json"], "no folder"),
        (["-v", "glad@1", "--neutral", "nowhere.txt"], "no file"),
    ],
)
def test_what_makes_no_sense_is_said_before_any_work(steer, model, vectors, arguments, words: str) -> None:
    found = steer("eval", model, "--vectors", vectors, *arguments)
    assert found.code == 2
    assert words in found.err
    assert "fix" in found.err


def test_prompts_may_name_their_sources(steer, small, tmp_path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"the {i} is", "source": str(i % 2)}) for i in range(9)))
    found = steer(*[path if str(one).endswith("prompts.txt") else one for one in small], "--json")
    row = next(row for row in found.json["rows"] if row["name"] == "effect")
    assert row["difference"]["sources"] == 2
    assert "too few" in row["verdict"]
    path.write_text('{"prompt": "a", "source": "x"}\n{"prompt": "b"}\n')
    assert "name all, or none" in steer(*[path if str(one).endswith("prompts.txt") else one for one in small]).err
