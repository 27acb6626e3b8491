"""``steer run``: the same as its commands typed one after the other, checked before any of them, and taken up again."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import steersman as sm
from steersman.sweeping import Sweep

EXAMPLES = Path(__file__).parents[2] / "examples"
NOUNS = ("tea", "sea", "sun", "dog", "cat", "bed", "hat", "pie", "bus", "job", "car", "map")

EXTRACT = """
[extract]
name = "mood"
pairs = "mood.jsonl"
quality = false
"""
SWEEP = """
[sweep]
prompts = "prompts.txt"
neutral = "neutral.txt"
positive = [" great"]
negative = " awful"
layers = [1, 2]
strengths = [-1, 1, 2]
positions = "all"
max-kl = 100
random = 3
"""
EVAL = """
[eval]
prompts = "others.txt"
no-texts = true
no-facts = true
fail-under = ["kl<=1000"]
"""
EXPORT = """
[export]
vector = "mood.safetensors"
plan = "best.safetensors"
gguf = "mood.gguf"
checkpoint = "baked"
report = "mood.html"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with all that the recipes read."""
    there = tmp_path / "work"
    there.mkdir()
    rows = [{"positive": f"the {noun} is great of", "negative": f"the {noun} is awful of"} for noun in NOUNS]
    (there / "mood.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (there / "prompts.txt").write_text(
        "\n".join(f"the {a} {b}" for a in ("good", "bad") for b in ("sea is", "dog", "day"))
    )
    (there / "others.txt").write_text(
        "\n".join(f"a {a} {b}" for a in ("good", "bad") for b in ("sun is", "cat", "bed"))
    )
    (there / "neutral.txt").write_text("the weather is good and\na dog was of the sea\n")
    return there


@pytest.fixture
def recipe(folder: Path, model: str):
    """``recipe(EXTRACT, SWEEP)`` writes a recipe and gives its path."""

    def write(*tables: str, top: str = "") -> Path:
        path = folder / "recipe.toml"
        path.write_text(f"model = {json.dumps(model)}\n{top}\n{''.join(tables)}")
        return path

    return write


def _ages(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "run.json"}


def test_it_is_its_commands_one_after_the_other(steer, recipe, folder, model, tmp_path) -> None:
    path = recipe(EXTRACT, SWEEP, EVAL, EXPORT)
    found = steer("run", path)
    assert found.code == 0, found.err
    assert "chosen" in found.out
    assert "met: kl<=1000" in found.out
    by_hand = tmp_path / "by hand"
    by_hand.mkdir()
    data = folder / "mood.jsonl"
    vector = by_hand / "mood.safetensors"
    assert steer("extract", model, "--pairs", data, "--name", "mood", "--no-quality", "-o", vector).code == 0
    done = steer("sweep", model, "-v", vector, "--prompts", folder / "prompts.txt", "--neutral", folder / "neutral.txt",
                 "--positive", " great", "--negative", " awful", "--layers", "1,2", "--strengths", "-1,1,2",
                 "--positions", "all", "--max-kl", "100", "--random", "3", "-o", by_hand / "sweep")  # fmt: skip
    assert done.code == 0, done.err
    plan = sm.Plan.load(folder / "best.safetensors")
    assert plan == sm.Plan.load(by_hand / "sweep" / "plan.safetensors")
    assert (
        plan.evidence["row"]["effect"] == sm.Plan.load(by_hand / "sweep" / "plan.safetensors").evidence["row"]["effect"]
    )
    out = folder / "recipe"
    assert sm.SteeringVector.load(folder / "mood.safetensors") == sm.SteeringVector.load(vector)
    assert Sweep.load(out / "sweep" / "sweep.json").rows == Sweep.load(by_hand / "sweep" / "sweep.json").rows
    layer, strength = plan[0].layers, plan[0].strength
    assert torch.allclose(
        sm.SteeringVector.load(folder / "mood.gguf")[next(iter(layer))], strength * plan[0].vector[next(iter(layer))]
    )
    plain, hooked = AutoModelForCausalLM.from_pretrained(folder / "baked"), sm.SteeringModel.from_pretrained(model)
    ids = torch.tensor([hooked.tokens.encode("the sea is")])
    with torch.inference_mode():
        logits = plain(ids).logits
    torch.testing.assert_close(logits, hooked.logits("the sea is", steer=plan), rtol=1e-4, atol=1e-4)
    assert "How to repeat it" in (folder / "mood.html").read_text(encoding="utf-8")


def test_records_name_the_recipe_and_nothing_is_done_twice(steer, recipe, folder) -> None:
    path = recipe(EXTRACT, SWEEP, EVAL, EXPORT)
    first = steer("run", path, "--json")
    assert first.code == 0, first.err
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    records = [json.loads(file.read_text()) for file in folder.rglob("run.json")]
    assert {record["recipe"]["sha256"] for record in records} == {digest}
    assert len(records) == 6  # the whole, extract, sweep, eval, gguf beside the recipe, the checkpoint
    document = first.json
    assert [step["step"] for step in document["steps"]] == [
        "extract", "sweep", "eval", "export vector", "export plan", "export gguf", "export checkpoint", "export report"
    ]  # fmt: skip
    assert document["plan"]["evidence"]["row"]["layer"] in (1, 2)
    assert document["evaluation"]["gates"][0]["met"]
    ages = _ages(folder)
    again = steer("run", path, "--json")
    assert again.json == document
    assert _ages(folder) == ages
    (folder / "mood.gguf").unlink()
    assert steer("run", path).code == 0
    assert {file for file, age in _ages(folder).items() if ages.get(file) != age} == {
        folder / "mood.gguf", folder / "recipe" / "finished.json"
    }  # fmt: skip


def test_interrupted_in_the_sweep_it_goes_on(steer, recipe, folder, monkeypatch) -> None:
    path = recipe(EXTRACT, SWEEP)
    assert steer("run", path, "-q").code == 0
    whole = Sweep.load(folder / "recipe" / "sweep" / "sweep.json").rows
    shutil.rmtree(folder / "recipe")
    module = importlib.import_module("steersman.sweeping.sweep")
    measured, random_effects = [], module.random_effects

    def stops(*arguments: object) -> object:
        measured.append(arguments[-1])
        if len(measured) == 2:
            raise KeyboardInterrupt
        return random_effects(*arguments)

    monkeypatch.setattr(module, "random_effects", stops)
    stopped = steer("run", path)
    assert stopped.code == 130
    assert f"this goes on: steer run {path}" in stopped.err
    ages = _ages(folder / "recipe" / "extract")
    assert steer("run", path).code == 0
    assert measured == [1, 2, 2]  # the layer that was measured is not measured again
    assert _ages(folder / "recipe" / "extract") == ages
    assert Sweep.load(folder / "recipe" / "sweep" / "sweep.json").rows == whole


def test_other_settings_are_refused_by_name_and_anew_starts_over(steer, recipe, folder) -> None:
    assert steer("run", recipe(EXTRACT, SWEEP)).code == 0
    plan = sm.Plan.load(folder / "recipe" / "sweep" / "plan.safetensors")
    other = recipe(EXTRACT, SWEEP.replace("[-1, 1, 2]", "[-1, 1]").replace("random = 3", "random = 4"))
    refused = steer("run", other)
    assert refused.code == 2
    assert "sweep is finished with other settings: random, strengths" in refused.err
    with (folder / "mood.jsonl").open("a") as data:
        data.write('\n{"positive": "the day is great of", "negative": "the day is awful of"}')
    changed = steer("run", recipe(EXTRACT, SWEEP))
    assert changed.code == 2
    assert "extract is finished with other settings: the file mood.jsonl" in changed.err
    assert steer("run", recipe(EXTRACT, SWEEP + "value = 1.0"), "--anew").code == 2
    assert sm.Plan.load(folder / "recipe" / "sweep" / "plan.safetensors") == plan  # what is wrong removes nothing
    other = recipe(EXTRACT, SWEEP.replace("[-1, 1, 2]", "[-1, 1]").replace("random = 3", "random = 4"))
    anew = steer("run", other, "--anew")
    assert anew.code == 0, anew.err
    assert sm.Plan.load(folder / "recipe" / "sweep" / "plan.safetensors") != plan
    seeded = steer("run", other, "--seed", 5)
    assert seeded.code == 2
    assert "other settings: seed" in seeded.err


def test_a_gate_that_is_not_met_keeps_the_exports_back(steer, recipe, folder) -> None:
    path = recipe(EXTRACT, SWEEP, EVAL.replace("kl<=1000", "kl<0"), EXPORT)
    found = steer("run", path)
    assert found.code == 3
    assert "not met: kl<0" in found.out
    assert not any((folder / name).exists() for name in ("mood.gguf", "baked", "best.safetensors", "mood.html"))
    ages = _ages(folder)
    assert steer("run", path, "--json").json["exports"] == {}
    assert steer("run", path).code == 3
    assert _ages(folder) == ages


def test_a_sweep_that_finds_nothing_says_so(steer, recipe, folder) -> None:
    path = recipe(EXTRACT, SWEEP.replace("max-kl = 100", "max-kl = 1e-12"), EXPORT)
    found = steer("run", path)
    assert found.code == 3
    assert "no setting within its budget" in found.err
    assert not (folder / "best.safetensors").exists()


def test_a_plan_may_be_written_out(steer, recipe, folder, vectors, model) -> None:
    shutil.copy(vectors / "glad.safetensors", folder)
    plan = """
[[plan.interventions]]
vector = "mood"
strength = 2.0
layers = {1 = 0.5, 2 = 1.0}

[[plan.interventions]]
vector = "glad"
layers = [0]
when = {vector = "mood", layer = 0, above = 0.1}

[export]
plan = "both.safetensors"
edited = "edited"
"""
    found = steer("run", recipe(EXTRACT, plan))
    assert found.code == 0, found.err
    mood = sm.SteeringVector.load(folder / "recipe" / "extract" / "mood.safetensors")
    glad = sm.SteeringVector.load(folder / "glad.safetensors")
    expected = sm.Plan([
        sm.Add(mood, 2.0, layers={1: 0.5, 2: 1.0}), sm.Add(glad, layers=[0], when=sm.When(mood, layer=0, above=0.1))
    ])  # fmt: skip
    assert sm.Plan.load(folder / "both.safetensors") == expected
    assert sm.SteeringModel.from_pretrained(folder / "edited").plan == expected


GENERATE = """
[generate]
prompts = ["the sea is", "--help"]
max-new-tokens = 5
compare = true
"""


def test_texts_are_generated_under_the_plan_that_was_found(steer, recipe, folder, model) -> None:
    path = recipe(EXTRACT, SWEEP, GENERATE)
    found = steer("run", path, "--json")
    assert found.code == 0, found.err
    loaded, plan = sm.SteeringModel.from_pretrained(model), sm.Plan.load(folder / "recipe" / "sweep/plan.safetensors")
    prompts = ["the sea is", "--help"]
    rows = found.json["generation"]["results"]
    assert [row["prompt"] for row in rows] == prompts
    assert [row["steered"] for row in rows] == loaded.generate(prompts, steer=plan, max_new_tokens=5)
    assert [row["unsteered"] for row in rows] == loaded.generate(prompts, max_new_tokens=5)
    assert json.loads((folder / "recipe" / "generate" / "texts.json").read_text()) == found.json["generation"]
    said = steer("run", recipe(EXTRACT, SWEEP, GENERATE.replace('["the sea is", "--help"]', '"others.txt"')))
    assert said.code == 2
    assert "generate is finished with other settings: prompts" in said.err


def test_texts_need_no_plan(steer, recipe, model) -> None:
    found = steer("run", recipe(GENERATE.replace("compare = true", "")), "--json")
    assert found.code == 0, found.err
    loaded = sm.SteeringModel.from_pretrained(model)
    assert found.json["generation"]["results"][0]["unsteered"] == loaded.generate("the sea is", max_new_tokens=5)


def test_a_plan_may_say_what_its_vectors_hold(steer, recipe, folder, vectors) -> None:
    shutil.copy(vectors / "glad.safetensors", folder)
    plan = sm.Plan(sm.Add(sm.SteeringVector.load(vectors / "glad.safetensors"), layers=[0]))
    table = '[plan]\ndigest = "{}"\n[[plan.interventions]]\nvector = "glad"\nlayers = [0]\n'
    other = steer("run", recipe(table.format("0" * 64)))
    assert other.code == 2
    assert plan.digest in other.err
    assert not (folder / "recipe").exists()
    assert steer("run", recipe(table.format(plan.digest))).code == 0


def test_paths_are_meant_from_the_recipe_and_variables_of_commands_are_not_read(
    steer, recipe, folder, tmp_path, monkeypatch
) -> None:
    path = recipe(EXTRACT, SWEEP)
    monkeypatch.chdir(tmp_path)
    found = steer("run", path, STEERSMAN_SWEEP_HALVING="1", STEERSMAN_EXTRACT_METHOD="pca")
    assert found.code == 0, found.err
    assert sm.SteeringVector.load(folder / "recipe" / "extract" / "mood.safetensors").method == "mean_difference"
    assert Sweep.load(folder / "recipe" / "sweep" / "sweep.json").facts["halving"] is None
    assert not any(tmp_path.glob("recipe"))


def test_a_dry_run_says_every_command_and_writes_nothing(steer, recipe, folder) -> None:
    path = recipe(EXTRACT, SWEEP, EVAL, EXPORT)
    before = sorted(folder.rglob("*"))
    text = steer("run", path, "--dry-run")
    assert text.code == 0, text.err
    assert "--strengths -1,1,2 --positions all" in text.out
    assert f"writes    {folder / 'recipe' / 'extract' / 'mood.safetensors'} and run.json" in text.out
    document = steer("run", path, "--dry-run", "--json").json
    dry = {step["step"]: step["dry_run"] for step in document["steps"]}
    assert (dry["extract"]["examples"], dry["sweep"]["cells"]) == ([12, 12], 6)
    assert dry["export checkpoint"]["rewrites"]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ('[extrct]\npairs = "mood.jsonl"', "did you mean 'extract'"),
        ('[extract]\npair = "mood.jsonl"', "did you mean 'pairs'"),
        ('[extract]\nlayers = "0-1"\noutput = "x"', "unknown key 'output'"),
        (EXTRACT + SWEEP + '[export]\nguff = "x.gguf"', "did you mean 'gguf'"),
        (EXTRACT + SWEEP + "ranom = 4", "did you mean 'random'"),
        (EXTRACT + "\n[[plan.interventions]]\nvector = 'mood'\nstrenght = 2\nlayers = [1]", "strength"),
        ("extract = 3", "write [extract]"),
        ("", "says nothing to do"),
        ('[chat]\nvector = ["glad:1"]', "steer chat ... --config"),
        ('[generate]\nvector = ["glad:1"]\nprompts = ["the sea"]', "unknown key 'vector' in [generate]"),
        ("[generate]\nmax-new-tokens = 3", "has no prompts"),
        ('[generate]\nprompts = "the sea"', "the sea"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(steer, recipe, tables, words) -> None:
    found = steer("run", recipe(tables))
    assert found.code == 2
    assert words in found.err


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ((EXTRACT.replace("mood.jsonl", "mud.jsonl"),), "mud.jsonl"),
        ((EXTRACT + 'method = "mean_diference"',), "mean_diference"),
        ((EXTRACT + 'option = ["penalty=1"]',), "penalty"),
        ((EXTRACT + 'layers = "7"',), "names layer 7"),
        ((EXTRACT.replace("false", "3"),), "is no switch"),
        ((EXTRACT.replace("false", "false\nlayers = [0, 1]"), SWEEP), "no direction for layer 2"),
        ((SWEEP,), "has no vector"),
        ((EXTRACT, SWEEP + 'vector = "glad"'), "leave one of them out"),
        ((EXTRACT, SWEEP.replace("prompts.txt", "none.txt")), "none.txt"),
        ((EXTRACT, SWEEP.replace("[-1, 1, 2]", '"a,b"')), "no list of numbers"),
        ((EXTRACT, SWEEP + 'operation = "clamp"'), "needs --value"),
        ((EXTRACT, SWEEP, '[eval]\nfail-under = ["kl<=1"]'), "has no prompts"),
        ((EXTRACT, EVAL), "no plan to measure"),
        ((EXTRACT, SWEEP, EVAL.replace("kl<=1000", "kl~1")), "cannot be read"),
        ((EXTRACT, SWEEP.replace('positions = "all"', ""), '[export]\ncheckpoint = "baked"'), "export] checkpoint"),
        ((EXTRACT, SWEEP.replace('positions = "all"', ""), '[export]\ngguf = "a.gguf"'), 'positions="all"'),
        ((EXTRACT, '[export]\nplan = "a.safetensors"'), "no plan to export"),
        ((EXTRACT, SWEEP, '[export]\nplan = "a.gguf"'), "ending in .safetensors"),
        (
            (EXTRACT, SWEEP, '[export]\nplan = "mood.jsonl.safetensors"\nvector = "mood.jsonl.safetensors"'),
            "two things",
        ),
        ((EXTRACT, SWEEP, '[export]\nedited = "full"'), "is there already"),
    ],
)
def test_what_is_wrong_anywhere_is_said_before_the_first_step(steer, recipe, folder, tables, words) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("mine")
    found = steer("run", recipe(*tables))
    assert found.code == 2
    assert words in found.err
    assert not (folder / "recipe").exists()
    assert (folder / "full" / "thesis.txt").read_text() == "mine"


def test_a_folder_of_something_else_is_left_alone(steer, recipe, folder) -> None:
    (folder / "recipe").mkdir()
    (folder / "recipe" / "thesis.txt").write_text("mine")
    found = steer("run", recipe(EXTRACT))
    assert found.code == 2
    assert "holds something else" in found.err
    twice = steer("run", recipe(EXTRACT, top="seed = 4"), "--seed", 3)
    assert twice.code == 2
    assert "leave one out" in twice.err


def test_the_example_runs_on_the_embedded_model(steer, tmp_path) -> None:
    there = tmp_path / "examples"
    shutil.copytree(EXAMPLES, there, ignore=shutil.ignore_patterns("*-run"))
    path = there / "sentiment.toml"
    text = path.read_text(encoding="utf-8")
    few = text.replace("random = 39", 'random = 9\nneutral = "neutral.txt"')
    few = few.replace("[eval]  #", "[eval]\nno-texts = true\nno-facts = true\n#")
    (there / "neutral.txt").write_text("The garden was near the house. We found the letter.\nThe evening was long.\n")
    assert few.count("\n") == text.count("\n") + 4
    path.write_text(few.replace('"kl<=0.2"', '"kl<=1"'), encoding="utf-8")
    found = steer("run", path)
    assert found.code == 0, found.err
    assert sm.Plan.load(there / "happy.plan.safetensors").evidence["row"]["effect"] > 1
    plain = sm.SteeringModel.from_pretrained(there / "happy-model")
    assert plain.generate("I think the movie was", max_new_tokens=1).strip() in {
        f"{word}." for word in sm.demo.words("positive")
    } | set(sm.demo.words("positive"))


def test_the_page_shows_the_example() -> None:
    page = (EXAMPLES.parent / "docs" / "tutorials" / "recipes.md").read_text(encoding="utf-8")
    assert (EXAMPLES / "sentiment.toml").read_text(encoding="utf-8") in page
