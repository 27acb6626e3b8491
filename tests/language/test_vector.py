"""A steering vector: its algebra, what it knows of itself, and which models it fits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.language.strategies import HEAD, HEADS, WIDTH, seeds, shape, tensor, vector

from steersman import SteeringVector
from steersman.errors import FileFormatError, InterventionError, MismatchError, SteersmanError
from steersman.vector import Origin

factors = st.floats(-100, 100).filter(lambda x: abs(x) > 1e-3)


def close(a: SteeringVector, b: SteeringVector, tolerance: float = 1e-5) -> bool:
    return a.layers == b.layers and all(
        torch.allclose(a[i], b[i], rtol=tolerance, atol=tolerance * float(b[i].abs().max() + 1e-30)) for i in b.layers
    )


# -- algebra -----------------------------------------------------------------------------------------------------


@given(seeds, seeds, seeds)
def test_addition_is_that_of_vectors(a: int, b: int, c: int) -> None:
    u, v, w = vector(a), vector(b), vector(c)
    assert close(u + v, v + u, 0)
    assert close((u + v) + w, u + (v + w), 1e-4)
    assert close((u + v) - v, u, 1e-4)
    assert close(u - v, -(v - u), 0)


@given(seeds, seeds, factors, factors)
def test_scaling_is_that_of_vectors(a: int, b: int, s: float, t: float) -> None:
    u, v = vector(a), vector(b)
    assert close((u * s) * t, u * (s * t))
    assert close((u + v) * s, u * s + v * s, 1e-3)
    assert close(s * u, u * s, 0)
    assert close(u * s / s, u)
    assert close(np.float64(s) * u, u * s, 0)
    assert close(-u, u * -1, 0)


@given(seeds, factors)
def test_the_class_means_stay_where_they_are_when_the_vector_is_scaled_or_turned(seed: int, s: float) -> None:
    v = vector(seed)
    scaled = v * s
    for i in v.layers:
        r, r_scaled = v[i] / v[i].norm(), scaled[i] / scaled[i].norm()
        ends = {round(float(end * r @ r_scaled), 4) for end in v.projections[i]}
        assert {round(end, 4) for end in scaled.projections[i]} == ends
        assert scaled.gap[i] == v.gap[i]
    assert scaled.norms == v.norms
    assert scaled.quality is None


def test_a_sum_knows_no_classes_and_a_zero_vector_none_either() -> None:
    both = vector(0) + vector(1, name="formal")
    assert (both.name, both.method, both.gap, both.quality) == ("happy + formal", "algebra", {}, None)
    assert both.norms == vector().norms
    assert (vector() * 0).gap == {}
    assert (vector() - vector(1, name=None)).name is None


def test_arithmetic_is_over_the_layers_in_common() -> None:
    both = vector(layers=(0, 1, 2), layer=2) + vector(layers=(1, 2, 3), layer=3)
    assert both.layers == (1, 2)
    assert both.layer == 2
    assert (vector(layers=(0, 1), layer=0) + vector(layers=(1, 2))).layer is None
    with pytest.raises(InterventionError, match=r"no layer in common: vector 'happy' has 0-1, vector 'happy' 2"):
        vector(layers=(0, 1)) + vector(layers=(2,))


@given(seeds, st.lists(st.integers(40, 60), min_size=1, max_size=3), factors)
def test_what_is_orthogonalised_is_orthogonal_even_to_others_that_repeat_each_other(
    seed: int, others: list[int], scale: float
) -> None:
    v, rest = vector(seed), [vector(other, name=str(other)) for other in others]
    clean = v.orthogonalize(*rest, rest[0] * scale, rest[0] * 0)
    for i in v.layers:
        basis = torch.linalg.qr(torch.stack([vector(other)[i] for other in set(others)], 1).double()).Q
        expected = v[i].double() - basis @ (basis.T @ v[i].double())
        assert torch.allclose(clean[i].double(), expected, atol=1e-5 * float(v[i].norm()))
        assert all(abs(float(torch.cosine_similarity(clean[i], o[i], dim=0))) < 1e-4 for o in rest)


def test_orthogonalising_keeps_what_was_orthogonal_already() -> None:
    eye = torch.eye(WIDTH)
    v, w = SteeringVector({1: eye[0] * 3}, name="a"), SteeringVector({1: eye[1] * 5}, name="b")
    assert torch.equal(v.orthogonalize(w)[1], v[1])
    assert v.orthogonalize(w).name == "a without b"


def test_nothing_left_is_refused() -> None:
    with pytest.raises(InterventionError, match="'happy' lies within the others at layer 0: nothing is left of it"):
        vector().orthogonalize(vector() * -3)
    with pytest.raises(InterventionError, match="give at least one other vector"):
        vector().orthogonalize()


@given(seeds, st.sampled_from([1e-25, 1.0, 1e25]))
def test_normalized_has_unit_length_and_the_same_direction(seed: int, size: float) -> None:
    v = vector(seed) * size
    for i in v.layers:
        assert math.isclose(float(v.normalized()[i].norm()), 1, rel_tol=1e-6)
        assert math.isclose(float(torch.cosine_similarity(v.normalized()[i], vector(seed)[i], dim=0)), 1, rel_tol=1e-6)
    assert v.normalized().gap == v.gap


def test_a_vector_per_head_is_normalised_as_a_whole() -> None:
    v = SteeringVector({1: tensor(HEADS, HEAD)}, site="z")
    assert math.isclose(float(v.normalized()[1].norm()), 1, rel_tol=1e-6)
    assert v.normalized()[1].shape == (HEADS, HEAD)


def test_some_layers_can_be_taken_and_the_rest_is_forgotten() -> None:
    some = vector(layer=2).at(2, 0)
    assert (some.layers, some.layer, set(some.gap), set(some.norms)) == ((0, 2), 2, {0, 2}, {0, 2})
    assert vector(layer=2).at(0).layer is None
    with pytest.raises(MismatchError, match="has no layer 9; it has 0-3"):
        vector().at(9)


def test_a_vector_is_a_collection_of_layers() -> None:
    v = vector()
    assert (list(v), len(v), 2 in v, 9 in v, v.d_model, v.layers) == ([0, 1, 2, 3], 4, True, False, WIDTH, (0, 1, 2, 3))
    assert repr(v) == "SteeringVector('happy', layers 0-3, width 6, resid_post, mean_difference, chosen layer 0)"
    assert v[1].dtype == torch.float32


@pytest.mark.parametrize("other", [2j, "2", None, vector(), True])
def test_only_numbers_scale(other: Any) -> None:
    with pytest.raises(TypeError):
        vector() * other


def test_others_of_another_kind_site_or_width_do_not_mix() -> None:
    with pytest.raises(InterventionError, match="expected a SteeringVector, got Tensor"):
        vector() + tensor(WIDTH)  # type: ignore[operator]
    with pytest.raises(InterventionError, match="expected a SteeringVector, got int"):
        vector().orthogonalize(3)  # type: ignore[arg-type]
    with pytest.raises(InterventionError, match="vector 'happy' is of resid_post, vector 'happy' of mlp_out"):
        vector() + vector(site="mlp_out")
    with pytest.raises(MismatchError, match=r"vector 'happy' has the shape \[6\], vector 'wide' \[9\]"):
        vector() + SteeringVector({1: tensor(9)}, name="wide")


# -- what it may hold --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": {}}, "vector 'happy' has no layer; give at least one direction"),
        ({"directions": {-1: tensor(WIDTH)}}, "vector 'happy': layers are counted from 0, got -1"),
        ({"directions": {"1": tensor(WIDTH)}}, "layers are counted from 0, got '1'"),
        ({"directions": {True: tensor(WIDTH)}}, "layers are counted from 0, got True"),
        ({"directions": {0: tensor(2, 3)}}, "vector 'happy' layer 0 has shape (2, 3); it needs 1 dimension"),
        ({"directions": {0: tensor(2), 1: tensor(3)}}, "its layers differ in width: 0: (2,), 1: (3,)"),
        ({"directions": {0: torch.tensor([math.inf])}}, "holds NaN or infinite numbers"),
        ({"layer": 9}, "its chosen layer 9 is not among its layers [0, 1, 2, 3]"),
        ({"site": "residual"}, "unknown site 'residual'"),
        ({"site": ["resid_post"]}, "unknown site"),
        ({"name": 5}, "the vector's name must be text, got 5"),
        ({"method": ["pca"]}, "its method must be text"),
        ({"projections": {1: (math.nan, 1)}}, "a class projection must be a finite number, got nan"),
        ({"norms": {1: "big"}}, "a norm must be a finite number, got 'big'"),
        ({"metadata": {"seed": math.nan}}, "its metadata must be JSON values, to be saved"),
        ({"metadata": {"model": object()}}, "its metadata must be JSON values"),
        ({"quality": {"auroc": math.inf}}, "its quality must be JSON values"),
    ],
)
def test_what_a_vector_cannot_be_is_refused_when_it_is_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InterventionError) as error:
        replace(vector(), **changes)
    assert message in str(error.value)


def test_an_origin_is_text() -> None:
    with pytest.raises(InterventionError, match="the origin's fingerprint must be text, got None"):
        Origin("m", "t", 1, 1, None)  # type: ignore[arg-type]


def test_nothing_that_users_do_later_changes_a_vector() -> None:
    direction, metadata, norms = tensor(WIDTH), {"seed": 1}, {1: 2.0}
    v = SteeringVector({1: direction}, metadata=metadata, norms=norms)
    direction.zero_(), metadata.clear(), norms.clear()
    assert v == SteeringVector({1: tensor(WIDTH)}, metadata={"seed": 1}, norms={1: 2.0})
    shared = np.ones(WIDTH, dtype=np.float32)
    v = SteeringVector({1: shared})  # type: ignore[dict-item]
    shared[:] = 0
    assert v[1].tolist() == [1] * WIDTH


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_directions_are_float32_whatever_they_were(dtype: torch.dtype) -> None:
    assert SteeringVector({1: torch.ones(3).to(dtype)})[1].dtype == torch.float32


def test_equality_looks_at_everything() -> None:
    v = vector()
    assert v == vector()
    assert v != "happy"
    changed = [
        {"name": "sad"}, {"method": "pca"}, {"layer": 2}, {"site": "resid_pre"}, {"origin": None}, {"norms": {}},
        {"projections": {}}, {"quality": None}, {"metadata": {}}, {"directions": vector(1).directions},
    ]  # fmt: skip
    assert all(replace(v, **facts) != v for facts in changed)
    assert v.at(0) != v
    with pytest.raises(TypeError):
        hash(v)


# -- which model it fits -----------------------------------------------------------------------------------------

QWEN = Origin("Qwen/Qwen3-1.7B", "qwen3", 28, 2048, "0123456789abcdef")


@pytest.mark.parametrize(
    ("v", "message"),
    [
        (
            SteeringVector({10: tensor(2048)}, name="happy", origin=QWEN),
            "vector 'happy' has d_model 2048, but gpt2 has 768; it was made for Qwen/Qwen3-1.7B",
        ),
        (
            SteeringVector({27: tensor(2048)}, name="happy", origin=QWEN),
            "vector 'happy' has a layer 27, but gpt2 has 12 layers: 0 to 11; it was made for Qwen/Qwen3-1.7B",
        ),
        (SteeringVector({1: tensor(5)}), "the vector has d_model 5, but gpt2 has 768"),
        (SteeringVector({1: tensor(5)}, site="z"), "the vector has width z 5, but gpt2 has 768"),
        (SteeringVector({1: tensor(5)}, site="mlp_post"), "the vector has width mlp_post 5, but gpt2 has 3072"),
    ],
)
def test_a_vector_that_does_not_fit_says_what_why_and_for_whom_it_was_made(v: SteeringVector, message: str) -> None:
    gpt2 = shape(name="gpt2", n_layers=12, d_model=768, n_heads=12, d_head=64, d_mlp=(3072,) * 12)
    with pytest.raises(MismatchError) as error:
        v.check(gpt2)
    assert str(error.value) == message


def test_the_right_width_is_not_enough_when_the_model_is_another() -> None:
    stranger = vector(origin=replace(Origin.of(shape()), model="org/other", fingerprint="b" * 16))
    with pytest.raises(MismatchError, match=r"made for org/other \(toy, configuration bbbbbbbb\), but this is tiny"):
        stranger.check(shape())
    stranger.unbound().check(shape())
    vector().check(shape(name="a copy of tiny under another name"))


# -- files -------------------------------------------------------------------------------------------------------


@given(seeds, st.floats(allow_nan=False, allow_infinity=False, width=32), st.text(max_size=5).filter(str.isprintable))
def test_a_file_gives_back_every_bit_of_every_field(tmp_path_factory: Any, seed: int, number: float, text: str) -> None:
    v = vector(
        seed, name=text or None, layer=2, norms={1: number, 3: 1e300}, projections={1: (number, 0.1)},
        quality={"layers": {"1": {"auroc": 0.1 + 0.2}}}, metadata={"notes": [text, None, True, {"n": 3}]},
    )  # fmt: skip
    path = v.save(tmp_path_factory.mktemp("v") / "v.safetensors")
    back = SteeringVector.load(path)
    assert back == v
    assert all(back[i].numpy().tobytes() == v[i].numpy().tobytes() for i in v.layers)
    assert (back.gap, back.origin, back.projections) == (v.gap, v.origin, v.projections)


@pytest.mark.parametrize(
    "v",
    [
        SteeringVector({0: [1.0, 2.0]}),  # type: ignore[dict-item]
        SteeringVector({3: tensor(HEADS, HEAD)}, site="z"),
        SteeringVector({0: tensor(3), 1: tensor(5)}, site="mlp_post"),
        SteeringVector({0: torch.tensor([1.0], requires_grad=True)}),
        SteeringVector({0: tensor(4, 4).T[1]}, metadata={"pair": (1, 2), "by layer": {1: 2}}),
    ],
)
def test_vectors_of_every_site_survive_a_file(v: SteeringVector, tmp_path: Path) -> None:
    assert SteeringVector.load(v.save(tmp_path / "v.safetensors")) == v


def test_a_file_needs_its_own_ending(tmp_path: Path) -> None:
    for name in ("v.pt", "v", "v.safetensors.bak"):
        with pytest.raises(FileFormatError, match=r"a native file ends in \.safetensors"):
            vector().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"origin": ["x"]}, {"origin": {"model": "x"}}, {"origin": {**QWEN.__dict__, "fingerprint": 7}},
        {"projections": []}, {"projections": {"x": [0, 1]}}, {"projections": {"0": [1]}}, {"projections": {"0": "ab"}},
        {"norms": {"0": []}}, {"norms": {"0": 10**400}}, {"site": {}}, {"layer": []}, {"layer": "0"}, {"name": []},
        {"method": {}}, {"unknown": 1}, {"metadata": {"a": math.inf}},
    ],
)  # fmt: skip
def test_facts_that_do_not_belong_are_refused_as_no_vector(change: dict[str, Any]) -> None:
    tensors, document = vector().parts()
    with pytest.raises(FileFormatError, match="no steering vector: "):
        SteeringVector.from_parts(tensors, {**document, **change})


@pytest.mark.parametrize(
    "name", ["0", "layers.", "layers.x", "layers.-1", "layers.01", "layers.²", "../etc", "layers.1 "]
)
def test_a_tensor_under_another_name_is_refused(name: str) -> None:
    tensors, document = vector().parts()
    with pytest.raises(SteersmanError, match="no steering vector"):
        SteeringVector.from_parts({**tensors, name: tensor(WIDTH)}, document)


def test_facts_left_out_are_refused_as_no_vector() -> None:
    tensors, document = vector().parts()
    for key in ("projections", "norms", "origin"):
        with pytest.raises(FileFormatError, match=f"no steering vector: '{key}'"):
            SteeringVector.from_parts(tensors, {k: v for k, v in document.items() if k != key})
    with pytest.raises(FileFormatError, match="has no layer"):
        SteeringVector.from_parts({}, document)
