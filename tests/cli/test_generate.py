from __future__ import annotations

import json

import pytest

import steersman as sm

SHORT = ("--max-new-tokens", 4)


def test_the_continuation_follows_the_prompt(steer, model) -> None:
    found = steer("generate", model, "the tea is", *SHORT)
    loaded = sm.SteeringModel.from_pretrained(model)
    assert found.code == 0
    assert found.out == f"the tea is{loaded.generate('the tea is', max_new_tokens=4)}\n"
    assert "unsteered" in found.err


def test_the_text_is_that_of_the_library(steer, model, vectors) -> None:
    document = steer(
        "generate", model, "the tea is", "a dog", "-v", "glad:4@1", "--vectors", vectors, "--json", *SHORT
    ).json
    loaded = sm.SteeringModel.from_pretrained(model)
    glad = sm.SteeringVector.load(vectors / "glad.safetensors")
    expected = loaded.generate(["the tea is", "a dog"], steer=sm.Add(glad, 4.0, layers=1), max_new_tokens=4)
    assert document["schema"] == "steersman.generate/1"
    assert [row["steered"] for row in document["results"]] == expected
    assert document["plan"]["digest"] == sm.Plan([sm.Add(glad, 4.0, layers=1)]).digest
    assert document["model"]["fingerprint"] == loaded.shape.fingerprint


def test_compare_shows_both_with_one_seed(steer, model, vectors) -> None:
    options = ("--vectors", vectors, "--compare", "--temperature", 1.5, "--seed", 7, *SHORT)
    row = steer("generate", model, "the", "-v", "glad:3@1", "--json", *options).json["results"][0]
    alone = steer("generate", model, "the", "--temperature", 1.5, "--seed", 7, "--json", *SHORT).json["results"][0]
    assert row["unsteered"] == alone["unsteered"]
    off = steer("generate", model, "the", "-v", "glad:0@1", "--json", *options).json["results"][0]
    assert off["unsteered"] == off["steered"]
    text = steer("generate", model, "the", "-v", "glad:3@1", *options).out
    assert [line.split("  ")[0] for line in text.splitlines()] == ["prompt", "unsteered", "steered (glad +3 @1)"]


def test_vectors_combine_in_order_after_the_plan(steer, model, vectors, tmp_path) -> None:
    glad = sm.SteeringVector.load(vectors / "glad.safetensors")
    saved = sm.Plan([sm.Ablate(glad[0])]).save(tmp_path / "p.safetensors")
    plan = steer(
        "generate", model, "the", "--plan", saved, "-v", f"{vectors / 'glad.safetensors'}:2@0", "-v", "glad:-1@2",
        "--vectors", vectors, "--json", *SHORT,
    ).json["plan"]  # fmt: skip
    assert [(i["operation"], i.get("strength")) for i in plan["interventions"]] == [
        ("ablate", 1),
        ("add", 2),
        ("add", -1),
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["ablate"], {"operation": "ablate"}),
        (["clamp", "--value", "2"], {"operation": "clamp", "value": 2.0}),
        (["affine", "--alpha", "0"], {"operation": "affine", "alpha": 0.0}),
        (["rotate", "--angle", "1"], {"operation": "rotate", "angle": 1.0}),
        (["add", "--unit", "gap"], {"operation": "add", "unit": "gap"}),
        (["add", "--positions", "all"], {"operation": "add", "positions": "all"}),
    ],
)
def test_every_operation(steer, model, vectors, options, expected) -> None:
    found = steer(
        "generate", model, "the", "-v", "glad", "--vectors", vectors, "--operation", *options, "--json", *SHORT
    )
    assert found.code == 0, found.err
    assert expected.items() <= found.json["plan"]["interventions"][0].items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-v", "glad:"], "glad:"),
        (["-v", "glad:1@9-3"], "9-3"),
        (["-v", "gladd"], "did you mean 'glad'?"),
        (["-v", "none-such-thing"], "packaged: happy, formal"),
        (["-v", "./gladd.safetensors"], "there is no vector file"),
        (["-v", "wide"], "has d_model 48"),
        (["-v", "glad@7"], "has 3 layers: 0 to 2"),
        (["-v", "glad", "--operation", "ad"], "did you mean add?"),
        (["-v", "glad", "--operation", "clamp"], "needs --value"),
        (["-v", "glad", "--alpha", "1"], "belongs to --operation affine"),
        (["-v", "glad", "--unit", "miles"], "--unit norm"),
        (["-v", "glad", "--positions", "somewhere"], "positions='somewhere'"),
        (["-v", "glad", "--positions", "prompt[50]"], "select no token"),
        (["--compare"], "nothing to compare"),
        (["--plan", "none.safetensors"], "none.safetensors"),
        (["--max-new-tokens", "300"], "256 positions"),
        (["--temperature", "-1"], "temperature must be above 0"),
        (["--device", "quantum"], "--device quantum is unknown"),
        (["--dtype", "int3"], "use one of auto, float32"),
        (["-o", "nowhere/x.json"], "mkdir -p nowhere"),
    ],
)
def test_wrong_input_is_exit_2_with_what_why_and_fix(steer, model, vectors, options, message) -> None:
    found = steer("generate", model, "the", "--vectors", vectors, *options)
    assert found.code == 2, found.err
    assert found.out == ""
    assert found.err.count("error:") == 1
    assert message in found.err
    assert "Traceback" not in found.err
    assert len(found.err.splitlines()) <= 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dem", "did you mean 'demo'?"),
        ("./nothing/here", "there is no model folder"),
        ("no-such-org/no-such-model", "could not be loaded"),
    ],
)
def test_a_model_that_is_not_there(steer, monkeypatch, name, message) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("the hub has no such model")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", refuse)
    found = steer("generate", name, "the", "--offline")
    assert found.code == 2
    assert message in found.err


def test_a_folder_without_a_model_and_a_damaged_one(steer, tmp_path) -> None:
    assert "has no config.json" in steer("generate", tmp_path, "the").err
    (tmp_path / "config.json").write_text("{}")
    found = steer("generate", tmp_path, "the")
    assert found.code == 2
    assert "cannot be loaded" in found.err


def test_chat_and_system_go_through_the_template(steer, model) -> None:
    plain, chat, system = (
        steer("generate", model, "the", *options, "--json", *SHORT).json["results"][0]["tokens"]
        for options in ([], ["--chat"], ["--system", "a dog"])
    )
    assert plain < chat < system


def test_prompts_from_stdin(steer, model) -> None:
    document = steer("generate", model, "-", "--json", *SHORT, stdin="the\n\na dog\n").json
    assert [row["prompt"] for row in document["results"]] == ["the", "a dog"]
    assert steer("generate", model, "-", stdin="\n").code == 2


def test_output_holds_the_document_and_run_json_its_record(steer, model, vectors, tmp_path) -> None:
    target = tmp_path / "texts.json"
    found = steer(
        "generate", model, "the", "-v", "glad:2@1", "--vectors", vectors, "--seed", 5, "-o", target, "--json", *SHORT
    )
    assert json.loads(target.read_text()) == found.json
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["schema"] == "steersman.run/1"
    assert record["command"] == "generate"
    assert record["seed"] == record["settings"]["seed"] == 5
    assert record["settings"]["vector"] == ["glad:2@1"]
    assert len(record["outputs"]["texts.json"]) == 64
    assert list(record["inputs"]) == [str(vectors / "glad.safetensors")]
    assert record["model"]["fingerprint"] == found.json["model"]["fingerprint"]
    assert {"python", "steersman", "torch", "transformers"} <= set(record["versions"])
    assert {"cpus", "gpus", "system"} <= set(record["hardware"])
    assert record["seconds"] > 0


def test_a_dry_run_loads_no_weights_and_runs_nothing(steer, model, vectors, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a forward pass")

    monkeypatch.setattr("torch.nn.Module.__call__", refuse)
    monkeypatch.setattr("steersman.cli.models.load", refuse)
    found = steer(
        "generate", model, "the tea", "-v", "glad:2@1", "--vectors", vectors, "--dry-run", "--compare", *SHORT
    )
    assert found.code == 0, found.err
    for text in ("3 layers, width 32", "glad +2 @1", "8 forward passes", "memory"):
        assert text in found.out
    document = steer("generate", model, "the tea", "-v", "glad:2@1", "--vectors", vectors, "--dry-run", "--json").json
    assert document["schema"] == "steersman.dry-run/1"
    assert document["memory_bytes"]["total"] > document["memory_bytes"]["weights"] > 0


@pytest.mark.parametrize("options", [["-v", "wide"], ["-v", "glad@9"], ["--max-new-tokens", "300"]])
def test_a_dry_run_finds_what_does_not_fit(steer, model, vectors, options) -> None:
    assert steer("generate", model, "the", "--vectors", vectors, "--dry-run", *options).code == 2


def test_piped_text_has_no_escape_codes_and_quiet_is_quiet(steer, model, vectors) -> None:
    found = steer("generate", model, "the", "-v", "glad:2@1", "--vectors", vectors, "--compare", *SHORT)
    assert "\x1b" not in found.out + found.err
    assert not any(line.endswith(" ") for line in found.out.splitlines())
    assert steer("generate", model, "the", "--quiet", *SHORT).err == ""


def test_a_terminal_gets_columns_and_no_color_is_obeyed(steer, model, vectors) -> None:
    options = ("-v", "glad:2@1", "--vectors", vectors, "--compare", *SHORT)
    assert "\x1b" in steer("generate", model, "the", *options, FORCE_COLOR="1").out
    plain = steer("generate", model, "the", *options, FORCE_COLOR="1", NO_COLOR="1").out
    assert "\x1b" not in plain
    assert "glad +2 @1" in plain
