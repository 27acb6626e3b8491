from __future__ import annotations

import hashlib
import json

import pytest

import steersman as sm


def test_it_prints_layers_with_controls_and_saves(steer, model, pairs, tmp_path) -> None:
    target = tmp_path / "glad.safetensors"
    found = steer("extract", model, "--pairs", pairs, "--name", "glad", "-o", target)
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert lines[0].startswith("glad  mean_difference at resid_post, read last, 12 positive")
    assert lines[2].split() == ["layer", "accuracy", "95%", "shuffled", "AUROC", "gap", "gap/norm", "agree"]
    assert [line.split()[0] for line in lines[3:6]] == ["0", "1", "2"]
    assert sum("chosen" in line for line in lines[3:6]) == 1
    assert "n = 24" in found.out
    assert lines[-1] == f"saved {target}"
    vector = sm.SteeringVector.load(target)
    assert vector.name == "glad"
    assert vector.layer is not None


def test_the_vector_is_that_of_the_library(steer, model, pairs, tmp_path) -> None:
    target = tmp_path / "v.safetensors"
    options = ("--layers", "0,2", "--site", "mlp_out", "--read", "-2", "--seed", 3)
    document = steer("extract", model, "--pairs", pairs, *options, "-o", target, "--json").json
    loaded = sm.SteeringModel.from_pretrained(model)
    expected = sm.extract(
        loaded, sm.ContrastPairs.from_jsonl(pairs, name="v"), layers=[0, 2], site="mlp_out", read=-2, seed=3
    )
    assert sm.SteeringVector.load(target) == expected
    assert document["schema"] == "steersman.extract/1"
    assert document["layers"] == [0, 2]
    assert document["chosen_layer"] == expected.layer
    assert set(document["quality"]["layers"]) == {"0", "2"}


def test_examples_from_text_files_csv_and_packaged_sets(steer, model, tmp_path) -> None:
    good, bad, table = tmp_path / "good.txt", tmp_path / "bad.txt", tmp_path / "x.csv"
    good.write_text("a great dog\n\nthe great sea\n")
    bad.write_text("an awful dog\nthe awful sea\nan awful day\n")
    table.write_text("positive,negative\na great dog,an awful dog\n")
    two = steer("extract", model, "--positive", good, "--negative", bad, "--json").json
    assert (two["metadata"]["positive"], two["metadata"]["negative"], two["name"]) == (2, 3, "good")
    assert steer("extract", model, "--pairs", table, "--json").json["metadata"]["positive"] == 1
    packaged = steer("extract", model, "--pairs", "sentiment", "--json", "--layers", "1").json
    assert packaged["metadata"]["positive"] >= 40


def test_too_few_to_measure_is_said(steer, model, tmp_path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"positive": "a great dog", "negative": "an awful dog"}))
    found = steer("extract", model, "--pairs", file)
    assert "none were measured, no layer is chosen" in found.out
    assert "too few examples to measure" in found.err
    assert "not saved (give -o FILE.safetensors)" in found.out


def test_run_json_stands_beside_it_and_an_earlier_record_is_kept(steer, model, pairs, tmp_path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b", "b"):
        assert steer("extract", model, "--pairs", pairs, "-o", folder / f"{name}.safetensors").code == 0
    assert {path.name for path in folder.iterdir()} == {
        "a.safetensors", "a.safetensors.run.json", "b.safetensors", "run.json",
    }  # fmt: skip
    record = json.loads((folder / "run.json").read_text())
    assert record["outputs"]["b.safetensors"] == hashlib.sha256((folder / "b.safetensors").read_bytes()).hexdigest()
    assert record["inputs"][str(pairs)] == hashlib.sha256(pairs.read_bytes()).hexdigest()
    assert record["vector"]["name"] == "b"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no examples given"),
        (["--pairs", "none.jsonl"], "there is no file none.jsonl"),
        (["--pairs", "sentimental"], "one of sentiment, formal"),
        (["--positive", "none.txt", "--negative", "none.txt"], "there is no file none.txt"),
        (["--pairs", "{pairs}", "--positive", "x.txt"], "two ways to give examples"),
        (["--pairs", "{pairs}", "--method", "magic"], "unknown method 'magic'"),
        (["--pairs", "{pairs}", "--layers", "9"], "has 3 layers"),
        (["--pairs", "{pairs}", "--layers", "few"], "layers='few'"),
        (["--pairs", "{pairs}", "--site", "soul"], "unknown site 'soul'"),
        (["--pairs", "{pairs}", "--read", "first"], "read='first'"),
        (["--pairs", "{pairs}", "--read", "99"], "none at index 99"),
        (["--pairs", "{pairs}", "-o", "x.pt"], "-o x.safetensors"),
        (["--pairs", "{pairs}", "-o", "nowhere/x.safetensors"], "mkdir -p nowhere"),
    ],
)
def test_wrong_input_is_exit_2_and_writes_nothing(steer, model, pairs, tmp_path, monkeypatch, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    found = steer("extract", model, *(option.format(pairs=pairs) for option in options))
    assert found.code == 2, found.err
    assert message in found.err
    assert set(tmp_path.iterdir()) == before


def test_a_dry_run_says_what_it_takes(steer, model, pairs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("torch.nn.Module.__call__", lambda *_, **__: pytest.fail("a forward pass"))
    found = steer("extract", model, "--pairs", pairs, "--dry-run", "--layers", "0-1", "-o", tmp_path / "v.safetensors")
    assert found.code == 0, found.err
    assert "12 positive, 12 negative" in found.out
    assert "1 forward pass up to layer 1" in found.out
    assert not (tmp_path / "v.safetensors").exists()


def test_an_interrupted_save_leaves_nothing_behind(steer, model, pairs, tmp_path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("steersman.files.container.save_file", fail)
    found = steer("extract", model, "--pairs", pairs, "-o", tmp_path / "v.safetensors")
    assert found.code == 1
    assert "no space left" in found.err
    assert {path.name for path in tmp_path.iterdir()} == {pairs.name}


def test_a_command_that_was_interrupted_goes_on(steer, model, pairs, tmp_path, monkeypatch) -> None:
    from steersman.extraction import passes

    monkeypatch.setattr(passes, "WORTH", 0.0)  # no packing: several passes
    target, run, ran = tmp_path / "v.safetensors", passes.Reader.run, []

    def breaking(self, one):
        ran.append(one.size)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return run(self, one)

    monkeypatch.setattr(passes.Reader, "run", breaking)
    command = ("extract", model, "--pairs", pairs, "--token-budget", 40, "-o", target)
    broken = steer(*command)
    assert broken.code == 130
    assert "takes it up again" in broken.err
    assert not target.exists()
    assert (tmp_path / "v.partial.safetensors").is_file()
    again = steer(*command)
    assert again.code == 0, again.err
    assert "going on from" in again.err
    assert sorted(path.name for path in tmp_path.glob("v*")) == ["v.safetensors"]
    monkeypatch.setattr(passes.Reader, "run", run)
    steer("extract", model, "--pairs", pairs, "--token-budget", 40, "-o", tmp_path / "w.safetensors")
    whole = sm.SteeringVector.load(tmp_path / "w.safetensors")
    assert sm.SteeringVector.load(target)[1].sub(whole[1]).norm() < 1e-5 * whole[1].norm()


def test_workers_without_a_cluster_are_refused(steer, model, pairs) -> None:
    found = steer("extract", model, "--pairs", pairs, "--workers", 2)
    assert found.code == 2
    assert "--ray" in found.err
