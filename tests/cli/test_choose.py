"""``steer choose``: what the library chooses, as tables, documents and plans with evidence."""

from __future__ import annotations

import itertools
import json

import pytest

import steersman as sm

TARGET = ("--positive", " great", "--negative", " awful")
WORDS = (" the", " a", " is", " was", " of", " and", " good")


@pytest.fixture
def files(tmp_path):
    """Prompts of two kinds, prompts of one, and neutral texts."""
    rest = ["".join(words) for words in itertools.product(WORDS, repeat=2)][:24]

    def write(name: str, lines: list[str]):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return {
        "great": write("great.txt", ["great" + one + " sea" for one in rest]),
        "bad": write("bad.txt", ["bad" + one + " sea" for one in rest]),
        "prompts": write("prompts.txt", ["the" + one + " is" for one in rest]),
        "neutral": write("neutral.txt", ["the weather is good and", "a dog was of the sea"]),
    }


@pytest.fixture
def given(files):
    return ("--prompts", files["prompts"], "--neutral", files["neutral"], *TARGET)


def test_a_condition_is_found_and_put_on_what_is_done(steer, model, vectors, files, tmp_path) -> None:
    glad, out = vectors / "glad.safetensors", tmp_path / "plan.safetensors"
    asked = ("choose", "condition", model, "--with", files["great"], "--without", files["bad"], "--along", glad,
             "--neutral", files["neutral"], "--random", 9)  # fmt: skip
    found = steer(*asked, "-v", f"{glad}:1@2", "-o", out, "--json")
    assert found.code == 0, found.err
    loaded = sm.SteeringModel.from_pretrained(model)
    vector = sm.SteeringVector.load(glad)
    sides = [files[name].read_text().splitlines() for name in ("great", "bad")]
    expected = sm.choose_condition(loaded, vector, *sides, neutral=files["neutral"].read_text().splitlines(), random=9)
    assert found.json["evidence"]["f1"]["value"] == expected.f1.value
    assert [row["layer"] for row in found.json["rows"]] == [0, 1, 2]
    plan = sm.Plan.load(out)
    assert plan == sm.Plan(sm.Add(vector, 1.0, layers=[2], when=expected.when))
    assert plan.evidence["kind"] == "condition"
    text = steer(*asked)
    assert text.code == 0, text.err
    assert f"when the cosine at layer {expected.when.layer} is" in text.out
    assert "among 9 random directions" in text.out
    alone = steer(*asked, "-o", out)
    assert alone.code == 2
    assert "there is none" in alone.err


def test_an_ablation_is_chosen_by_its_scores(steer, model, files, tmp_path) -> None:
    out = tmp_path / "without.safetensors"
    asked = ("choose", "ablation", model, "--with", files["great"], "--without", files["bad"],
             "--neutral", files["neutral"], "--random", 5, "--max-kl", 100, "--position", -1, "--seed", 1)  # fmt: skip
    loaded = sm.SteeringModel.from_pretrained(model)
    sides = [files[name].read_text().splitlines() for name in ("great", "bad")]
    # whichever side of the random model's words is the likelier is the behaviour
    value = sm.contrast(" great", " awful").measure(loaded, sides[0]).values.mean()
    words = (" great", " awful") if value > 0 else (" awful", " great")
    found = steer(*asked, "--positive", words[0], "--negative", words[1], "-o", out)
    expected = sm.choose_ablation(
        loaded, *sides, target=sm.contrast(*words), positions=[-1], max_kl=100, random=5, seed=1,
        neutral=files["neutral"].read_text().splitlines(),
    )  # fmt: skip
    assert found.code == 0, found.err
    assert sm.Plan.load(out) == expected.plan
    assert sm.Plan.load(out).evidence["effect"]["value"] == expected.effect.value
    assert [line.split()[:2] for line in found.out.splitlines() if line.endswith("chosen")] == [
        [str(expected.layer), "-1"]
    ]
    assert (tmp_path / "run.json").is_file()
    odds = steer(*asked, "--positive", words[0])  # less likely than all else together: nothing induces it
    assert odds.code == 2
    assert "do not bring the target above 0" in odds.err


def test_ways_are_compared_at_one_price(steer, model, vectors, given, files, tmp_path) -> None:
    glad = vectors / "glad.safetensors"
    saved = tmp_path / "saved.safetensors"
    sm.Plan(sm.Add(sm.SteeringVector.load(glad), 2.0, layers=0)).save(saved)
    out, chart = tmp_path / "best.safetensors", tmp_path / "ways.svg"
    asked = ("choose", "compare", model, "-v", f"{glad}:1@1", "-v", f"{glad}:1@2", "--way", f"low={saved}", *given,
             "--random", 5, "--max-kl", 0.05)  # fmt: skip
    found = steer(*asked, "-o", out, "--chart", chart, "--json")
    assert found.code == 0, found.err
    rows = {row["name"]: row for row in found.json["rows"]}
    assert list(rows) == ["glad:1@1", "glad:1@2", "low"]
    assert all(abs(row["kl"] - 0.05) < 0.003 for row in rows.values())
    best = max(rows.values(), key=lambda row: row["tune_effect"])
    assert sm.Plan.load(out)[0].strength == pytest.approx(best["factor"] * (2 if best["name"] == "low" else 1))
    assert chart.read_text().startswith("<svg")
    down = steer(*asked, "--down")
    assert down.code == 0, down.err
    lowest = min(rows.values(), key=lambda row: row["tune_effect"])
    line = next(line for line in down.out.splitlines() if line.endswith("best"))
    assert line.split()[0] == lowest["name"]
    assert "kept from the choice" in down.out


def test_layers_and_weights_are_searched(steer, model, vectors, given, tmp_path) -> None:
    glad, out = vectors / "glad.safetensors", tmp_path / "layers.safetensors"
    asked = ("choose", "layers", model, "-v", glad, *given, "--layers", "0-2", "--trials", 4, "--random", 3)
    found = steer(*asked, "-o", out, "--json")
    assert found.code == 0, found.err
    assert len(found.json["rows"]) == 6 + 4
    plan = sm.Plan.load(out)
    assert {str(layer): weight for layer, weight in plan[0].layers.items()} == plan.evidence["chosen"]["weights"]
    text = steer(*asked)
    assert "more than the best single layer by" in text.out


def test_dry_runs_write_nothing(steer, model, vectors, files, given, tmp_path) -> None:
    glad = vectors / "glad.safetensors"
    before = sorted(tmp_path.iterdir())
    sides = ("--with", files["great"], "--without", files["bad"])
    for words in (
        ("condition", model, *sides, "--along", glad), ("ablation", model, *sides, *TARGET),
        ("compare", model, "-v", glad, "-v", f"{glad}:2@1", *given), ("layers", model, "-v", glad, *given),
    ):  # fmt: skip
        found = steer("choose", *words, "--dry-run", "--json")
        assert found.code == 0, found.err
        assert json.loads(found.out)["prompts"] in (24, 48)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("compare", "-v", "GLAD", *TARGET), "is measured on prompts"),
        (("compare", "-v", "GLAD", "--prompts", "PROMPTS", *TARGET), "two or more"),
        (("compare", "--way", "plan", "--prompts", "PROMPTS", *TARGET), "NAME=FILE"),
        (("compare", "--plan", "x.safetensors", "--prompts", "PROMPTS", *TARGET), "--way NAME=FILE"),
        (("layers", "-v", "GLAD:1@2", "--prompts", "PROMPTS", *TARGET), "a search over layers tries many"),
        (("layers", "-v", "GLAD", "--prompts", "PROMPTS", "--shape", "square", *TARGET), "kernel"),
        (("layers", "-v", "GLAD", "--prompts", "PROMPTS"), "no target"),
        (("condition", "--with", "PROMPTS", "--without", "none.txt", "--along", "GLAD"), "none.txt"),
        (("condition", "--with", "PROMPTS", "--without", "PROMPTS", "--along", "gladd"), "did you mean 'glad'"),
        (("ablation", "--with", "PROMPTS", "--without", "PROMPTS"), "no target"),
    ],
)
def test_mistakes_are_told(steer, model, vectors, files, monkeypatch, words, said) -> None:
    monkeypatch.chdir(vectors)
    known = {"GLAD": "glad", "GLAD:1@2": "glad:1@2", "PROMPTS": str(files["prompts"])}
    found = steer("choose", words[0], model, *[known.get(word, word) for word in words[1:]])
    assert found.code == 2, found.err
    assert said in found.err
