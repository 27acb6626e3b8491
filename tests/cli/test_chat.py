from __future__ import annotations

import pytest

import steersman as sm

SHORT = ("--max-new-tokens", 4)


def test_a_conversation_over_a_pipe(steer, model, vectors) -> None:
    found = steer("chat", model, "-v", "glad:2@1", "--vectors", vectors, *SHORT, stdin="the\na dog\n/quit\nnever\n")
    loaded = sm.SteeringModel.from_pretrained(model)
    glad = sm.SteeringVector.load(vectors / "glad.safetensors")
    plan = sm.Add(glad, 2.0, layers=1)
    first = loaded.generate([{"role": "user", "content": "the"}], steer=plan, max_new_tokens=4)
    history = [("user", "the"), ("assistant", first.strip()), ("user", "a dog")]
    second = loaded.generate([{"role": r, "content": c} for r, c in history], steer=plan, max_new_tokens=4)
    assert found.code == 0
    assert found.out == f"{first}\n{second}\n"
    assert "glad +2 @1; /help for commands" in found.err


def test_the_steering_changes_on_the_way(steer, model, vectors, tmp_path) -> None:
    saved = tmp_path / "p.safetensors"
    lines = ["the", "/strength -3", "/layer 2", "the", "/off", "the", "/on", "/compare", f"/save {saved}", "/reset"]
    found = steer("chat", model, "-v", "glad:2@1", "--vectors", vectors, "--json", *SHORT, stdin="\n".join(lines))
    assert found.code == 0, found.err
    document = found.json
    assert document["schema"] == "steersman.chat/1"
    assert [turn["plan"] for turn in document["turns"]] == ["glad +2 @1", "glad -3 @2", "no plan", "glad -3 @2"]
    assert set(document["turns"][3]["compare"]) == {"unsteered", "steered"}
    glad = sm.SteeringVector.load(vectors / "glad.safetensors")
    assert sm.Plan.load(saved) == sm.Plan([sm.Add(glad, -3.0, layers=2)])
    assert (tmp_path / "run.json").is_file()
    for text in ("glad -3 @1", "glad -3 @2", "steering is off", f"saved {saved}", "forgotten"):
        assert text in found.err


def test_one_of_several_vectors(steer, model, vectors, tmp_path) -> None:
    other = tmp_path / "calm.safetensors"
    sm.SteeringVector.load(vectors / "glad.safetensors").normalized().save(other)
    options = ("-v", "glad:2@1", "-v", f"{other}:1@0", "--vectors", vectors)
    found = steer("chat", model, *options, stdin="/strength glad 5\n/plan\n/strength none 1\n")
    assert "glad +5 @1" in found.err
    assert "no vector named none; there are: glad" in found.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/dance", "unknown command /dance"),
        ("/strength", "does not take nothing"),
        ("/strength much", "not done"),
        ("/layer 9", "has 3 layers: 0 to 2"),
        ("/layer x", "not done"),
        ("/save x.pt", "ends in .safetensors"),
        ("/compare", "say something first"),
        ("/__class__", "unknown command"),
        ("/help", "/strength X"),
    ],
)
def test_commands_that_fail_do_not_end_it(steer, model, vectors, tmp_path, monkeypatch, line, message) -> None:
    monkeypatch.chdir(tmp_path)
    found = steer("chat", model, "-v", "glad:2@1", "--vectors", vectors, *SHORT, stdin=f"{line}\nthe\n")
    assert found.code == 0
    assert message in found.err
    assert len(found.out.splitlines()) >= 1


def test_without_a_template_lines_are_plain_text(steer, untemplated) -> None:
    found = steer("chat", untemplated, *SHORT, stdin="the tea\n")
    loaded = sm.SteeringModel.from_pretrained(untemplated)
    assert found.out == loaded.generate("the tea", max_new_tokens=4) + "\n"
    assert "no chat template" in found.err
    assert steer("chat", untemplated, "--system", "x", stdin="").code == 2


def test_a_long_conversation_forgets_its_oldest_turn(steer, model) -> None:
    long = " ".join(["the"] * 100)
    found = steer("chat", model, *SHORT, stdin=f"{long}\n{long}\n{long}\n")
    assert found.code == 0
    assert "its oldest turn is forgotten" in found.err
    assert "no answer" in steer("chat", model, *SHORT, stdin=" ".join(["the"] * 300) + "\n").err


def test_a_dry_run(steer, model, vectors) -> None:
    found = steer("chat", model, "-v", "glad:2@1", "--vectors", vectors, "--dry-run", stdin="the\n")
    assert found.code == 0
    assert "256 tokens" in found.out
