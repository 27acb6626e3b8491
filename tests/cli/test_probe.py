from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import steersman as sm
from steersman.data import LabelledTexts

NOUNS = ("tea", "sea", "sun", "dog", "cat", "bed", "hat", "pie", "bus", "job", "car", "map")


@pytest.fixture
def data(tmp_path):
    """Twelve texts of each of two classes, which the last word tells apart."""
    path = tmp_path / "mood.jsonl"
    rows = [{"text": f"the {noun} is {word}", "label": word} for noun in NOUNS for word in ("great", "awful")]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_it_prints_layers_with_controls_and_saves_what_the_library_fits(steer, model, data, tmp_path) -> None:
    target = tmp_path / "p.safetensors"
    found = steer("probe", model, "--data", data, "-o", target, "--seed", 2)
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert lines[0] == "linear probe  at resid_post, read last: 12 awful, 12 great"
    assert lines[2].split() == ["layer", "accuracy", "95%", "shuffled", "AUROC"]
    assert [line.split()[:2] for line in lines[3:6]] == [[str(layer), "1.00"] for layer in range(3)]
    assert [line.split()[-1] for line in lines[3:6]].count("best") == 1
    assert all(float(line.split()[3]) < 0.8 for line in lines[3:6])
    assert lines[-1] == f"saved {target}"
    texts = LabelledTexts.from_jsonl(data)
    loaded = sm.SteeringModel.from_pretrained(model)
    expected = sm.LinearProbe(5, seed=2).fit(sm.activations(loaded, texts.texts), texts.labels)
    saved = sm.LinearProbe.load(target)
    assert saved.frame().equals(expected.frame())
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["command"] == "probe"
    assert record["outputs"].keys() == {"p.safetensors"}
    assert record["inputs"].keys() == {str(data)}


def test_the_probe_that_is_saved_decides_as_scikit_learn_does(steer, model, data, tmp_path) -> None:
    target = tmp_path / "p.safetensors"
    assert steer("probe", model, "--data", data, "-o", target, "--layers", "1", "--read", "mean").code == 0
    loaded, texts = sm.SteeringModel.from_pretrained(model), LabelledTexts.from_jsonl(data)
    acts = sm.activations(loaded, texts.texts, read="mean")[1].double().numpy()
    probe = sm.LinearProbe.load(target)
    standard = (acts - acts.mean(0)) / acts.std(0)
    c = probe.frame().loc[1, "c"]
    scores = LogisticRegression(C=c, tol=1e-8, max_iter=9000).fit(standard, texts.labels).decision_function(standard)
    ours = probe._layers[1].logits(acts)[:, 1]
    np.testing.assert_allclose(ours, scores, atol=1e-3)


def test_the_direction_and_the_chart_are_written_too(steer, model, data, tmp_path) -> None:
    files = tmp_path / "p.safetensors", tmp_path / "v.safetensors", tmp_path / "c.svg"
    options = ("-o", files[0], "--vector", files[1], "--chart", files[2], "--label", "awful")
    document = steer("probe", model, "--data", data, *options, "--json").json
    vector, probe = sm.SteeringVector.load(files[1]), sm.LinearProbe.load(files[0])
    assert vector.name == "v"
    assert vector.metadata["positive"] == "awful"
    for layer in vector:
        torch.testing.assert_close(vector[layer], probe.to_vector("awful")[layer])
        torch.testing.assert_close(vector[layer], -probe.to_vector()[layer])
    assert ElementTree.parse(files[2]).getroot().tag.endswith("svg")
    assert document["schema"] == "steersman.probe/1"
    assert document["best_layer"] == probe.best_layer
    assert [row["accuracy"] for row in document["layers"]] == list(probe.accuracy.values())
    record = json.loads((tmp_path / "run.json").read_text())
    assert set(record["outputs"]) == {path.name for path in files}
    steered = steer("generate", model, "the", "-v", f"{files[1]}:2@1", "-n", 2)
    assert steered.code == 0, steered.err


def test_pairs_csv_and_several_classes(steer, model, pairs, tmp_path) -> None:
    two = steer("probe", model, "--data", pairs, "--json", "--layers", "0").json
    assert (two["classes"], two["counts"]) == (["negative", "positive"], [12, 12])
    table = tmp_path / "three.csv"
    rows = [f"the {noun} is {word},{word}" for noun in NOUNS for word in ("great", "awful", "long")]
    table.write_text("\n".join(["text,label", *rows]))
    three = steer("probe", model, "--data", table, "--json", "--layers", "0-1").json
    assert three["classes"] == ["awful", "great", "long"]
    assert [row["layer"] for row in three["layers"]] == [0, 1]
    assert all(row["accuracy"] == 1.0 for row in three["layers"])
    found = steer("probe", model, "--data", table, "--vector", tmp_path / "v.safetensors")
    assert found.code == 2
    assert "--vector needs --label" in found.err


def test_texts_of_one_source_are_never_on_both_sides(steer, model, tmp_path) -> None:
    """Each source has texts of one class only, which its noun gives away: held out by source, that is no help."""
    path = tmp_path / "x.jsonl"
    words = ("great", "awful", "long", "fine", "red", "old")
    rows = [
        {"text": f"the {word} {noun}", "label": number % 2, "source": noun}
        for number, noun in enumerate((*NOUNS, "day", "fox", "box", "key", "pen", "sky", "cup", "ice"))
        for word in words
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    held = steer("probe", model, "--data", path, "--json", "--layers", "0").json["layers"][0]["accuracy"]
    path.write_text("\n".join(json.dumps({k: v for k, v in row.items() if k != "source"}) for row in rows))
    mixed = steer("probe", model, "--data", path, "--json", "--layers", "0").json["layers"][0]["accuracy"]
    assert mixed > held + 0.15


def test_too_few_to_measure_is_said(steer, model, tmp_path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"{word} dog", "label": word}) for word in ("great", "awful")))
    found = steer("probe", model, "--data", file)
    assert found.code == 0, found.err
    assert "too few examples to measure" in found.out
    assert "accuracy" in found.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no labelled texts given"),
        (["--data", "none.jsonl"], "there is no file none.jsonl"),
        (["--data", "sentimental"], "one of sentiment, formal"),
        (["--data", "{data}", "--label", "awful"], "--label belongs to --vector"),
        (["--data", "{data}", "--label", "nice", "--vector", "v.safetensors"], "use one of great, awful"),
        (["--data", "{data}", "--layers", "9"], "has 3 layers"),
        (["--data", "{data}", "--read", "first"], "read='first'"),
        (["--data", "{data}", "--site", "soul"], "unknown site 'soul'"),
        (["--data", "{data}", "-o", "p.pt"], "-o p.safetensors"),
        (["--data", "{data}", "--chart", "p.png"], "--chart p.svg"),
        (["--data", "{data}", "--folds", "1"], "--folds"),
        (["--data", "one.jsonl"], "all texts are of one class, 1"),
        (["--data", "odd.jsonl"], "it needs text and label"),
        (["--data", "{data}", "--chart", "c.svg", "--vector", "nowhere/v.safetensors"], "mkdir -p nowhere"),
    ],
)
def test_wrong_input_is_exit_2_and_writes_nothing(steer, model, data, tmp_path, monkeypatch, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.jsonl").write_text('{"text": "a dog", "label": 1}\n{"text": "the sea", "label": 1}')
    (tmp_path / "odd.jsonl").write_text('{"words": "a dog", "label": 1}')
    before = set(tmp_path.iterdir())
    found = steer("probe", model, *(option.format(data=data) for option in options))
    assert found.code == 2, found.err
    assert message in found.err
    assert set(tmp_path.iterdir()) == before


def test_a_dry_run_makes_no_forward_pass(steer, model, data, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("torch.nn.Module.__call__", lambda *_, **__: pytest.fail("a forward pass"))
    found = steer("probe", model, "--data", data, "--dry-run", "--layers", "0-1", "-o", tmp_path / "p.safetensors")
    assert found.code == 0, found.err
    assert "12 great, 12 awful" in found.out
    assert "1 forward pass up to layer 1" in found.out
    assert not (tmp_path / "p.safetensors").exists()
