"""Vectors of other libraries: each is read to the last bit as its makers mean it, and refused where it is no vector."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.files.making import FIXTURES, TRUTH, WIDTH, repacked, svec
from tests.language.strategies import vector

from steersman import SteeringVector
from steersman.errors import FileFormatError, InterventionError

CAA = FIXTURES / "caa"
ONE = TRUTH[1].tolist()
TENSORS = {layer: torch.from_numpy(value.copy()) for layer, value in TRUTH.items()}


def same(found: SteeringVector, arrays: dict[int, Any]) -> bool:
    return {i: found[i].numpy().tobytes() for i in found} == {i: np.asarray(a).tobytes() for i, a in arrays.items()}


def refused(path: Path, message: str) -> None:
    with pytest.raises(FileFormatError, match=message) as error:
        SteeringVector.load(path)
    assert str(path.parent) in str(error.value)


# -- .svec -------------------------------------------------------------------------------------------------------


def test_a_file_of_aisteer360_is_read_to_the_last_bit(caplog: pytest.LogCaptureFixture) -> None:
    found = SteeringVector.load(FIXTURES / "aisteer360.svec")
    assert same(found, TRUTH)
    assert found.site == "resid_post"
    assert found.metadata["explained_variances"] == {"1": 0.5, "2": 0.5, "3": 0.5}
    assert "resid_pre" in caplog.text  # where it was fitted is not stored
    assert same(SteeringVector.load(FIXTURES / "aisteer360.svec", site="resid_pre"), TRUTH)


def test_heads_of_iti_become_a_vector_of_z() -> None:
    found = SteeringVector.load(FIXTURES / "aisteer360_iti_heads.svec")
    assert found.site == "z"
    assert same(found, {layer: value.reshape(4, 4) for layer, value in TRUTH.items()})
    assert found.metadata["probe_accuracies"] == {"1:0": 0.9}


def test_a_file_of_activation_steering_says_where_it_was_read_and_where_it_is_applied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = svec(tmp_path / "v.svec", explained_variances={"1": 0.5})
    found = SteeringVector.load(path)
    assert same(found, TRUTH)
    assert found.site == "resid_post"
    assert 'site="resid_pre" steers as that library does' in found.metadata["notes"][0]
    assert found.metadata["notes"][0] in caplog.text
    as_applied = SteeringVector.load(path, site="resid_pre")
    assert as_applied.site == "resid_pre"
    assert "notes" not in as_applied.metadata


@pytest.mark.parametrize(
    ("directions", "more", "message"),
    [
        ({"1": [ONE, ONE]}, {}, "2 rows a layer"),
        ({"1": [ONE[:4]] * 4}, {"num_heads": 4, "head_dim": 8}, "4 rows a layer"),
        ({"1": ONE, "2": ONE[:3]}, {}, "differ in width"),
        ({"1": [ONE], "2": ONE[:3]}, {}, "differ in width"),
        ({"1": [ONE, ONE[:3]]}, {}, "unequal length"),
        ({"1": []}, {}, "no list of numbers"),
        ({"1": [[]]}, {}, "no list of numbers"),
        ({"1": 5.0}, {}, "no list of numbers"),
        ({"1": ["a"]}, {}, "no list of numbers"),
        ({"1": [True]}, {}, "no list of numbers"),
        ({"1": [[[1.0]]]}, {}, "no list of numbers"),
        ({"1": [1.0, [2.0]]}, {}, "unequal length|numbers"),
        ({"1": [1e300]}, {}, "infinite"),
        ({"1": [10**400]}, {}, "huge"),
        ({"-1": ONE}, {}, "no index"),
        ({"01": ONE}, {}, "no index"),
        ({"one": ONE}, {}, "no index"),
        ({"\u0661": ONE}, {}, "no index"),
        ({"999999": ONE}, {}, "no index"),
        ({}, {}, "no directions"),
        ([ONE], {}, "no directions"),
        ({"1": ONE}, {"probe_accuracies": [1]}, "no object"),
        ({"1": ONE}, {"explained_variances": {"1": "high"}}, "finite numbers"),
        ({"1": ONE}, {"explained_variances": {"1": 10**400}}, "finite numbers"),
        ({str(i): [1.0] for i in range(5000)}, {}, "5000 layers"),
    ],
)
def test_rows_that_are_no_direction_are_refused(
    directions: Any, more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refused(svec(tmp_path / "v.svec", directions, **more), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "0 bytes"),
        ("{", "no JSON"),
        ("[1, 2]", "not an object"),
        ('"text"', "not an object"),
        ('{"directions": {"1": [NaN]}}', "no JSON number"),
        ('{"directions": {"1": [-Infinity]}}', "no JSON number"),
        ('{"directions": {"1": [1e999]}}', "infinite"),
        ('{"directions": {"1": [1.0], "1": [2.0]}}', "twice"),
        ('{"directions": {"1": [' + "9" * 5000 + "]}}", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"a":' * 100_000, "no JSON"),
        ("\ud800", "no JSON"),
    ],
)
def test_json_that_is_none_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "v.svec"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    refused(path, message)


def test_large_json_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "v.svec"
    with path.open("wb") as opened:
        opened.truncate(65 * 1024**2)
    refused(path, "bytes")


# -- .pt ---------------------------------------------------------------------------------------------------------


def test_a_folder_of_caa_is_read_to_the_last_bit() -> None:
    found = SteeringVector.load(CAA)
    assert same(found, TRUTH)
    assert (found.site, found.name, found.metadata["model"]) == ("resid_post", "caa", "Llama-2-7b-chat-hf")


def test_one_file_of_caa_is_one_layer() -> None:
    assert same(SteeringVector.load(CAA / "vec_layer_2_Llama-2-7b-chat-hf.pt"), {2: TRUTH[2]})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "vec_layer_7_gpt2.pt"
    torch.save(TENSORS[1].to(dtype), path)
    assert torch.equal(SteeringVector.load(path)[7], TENSORS[1].to(dtype).float())


def test_parameters_and_views_are_tensors_too(tmp_path: Path) -> None:
    path = tmp_path / "vec_layer_7_gpt2.pt"
    torch.save(torch.nn.Parameter(TENSORS[1]), path)
    assert same(SteeringVector.load(path), {7: TRUTH[1]})
    torch.save(torch.stack([TENSORS[1], TENSORS[2]], dim=1)[:, 1], path)
    assert same(SteeringVector.load(path), {7: TRUTH[2]})


def test_numbers_in_the_other_order_of_bytes_are_read(tmp_path: Path) -> None:
    changes = {"byteorder": b"big", "data/0": TRUTH[1].astype(">f4").tobytes()}
    path = repacked(CAA / "vec_layer_1_Llama-2-7b-chat-hf.pt", tmp_path / "vec_layer_1_m.pt", changes)
    assert same(SteeringVector.load(path), {1: TRUTH[1]})
    refused(repacked(path, tmp_path / "vec_layer_2_m.pt", {"byteorder": b"middle"}), "damaged")


def test_vectors_of_two_models_in_a_folder_are_not_mixed(tmp_path: Path) -> None:
    torch.save(TENSORS[1], tmp_path / "vec_layer_1_a.pt")
    torch.save(TENSORS[2], tmp_path / "vec_layer_2_b.pt")
    refused(tmp_path, "2 models")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vec_layer_1_head_3.pt", TENSORS[1], "attention head"),
        ("activations_pos_1_gpt2.pt", torch.ones(5, 4), "activations"),
        ("vector.pt", TENSORS[1], "of which layer"),
        ("vec_layer_01_m.pt", TENSORS[1], "no index"),
        ("vec_layer_1_m.pt", torch.ones(2, 4), "neither"),
        ("vec_layer_1_m.pt", torch.ones(2, 2, 2), "1-D"),
        ("vec_layer_1_m.pt", torch.tensor(1.0), "1-D"),
        ("vec_layer_1_m.pt", torch.ones(0), "1-D"),
        ("vec_layer_1_m.pt", torch.ones(4, dtype=torch.int64), "floating-point"),
        ("vec_layer_1_m.pt", torch.ones(4, dtype=torch.complex64), "Python objects"),
        ("vec_layer_1_m.pt", torch.tensor([1.0, float("nan")]), "NaN"),
        ("vec_layer_1_m.pt", torch.tensor([1e300], dtype=torch.float64), "infinite"),
        ("vec_layer_1_m.pt", torch.ones(1).expand(1000), "beyond its numbers"),
        ("vec_layer_1_m.pt", torch.ones(4).to_sparse(), "Python objects"),
        ("vec_layer_1_m.pt", [TENSORS[1]], "more than tensors"),
        ("vec_layer_1_m.pt", {"x": 1}, "something other"),
        ("vec_layer_1_m.pt", {}, "something other"),
        ("vec_layer_1_m.pt", {"layer_1": {"v": TENSORS[1]}}, "something other"),
        ("v.pt", {1: TENSORS[1]}, "key '1'"),
        ("v.pt", {"layer_1": TENSORS[1], "layer_2": torch.ones(3)}, "differ in width"),
    ],
)
def test_what_is_no_vector_of_a_layer_is_refused(name: str, content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / name)
    refused(tmp_path / name, message)


def test_easyedit_has_a_file_a_layer_or_a_dict_of_them(tmp_path: Path) -> None:
    torch.save({f"layer_{layer}": tensor for layer, tensor in TENSORS.items()}, tmp_path / "all.pt")
    assert same(SteeringVector.load(tmp_path / "all.pt"), TRUTH)
    folder = tmp_path / "caa_vector"
    folder.mkdir()
    for layer, tensor in TENSORS.items():
        torch.save(tensor, folder / f"layer_{layer}.pt")
    (folder / "notes.txt").write_text("beside them")
    found = SteeringVector.load(folder)
    assert same(found, TRUTH)
    assert found.name == "caa_vector"
    assert same(SteeringVector.load(folder / "layer_3.pt"), {3: TRUTH[3]})
    torch.save({"layer_4": TENSORS[1]}, folder / "layer_4.pt")
    refused(folder, "holds a dict")


def test_rows_of_persona_vectors_are_hidden_states(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0))  # 5 blocks
    torch.save(rows, tmp_path / "evil_response_avg_diff.pt")
    found = SteeringVector.load(tmp_path / "evil_response_avg_diff.pt")
    assert same(found, {block: rows[block + 1] for block in range(4)})
    assert found.name == "evil_response_avg_diff"
    assert found.metadata["rows"] == 6
    assert "row 0" in caplog.text
    assert "row 5 (block 4) is left out" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_what_was_left_out_is_said_even_to_who_names_the_site(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(torch.ones(6, 4), tmp_path / "v.pt")
    assert SteeringVector.load(tmp_path / "v.pt", index_offset=1, site="resid_pre").layers == (1, 2, 3, 4)
    assert "row 5" in caplog.text


# -- safetensors of others ----------------------------------------------------------------------------------------


def lite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    settings = {"method": "mean_diff", "layers": [1], "target": "residual", "target_submodule": None, "coeff": 2.5}
    named = {f"layer{layer}.v": tensor for layer, tensor in TENSORS.items()} if tensors is None else tensors
    save_file(named, path, {"cfg": json.dumps(settings | changes)})
    return path


def test_steering_lite_is_read_with_its_strength_as_a_hint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = SteeringVector.load(lite(tmp_path / "v.safetensors"))
    assert same(found, TRUTH)
    assert (found.method, found.metadata["coeff"]) == ("mean_diff", 2.5)
    assert "strength 2.5" in caplog.text
    assert SteeringVector.load(lite(tmp_path / "v.safetensors", target="mlp_out")).site == "mlp_out"


@pytest.mark.parametrize(
    ("tensors", "changes", "message"),
    [
        (None, {"method": "spherical"}, "spherical"),
        (None, {"target_submodule": "mlp.down_proj"}, "only those that add"),
        (None, {"target": "elsewhere"}, "elsewhere"),
        ({"layer1.u": torch.ones(4)}, {}, "layer1.u"),
        ({"layers.1": torch.ones(4)}, {}, "layers.1"),
        ({"layer1.v": torch.ones(2, 4)}, {}, "1-D"),
        ({"layer1.v": torch.tensor([float("nan")])}, {}, "NaN"),
        ({"layer1.v": torch.ones(4, dtype=torch.int32)}, {}, "int32"),
    ],
)
def test_other_methods_of_steering_lite_are_refused(
    tensors: dict[str, torch.Tensor] | None, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refused(lite(tmp_path / "v.safetensors", tensors, **changes), message)


@pytest.mark.parametrize("settings", ["", "[]", "{", "[" * 100_000])
def test_settings_that_are_no_json_are_refused(settings: str, tmp_path: Path) -> None:
    save_file({"layer1.v": torch.ones(4)}, tmp_path / "v.safetensors", {"cfg": settings})
    refused(tmp_path / "v.safetensors", "cfg")


def probe(folder: Path, weights: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    document = {
        "format_version": 1, "polarity": "positives_high", "model_type": "llama", "location": "layer_input",
        "pooling": "mean", "layer_ids": [1], "weight_layer_ids": [1, 2, 3], "bias": -0.5, "meta": {},
    }  # fmt: skip
    (folder / "probe.json").write_text(json.dumps(document | changes))
    named = {f"weights.{layer}": tensor for layer, tensor in TENSORS.items()} if weights is None else weights
    save_file(named, folder / "probe.safetensors")
    return folder


def test_a_probe_of_aisteer360_is_a_direction_where_it_reads(tmp_path: Path) -> None:
    found = SteeringVector.load(probe(tmp_path / "toxicity"))
    assert same(found, TRUTH)
    assert (found.site, found.name, found.method) == ("resid_pre", "toxicity", "probe")
    assert found.metadata["bias"] == -0.5
    assert SteeringVector.load(probe(tmp_path / "toxicity", location="layer_output")).site == "resid_post"


@pytest.mark.parametrize(
    ("weights", "changes", "message"),
    [
        (None, {"format_version": 2}, "version 1"),
        (None, {"polarity": "negatives_high"}, "negatives_high"),
        (None, {"location": "elsewhere"}, "location"),
        ({"w.1": torch.ones(4)}, {}, "no index"),
        ({"weights.1": torch.ones(2, 4)}, {}, "1-D"),
        ({}, {}, "no direction"),
    ],
)
def test_other_probes_are_refused(weights: Any, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    refused(probe(tmp_path / "p", weights, **changes), message)


# -- in memory ---------------------------------------------------------------------------------------------------


@dataclass
class LikeSteeringVectors:
    layer_activations: Any
    layer_type: str = "decoder_block"


@dataclass
class LikeRepeng:
    model_type: str
    directions: dict[int, np.ndarray]


def test_objects_of_other_libraries_are_taken_by_what_they_have() -> None:
    for kind, site in (("decoder_block", "resid_post"), ("self_attn", "attn_out"), ("mlp", "mlp_out")):
        found = SteeringVector.from_object(LikeSteeringVectors(TENSORS, kind))
        assert same(found, TRUTH)
        assert found.site == site
    found = SteeringVector.from_object(LikeRepeng("llama", TRUTH))
    assert same(found, TRUTH)
    assert found.metadata["model_type"] == "llama"
    assert same(SteeringVector.from_object({f"layer_{i}": tensor for i, tensor in TENSORS.items()}), TRUTH)


def test_an_array_that_must_not_be_written_is_taken_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    array = TRUTH[1].copy()
    array.flags.writeable = False
    assert same(SteeringVector.from_object(LikeRepeng("llama", {1: array})), {1: array})
    assert len(recwarn) == 0


def test_an_object_is_copied() -> None:
    tensors = {1: torch.ones(4)}
    found = SteeringVector.from_object(LikeSteeringVectors(tensors))
    tensors[1].zero_()
    assert torch.equal(found[1], torch.ones(4))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (LikeSteeringVectors(TENSORS, "input_layernorm"), "no site"),
        (LikeSteeringVectors({}), "no direction"),
        (LikeSteeringVectors({1: "x"}), "no tensor"),
        (LikeSteeringVectors({-1: TENSORS[1]}), "no index"),
        (LikeSteeringVectors({1: torch.tensor([float("inf")])}), "infinite"),
        ({"other": TENSORS[1]}, "neither"),
        ({}, "neither"),
        (TENSORS, "neither"),
        (5, "int"),
        (None, "NoneType"),
    ],
)
def test_objects_that_are_no_vector_are_refused(value: Any, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        SteeringVector.from_object(value)


# -- which reader ------------------------------------------------------------------------------------------------


def test_content_decides_before_the_ending(tmp_path: Path) -> None:
    (tmp_path / "v.bin").write_bytes((FIXTURES / "repeng.gguf").read_bytes())
    assert same(SteeringVector.load(tmp_path / "v.bin"), TRUTH)


def test_what_nobody_knows_is_refused_or_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SteeringVector.load(tmp_path / "none.svec")
    refused(tmp_path, "holds no vector")
    (tmp_path / "v.txt").write_text("hello world, this is no vector")
    refused(tmp_path / "v.txt", "truncated|damaged")
    (tmp_path / "v.gguf").write_text("this is no vector either")
    refused(tmp_path / "v.gguf", "begin with GGUF")


def test_own_files_say_themselves_what_they_are(tmp_path: Path) -> None:
    path = vector().save(tmp_path / "v.safetensors")
    for options in ({"index_offset": 1}, {"site": "resid_pre"}):
        with pytest.raises(InterventionError, match="says itself"):
            SteeringVector.load(path, **options)  # pyright: ignore[reportArgumentType]


def test_what_was_read_can_be_saved_and_is_the_same(tmp_path: Path) -> None:
    for source in (
        FIXTURES / "aisteer360_iti_heads.svec",
        CAA,
        svec(tmp_path / "v.svec", explained_variances={"1": 1.0}),
    ):
        found = SteeringVector.load(source)
        assert SteeringVector.load(found.save(tmp_path / "v.safetensors")) == found
