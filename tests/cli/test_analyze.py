from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
import torch

import steersman as sm


def test_it_shows_lengths_tokens_and_texts_as_the_library_finds_them(steer, model, vectors) -> None:
    options = ("--vectors", vectors, "--model", model, "--text", "the tea is", "-k", 3, "--json")
    document = steer("analyze", "glad", *options).json
    loaded, glad = sm.SteeringModel.from_pretrained(model), sm.SteeringVector.load(vectors / "glad.safetensors")
    (found,) = document["vectors"]
    assert document["schema"] == "steersman.analyze/1"
    assert (found["name"], found["layer"], document["cosines"]) == ("glad", 1, None)
    assert found["lengths"]["2"] == pytest.approx(float(glad[2].norm()))
    lens = sm.lens(loaded, glad, k=3)
    assert found["lens"]["boosted"] == [list(item) for item in lens.boosted]
    assert found["lens"]["control"] == pytest.approx(lens.control)
    lying = sm.projections(loaded, "the tea is", glad)
    assert found["projections"][0]["values"] == pytest.approx(lying.values)
    assert found["projections"][0]["between"] == pytest.approx(lying.between)
    assert found["projections"][0]["tokens"] == lying.tokens


def test_the_text_says_the_same(steer, model, vectors) -> None:
    found = steer("analyze", "glad", "--vectors", vectors, "--model", model, "--text", "the tea is", "-k", 4)
    assert found.code == 0, found.err
    loaded, glad = sm.SteeringModel.from_pretrained(model), sm.SteeringVector.load(vectors / "glad.safetensors")
    lines = found.out.splitlines()
    assert lines[0] == "glad  at resid_post"
    (chosen,) = [line for line in lines if "looked at" in line]
    assert chosen.split()[:3] == ["1", f"{float(glad[1].norm()):.2f}", "4.00"]
    cosine = float(torch.cosine_similarity(glad[0], glad[1], dim=0))
    assert f"{cosine:.2f}" in chosen.split()
    assert f"{sm.lens(loaded, glad, k=4).boosted[0][1]:+.2f}" in found.out
    assert "of 95% of 100 random directions" in found.out
    values = sm.projections(loaded, "the tea is", glad).values
    assert all(f"{value:+.2f}" in found.out for value in values)
    assert "\x1b" not in found.out


def test_several_are_compared_and_every_chart_is_written(steer, model, vectors, pairs, tmp_path) -> None:
    generator = torch.Generator().manual_seed(8)
    other = sm.SteeringVector({1: torch.randn(32, generator=generator)}, name="a/b c", layer=1)
    other.save(tmp_path / "other.safetensors")
    target = tmp_path / "out"
    found = steer(
        "analyze", "glad", tmp_path / "other.safetensors", "--vectors", vectors, "--model", model,
        "--text", "the tea", "--text", "a dog", "--pairs", pairs, "-o", target, "--json",
    )  # fmt: skip
    assert found.code == 0, found.err
    document, glad = found.json, sm.SteeringVector.load(vectors / "glad.safetensors")
    expected = float(torch.cosine_similarity(glad[1], other[1], dim=0))
    assert document["cosines"]["values"][0][1] == pytest.approx(expected, abs=1e-6)
    assert document["cosines"]["random_sd"] == pytest.approx(32**-0.5)
    charts = (
        {f"{name}-{end}.svg" for end in ("glad", "a-b-c") for name in ("lengths", "lens", "geometry")}
        | {f"projections-{end}-{number}.svg" for end in ("glad", "a-b-c") for number in (1, 2)}
        | {"cosines.svg"}
    )
    assert {path.name for path in target.iterdir()} == charts | {"analysis.json", "run.json"}
    for name in charts:
        assert ElementTree.parse(target / name).getroot().tag.endswith("svg")
    assert json.loads((target / "analysis.json").read_text()) == document
    assert set(json.loads((target / "run.json").read_text())["outputs"]) == charts | {"analysis.json"}
    loaded, examples = sm.SteeringModel.from_pretrained(model), sm.ContrastPairs.from_jsonl(pairs)
    sides = [sm.activations(loaded, side, layers=1) for side in (examples.positive, examples.negative)]
    plane = sm.geometry(*sides)
    assert document["vectors"][0]["geometry"]["in_plane"] == pytest.approx(plane.in_plane)
    assert document["vectors"][0]["geometry"]["explained"] == pytest.approx(list(plane.explained))


def test_a_prompt_measures_instead_of_the_direct_path(steer, model, vectors) -> None:
    options = ("--vectors", vectors, "--model", model, "--layer", 0, "--prompt", "the tea is", "-k", 2, "--json")
    (found,) = steer("analyze", "glad", *options, "--seed", 3).json["vectors"]
    loaded, glad = sm.SteeringModel.from_pretrained(model), sm.SteeringVector.load(vectors / "glad.safetensors")
    lens = sm.lens(loaded, glad, 0, 2, prompt="the tea is", seed=3)
    assert found["layer"] == 0
    assert found["lens"]["boosted"] == [[token, pytest.approx(logit)] for token, logit in lens.boosted]
    assert found["lens"]["controls"] == lens.controls == 20


def test_a_direction_of_heads_writes_no_tokens_but_is_projected_on(steer, model, tmp_path) -> None:
    loaded = sm.SteeringModel.from_pretrained(model)
    shape = loaded.shape
    direction = torch.randn(shape.n_heads, shape.d_head, generator=torch.Generator().manual_seed(1))
    sm.SteeringVector({1: direction}, site="z", name="heads").save(tmp_path / "h.safetensors")
    found = steer("analyze", tmp_path / "h.safetensors", "--model", model, "--text", "the tea")
    assert found.code == 0, found.err
    assert "no tokens are listed" in found.err
    assert "boosts" not in found.out
    vector = sm.SteeringVector.load(tmp_path / "h.safetensors")
    assert f"{sm.projections(loaded, 'the tea', vector, 1).values[-1]:+.2f}" in found.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["glad"], "no model given"),
        (["gladd", "--model", "{model}"], "did you mean 'glad'?"),
        (["wide", "--model", "{model}"], "has d_model 48"),
        (["glad", "--model", "{model}", "--layer", "7"], "use one of 0, 1, 2"),
        (["glad", "--model", "{model}", "--norm", "rms"], "use gain or none"),
        (["plain.safetensors", "--model", "{model}"], "--layer N, one of 0, 1"),
        (["glad", "--model", "{model}", "-o", "nowhere/x"], "mkdir -p nowhere"),
        (["glad", "--model", "{model}", "-o", "plain.safetensors"], "name a folder"),
        (["glad", "--model", "{model}", "--pairs", "none.jsonl", "-o", "x"], "there is no file none.jsonl"),
    ],
)
def test_wrong_input_is_exit_2_and_writes_nothing(
    steer, model, vectors, tmp_path, monkeypatch, options, message
) -> None:
    monkeypatch.chdir(tmp_path)
    sm.SteeringVector({0: torch.ones(32), 1: torch.ones(32)}, name="plain").save("plain.safetensors")
    before = set(tmp_path.iterdir())
    found = steer("analyze", *(option.format(model=model) for option in options), "--vectors", vectors)
    assert found.code == 2, found.err
    assert message in found.err
    assert set(tmp_path.iterdir()) == before


def test_a_dry_run_loads_no_weights(steer, model, vectors, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("torch.nn.Module.__call__", lambda *_, **__: pytest.fail("a forward pass"))
    monkeypatch.setattr("steersman.cli.models.load", lambda *_, **__: pytest.fail("weights"))
    options = ("--vectors", vectors, "--model", model, "-o", tmp_path / "out", "--dry-run")
    found = steer("analyze", "glad", *options)
    assert found.code == 0, found.err
    assert "the tokens of 1 vector" in found.out
    assert not (tmp_path / "out").exists()
