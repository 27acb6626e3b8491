"""steer edit: a plan that lasts, beside its base or in weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import steersman as sm


def test_an_edit_is_its_base_and_its_plan(steer, model, vectors, tmp_path) -> None:
    target = tmp_path / "out"
    found = steer("edit", model, "-v", "glad:1.5@1", "--vectors", vectors, "-o", target)
    assert found.code == 0, found.err
    assert "always with glad +1.5 @1" in found.out
    assert {path.name for path in target.iterdir()} == {"steersman_edit.json", "plan.safetensors", "run.json"}
    edited = sm.SteeringModel.from_pretrained(target)
    vector = sm.SteeringVector.load(vectors / "glad.safetensors")
    assert edited.plan == sm.Plan([sm.Add(vector, 1.5, layers=1)])
    assert steer("edit", model, "-v", "glad:1@1", "--vectors", vectors, "-o", target).code == 0  # again


def test_a_bake_is_an_ordinary_checkpoint_at_all_positions(steer, model, vectors, tmp_path) -> None:
    target = tmp_path / "out"
    found = steer("edit", model, "-v", "glad:1.5@1", "--vectors", vectors, "--bake", "-o", target)
    assert found.code == 0, found.err
    assert "positions: all, as weights act at every token" in found.err
    assert "an ordinary checkpoint" in found.out
    assert "all 96 greedy tokens equal" in found.out
    base = sm.SteeringModel.from_pretrained(model)
    vector = sm.SteeringVector.load(vectors / "glad.safetensors")
    ids = torch.tensor([base.tokens.encode("The weather is")])
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(target)(input_ids=ids).logits[0]
    expected = base.logits("The weather is", steer=sm.Add(vector, 1.5, layers=1, positions="all"))[0]
    assert float((plain - expected).abs().max()) < 1e-4
    record = json.loads((target / "run.json").read_text())
    assert record["bake"]["kind"] == "checkpoint"
    assert set(record["outputs"]) >= {"model.safetensors", "config.json", "README.md", "tokenizer.json"}


def test_an_adapter_a_plan_prompts_and_json(steer, model, vectors, tmp_path) -> None:
    plan, prompts = tmp_path / "plan.safetensors", tmp_path / "prompts.txt"
    sm.Plan([sm.Ablate(torch.ones(32))]).save(plan)
    prompts.write_text("the great sea\n\nthe awful sea\n")
    document = steer(
        "edit", model, "--plan", plan, "--adapter", "--prompts", prompts, "-o", tmp_path / "a", "--json"
    ).json
    assert document["schema"] == "steersman.edit/1"
    assert document["kind"] == "adapter"
    assert document["verification"]["prompts"] == 2
    assert (tmp_path / "a" / "adapter_model.safetensors").is_file()
    stored = steer("edit", model, "--plan", plan, "--bake", "--store", "bfloat16", "-o", tmp_path / "b", "--json").json
    assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == "bfloat16"
    assert stored["settings"] == {"tie_word_embeddings": False}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to edit with"),
        (["-v", "glad:0@1"], "nothing to edit with"),
        (["-v", "glad:1@1", "--bake", "--positions", "last"], "cannot be baked: it acts at positions last"),
        (["-v", "glad:1@1", "--bake", "--adapter"], "use one of them"),
        (["-v", "glad:1@1", "--store", "float32"], "add --bake"),
        (["-v", "glad:1@1", "--bake", "--store", "int4"], "use float32, bfloat16 or float16"),
        (["-v", "glad:1@1", "--prompts", "none.txt", "--bake"], "no file none.txt"),
        (["-v", "glad:1@1", "--operation", "clamp", "--value", "1", "--bake"], "the blocks below read the stream"),
        (["-v", "wide:1@1", "--bake"], "d_model 48"),
        (["-v", "glad:1@9", "--bake"], "names layer 9"),
    ],
)
def test_wrong_input_is_exit_2_and_writes_nothing(steer, model, vectors, tmp_path, options, message) -> None:
    found = steer("edit", model, *options, "--vectors", vectors, "-o", tmp_path / "out")
    assert found.code == 2, found.err
    assert message in found.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else_is_left(steer, model, vectors, tmp_path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    for options in ([], ["--bake"]):
        found = steer("edit", model, "-v", "glad:1@1", "--vectors", vectors, *options, "-o", mine)
        assert found.code == 2
        assert "holds something else" in found.err
    assert "mkdir -p" in steer("edit", model, "-v", "glad:1@1", "--vectors", vectors, "-o", mine / "a" / "b").err
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


def test_a_dry_run_says_what_would_change(steer, model, vectors, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("torch.nn.Module.__call__", lambda *_, **__: pytest.fail("a forward pass"))
    target = tmp_path / "out"
    options = ("-v", "glad:1@1", "--vectors", vectors, "--bake", "-o", target, "--dry-run")
    found = steer("edit", model, *options)
    assert found.code == 0, found.err
    assert "1 parameters" in found.out
    document = steer("edit", model, *options, "--json").json
    assert document["rewrites"] == ["transformer.h.1.mlp.c_proj.bias"]
    assert not target.exists()
    refused = steer("edit", model, *options, "--positions", "last")
    assert refused.code == 2
    assert not Path(target).exists()
