from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.files.making import FIXTURES, TRUTH, svec

import steersman as sm


def test_it_converts_checks_and_says_so(steer, tmp_path) -> None:
    target = tmp_path / "v.gguf"
    found = steer("convert", FIXTURES / "caa", target, "--check")
    assert found.code == 0, found.err
    assert found.out.splitlines() == [
        "caa  CAA vectors, 3 layers of resid_post, width 16",
        f"saved {target}",
        "read back by steersman and gguf: every bit is the same",
    ]
    loaded = sm.SteeringVector.load(target)
    assert {i: loaded[i].numpy().tobytes() for i in loaded} == {i: a.tobytes() for i, a in TRUTH.items()}


def test_it_leaves_a_record_of_what_it_read(steer, tmp_path) -> None:
    assert steer("convert", FIXTURES / "repeng.gguf", tmp_path / "v.safetensors").code == 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert [Path(name).name for name in record["inputs"]] == ["repeng.gguf"]
    assert record["conversion"]["layers"] == [1, 2, 3]


def test_one_document_of_json(steer, vectors, tmp_path) -> None:
    found = steer("convert", vectors / "glad.safetensors", tmp_path / "v.gguf", "--strength", 2, "--check", "--json")
    document = found.json
    assert document["schema"] == "steersman.convert/1"
    assert (document["layers"], document["left_out"], document["verified"]) == ([1, 2], [0], ["steersman", "gguf"])
    assert (document["name"], document["format"], document["written"]) == ("glad", "steersman vector", True)
    own, loaded = (sm.SteeringVector.load(path) for path in (vectors / "glad.safetensors", tmp_path / "v.gguf"))
    assert torch.equal(loaded[1], own[1] * 2)


def test_layer_0_is_left_out_aloud_and_once(steer, vectors, tmp_path) -> None:
    found = steer("convert", vectors / "glad.safetensors", tmp_path / "v.gguf", "--check")
    assert "left out: layer 0" in found.out
    assert found.err.count("layer 0 is left out") == 1


def test_a_dry_run_writes_nothing(steer, tmp_path) -> None:
    found = steer("convert", FIXTURES / "repeng.gguf", tmp_path / "v.safetensors", "--dry-run")
    assert "would write" in found.out
    assert "nothing was done" in found.err
    assert (
        steer("convert", FIXTURES / "repeng.gguf", tmp_path / "v.gguf", "--dry-run", "--json").json["written"] is False
    )
    assert list(tmp_path.iterdir()) == []


def test_how_a_foreign_file_counts_can_be_said(steer, tmp_path) -> None:
    options = ("--index-offset", -1, "--site", "resid_pre")
    assert steer("convert", FIXTURES / "repeng.gguf", tmp_path / "v.safetensors", *options).code == 0
    loaded = sm.SteeringVector.load(tmp_path / "v.safetensors")
    assert (loaded.layers, loaded.site) == ((0, 1, 2), "resid_pre")


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("v.pt", (), ".safetensors or .gguf"),
        ("v.gguf", ("--site", "resid_pre"), "is of resid_pre"),
        ("v.gguf", ("--site", "nowhere"), "unknown site"),
        ("v.gguf", ("--strength", "0"), "adds nothing"),
        ("v.safetensors", ("--strength", "2"), "leave it out"),
        ("v.gguf", ("--index-offset", "-2"), "counted from 0"),
        ("none/v.gguf", (), "does not exist"),
    ],
)
def test_what_cannot_be_is_refused_in_one_message(target, options, message, steer, tmp_path) -> None:
    found = steer("convert", FIXTURES / "repeng.gguf", tmp_path / target, *options)
    assert found.code != 0
    assert message in found.err
    assert "Traceback" not in found.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_vector_is_refused(steer, tmp_path) -> None:
    (tmp_path / "v.svec").write_text("{")
    found = steer("convert", tmp_path / "v.svec", tmp_path / "v.gguf")
    assert found.code == 2
    assert "no JSON" in found.err
    assert steer("convert", tmp_path / "missing.pt", tmp_path / "v.gguf").code == 2
    assert steer("convert", svec(tmp_path / "w.svec", {"1": [[1.0], [2.0]]}), tmp_path / "v.gguf").code == 2
