"""steer ablate and steer patch."""

from __future__ import annotations

import csv
import json

import pytest

import steersman as sm

PROMPTS = ("the movie was", "a movie in Paris is")
ENDS = ("--target", " good", "--foil", " bad")


def test_ablate_prints_the_largest_effects_of_the_library(steer, model) -> None:
    found = steer("ablate", model, *PROMPTS, *ENDS, "--mode", "zero", "--top", 3)
    assert found.code == 0, found.err
    study = sm.ablation_study(
        sm.SteeringModel.from_pretrained(model), list(PROMPTS), mode="zero", metric=sm.logit_difference(" good", " bad")
    )
    lines = found.out.splitlines()
    assert lines[0].startswith("zero ablation of 12 components: logit difference of good over bad, whole model")
    assert [line.split()[0] for line in lines if line.startswith("L")] == [one.component.label for one in study.top(3)]
    assert f"{study.top(1)[0].effect.value:+.3f}" in found.out
    assert "an interval needs 8" in found.out


def test_ablate_writes_map_table_and_document(steer, model, tmp_path) -> None:
    prompts, corpus = tmp_path / "prompts.jsonl", tmp_path / "corpus.txt"
    rows = [
        {"prompt": text, "target": " good", "foil": foil}
        for text, foil in zip(PROMPTS, (" bad", " awful"), strict=True)
    ]
    prompts.write_text("\n".join(json.dumps(row) for row in rows))
    corpus.write_text("the weather is good\nParis\n")
    outputs = [tmp_path / f"study.{kind}" for kind in ("svg", "csv", "json")]
    options = [item for path in outputs for item in ("-o", path)]
    found = steer(
        "ablate", model, "--prompts", prompts, "--reference", corpus, "--sites", "attention,mlp:1-2", *options, "--json"
    )
    assert found.code == 0, found.err
    assert found.json["schema"] == "steersman.ablate/1"
    assert json.loads(outputs[2].read_text())["components"] == found.json["components"]
    with outputs[1].open() as opened:
        table = list(csv.DictReader(opened))
    assert [row["component"] for row in table] == ["attention 0", "attention 1", "attention 2", "mlp 1", "mlp 2"]
    assert float(table[0]["effect"]) == pytest.approx(found.json["components"][0]["effect"])
    assert outputs[0].read_text().startswith("<svg")
    record = json.loads((tmp_path / "run.json").read_text())
    assert set(record["outputs"]) == {path.name for path in outputs}
    assert str(corpus) in record["inputs"]


def test_ablate_goes_on_where_its_rows_end(steer, model, tmp_path) -> None:
    kept = tmp_path / "rows.jsonl"
    command = ("ablate", model, *PROMPTS, *ENDS, "--mode", "zero", "--rows", kept)
    whole = steer(*command)
    lines = kept.read_text().splitlines(keepends=True)
    assert steer(*command[:-2]).out == whole.out
    kept.write_text("".join(lines[:4]))
    again = steer(*command)
    assert (again.code, again.out) == (0, whole.out)
    assert kept.read_text().splitlines(keepends=True)[:4] == lines[:4]
    assert len(kept.read_text().splitlines()) == len(lines) > len(lines[:4])
    other = steer(*command[:4], *ENDS, "--mode", "mean", "--rows", kept)
    assert other.code != 0
    assert "mode" in other.err
    wrong = steer(*command[:-1], tmp_path / "rows.txt")
    assert wrong.code == 2
    assert "jsonl" in wrong.err


def test_patch_scores_and_first_order_scores(steer, model, tmp_path) -> None:
    clean, corrupt = "the movie was great and", "the movie was awful and"
    sides = ("--clean", clean, "--corrupt", corrupt)
    found = steer("patch", model, *sides, *ENDS, "--attribution", "--json", "-o", tmp_path / "map.svg")
    assert found.code == 0, found.err
    study = sm.patching_study(
        sm.SteeringModel.from_pretrained(model),
        clean,
        corrupt,
        metric=sm.logit_difference(" good", " bad"),
        attribution=True,
    )
    assert len(found.json["patches"]) == len(study.patches)
    assert found.json["patches"][-1]["score"] == pytest.approx(study.patches[-1].score.value, abs=1e-4)
    assert 'data-chart="heatmap"' in (tmp_path / "map.svg").read_text()
    said = steer("patch", model, *sides, *ENDS, "--sites", "heads", "--screen", 2, "--top", 5)
    assert "first order" in said.out
    assert len([line for line in said.out.splitlines() if line.startswith("L")]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ablate", "{model}"], "no prompt given"),
        (["ablate", "{model}", "x", "--prompts", "y.txt"], "two ways"),
        (["ablate", "{model}", "--prompts", "y.txt"], "there is no file y.txt"),
        (["ablate", "{model}", "x", "--metric", "beauty"], "use one of logit-difference"),
        (["ablate", "{model}", "x", "--metric", "probability"], "needs --target"),
        (["ablate", "{model}", "x", "--metric", "logit-difference", "--target", " good"], "needs --foil"),
        (["ablate", "{model}", "x", "--target", "good", "--foil", " bad"], "did you mean ' good'"),
        (["ablate", "{model}", "x", "--mode", "mode"], "zero, mean or resample"),
        (["ablate", "{model}", "x", "--mode", "zero", "--sites", "heads:9"], "has 3 layers"),
        (["ablate", "{model}", "x", "--sites", "soul"], "unknown site"),
        (["ablate", "{model}", "x", "-o", "x.png"], "must end in .svg"),
        (["ablate", "{model}", "x", "-o", "nowhere/x.svg"], "mkdir -p nowhere"),
        (["patch", "{model}"], "no pair of prompts"),
        (["patch", "{model}", "--clean", "a b", "--corrupt", "a"], "tokens and the corrupt one"),
        (["patch", "{model}", "--clean", "a", "--corrupt", "b", "--direction", "up"], "denoising or noising"),
        (["patch", "{model}", "--clean", "a", "--corrupt", "b", "--pairs", "x.jsonl"], "two ways"),
    ],
)
def test_wrong_input_is_exit_2_and_writes_nothing(steer, model, tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    found = steer(*(argument.format(model=model) for argument in arguments))
    assert found.code == 2, found.err
    assert message in found.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ('{"clean": "a", "corrupt": "b"}\n{', "line 2 is not JSON"), ('{"clean": "a"}', "row 1 lacks"),
     ("[]", "no JSON object")],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_named(steer, model, tmp_path, content, message) -> None:
    (tmp_path / "pairs.jsonl").write_text(content)
    found = steer("patch", model, "--pairs", tmp_path / "pairs.jsonl")
    assert found.code == 2, found.err
    assert message in found.err


@pytest.mark.parametrize("command", ["ablate", "patch"])
def test_a_dry_run_runs_nothing(steer, model, monkeypatch, command) -> None:
    monkeypatch.setattr("torch.nn.Module.__call__", lambda *_, **__: pytest.fail("a forward pass"))
    rest = ["a movie"] if command == "ablate" else ["--clean", "a movie", "--corrupt", "a Paris"]
    found = steer(command, model, *rest, "--dry-run", "--json")
    assert found.code == 0, found.err
    assert found.json["command"] == command
    assert found.json.get("components", found.json.get("patches")) > 0
