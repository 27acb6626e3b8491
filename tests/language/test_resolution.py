"""Where a plan acts once it meets a model, and what it is refused for, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.language.strategies import HEAD, HEADS, LAYERS, NEURONS, WIDTH, eraser, shape, tensor, vector

from steersman import (
    Ablate,
    Add,
    Affine,
    Clamp,
    Custom,
    Erase,
    LayerValues,
    Mean,
    Plan,
    Replace,
    Resample,
    Rotate,
    SteeringVector,
    When,
    Zero,
    attention,
    block,
    heads,
    mlp,
    neurons,
    schedule,
    site,
)  # fmt: skip
from steersman.conditions import Schedule
from steersman.errors import InterventionError, MismatchError, SiteUnavailableError, SteersmanError
from steersman.sites import COMPONENTS, Sites, layer_indices
from steersman.vector import Origin

V = tensor(WIDTH)
WRITERS = [("resid_pre", 0)] + [(c, i) for i in range(LAYERS) for c in ("attn_out", "mlp_out")]


def places(item: Any, **changes: Any) -> list[tuple[str, int]]:
    return [(a.component, a.layer) for a in item.actions(shape(**changes))]


def strengths(item: Any) -> dict[int, Any]:
    return {a.layer: a.strength for a in item.actions(shape())}


# -- defaults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "positions", "expected"),
    [
        (Add(vector(layer=2)), "last+generation", [("resid_post", 2)]),
        (Add(V, layers=[3, 1]), "last+generation", [("resid_post", 1), ("resid_post", 3)]),
        (Ablate(V), "all", WRITERS),
        (Ablate(V, layers=[1, 2]), "all", [("resid_post", 1), ("resid_post", 2)]),
        (Ablate(vector(), layers="all"), "all", [("resid_post", i) for i in range(LAYERS)]),
        (Clamp(vector(layer=2), 1), "all", [("resid_post", 2)]),
        (Affine(vector(layer=2), 1), "all", [("resid_post", 2)]),
        (Erase(eraser(layers=(0, 3))), "all", [("resid_post", 0), ("resid_post", 3)]),
        (Erase(eraser(site="mlp_out")), "all", [("mlp_out", 1), ("mlp_out", 2)]),
        (Rotate(vector(layer=2), 1), "last+generation", [("resid_post", 2)]),
        (Replace(V, layers=1, positions="last"), "last", [("resid_post", 1)]),
        (Replace({0: V, 2: V}, positions="last"), "last", [("resid_post", 0), ("resid_post", 2)]),
        (Replace(LayerValues({1: V}, "mlp_out"), positions="last"), "last", [("mlp_out", 1)]),
        (Zero(heads(1, 1)), "all", [("z", 1)]),
        (Zero(neurons(1)), "all", [("mlp_post", 1)]),
        (Zero(attention(1)), "all", [("attn_out", 1)]),
        (Zero(mlp()), "all", [("mlp_out", i) for i in range(LAYERS)]),
        (Mean(block(1), V), "all", [("resid_post", 1)]),
        (Resample(site("resid_mid", "1-2"), V), "all", [("resid_mid", 1), ("resid_mid", 2)]),
    ],
)
def test_defaults_are_those_of_the_table(item: Any, positions: str, expected: list[tuple[str, int]]) -> None:
    assert str(item.positions) == positions
    assert places(item) == expected
    assert item.strength == 1


def test_a_vector_acts_where_it_was_read_unless_told_otherwise() -> None:
    per_head = SteeringVector({1: tensor(HEADS, HEAD)}, site="z")
    (action,) = Add(per_head, layers=1).actions(shape())
    assert (action.component, action.map(torch.zeros(1, WIDTH)).flatten().tolist()) == (
        "z",
        per_head[1].flatten().tolist(),
    )
    assert places(Add(vector(site="attn_out", layer=1))) == [("attn_out", 1)]
    assert places(Add(vector(site="attn_out", layer=1), site="mlp_out")) == [("mlp_out", 1)]
    assert places(Add(tensor(NEURONS), layers=1, site="mlp_post")) == [("mlp_post", 1)]


# -- layers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (2, {2: 1}),
        ([2, 0, 2], {0: 1, 2: 1}),
        (range(2), {0: 1, 1: 1}),
        (torch.tensor([1, 3]), {1: 1, 3: 1}),
        (torch.tensor(3), {3: 1}),
        ("1-3", {1: 1, 2: 1, 3: 1}),
        ("3", {3: 1}),
        ("0, 2-3", {0: 1, 2: 1, 3: 1}),
        ("all", {0: 1, 1: 1, 2: 1, 3: 1}),
        (-1, {3: 1}),
        ([-1, 0], {0: 1, 3: 1}),
        ({1: 0.5, -1: -2}, {1: 0.5, 3: -2}),
        ({"0-1": 0.5, "3": 2}, {0: 0.5, 1: 0.5, 3: 2}),
        ({0: 0.0, 1: 1.0}, {1: 1}),
    ],
)
def test_layers_may_be_named_in_every_usual_way(layers: Any, expected: dict[int, float]) -> None:
    assert strengths(Add(V, strength=3, layers=layers)) == {i: 3 * weight for i, weight in expected.items()}


@given(st.sets(st.integers(0, 30), min_size=1))
def test_the_order_in_which_layers_are_named_means_nothing(layers: set[int]) -> None:
    forward, backward = sorted(layers), sorted(layers, reverse=True)
    assert Add(V, layers=forward) == Add(V, layers=backward)
    assert Add(V, layers=dict.fromkeys(forward, 2.0)) == Add(V, layers=dict.fromkeys(backward, 2.0))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("10-4", "is neither"),
        ("1-", "is neither"),
        ("-3", "is neither"),
        ("²", "is neither"),
        ("0-99999999999999", "is neither"),
        ("0-999999999", "is neither"),
        ("7" * 5000, "is neither"),
        ("first", """layers='first' is neither "all", an index, nor an inclusive range such as "10-14\""""),
        ([], "no layers given; name at least one"),
        ({}, "layers={} names no layer"),
        ({"all": 2}, "cannot be weighed; name the layers, or multiply the strength"),
        ({"1-2": 1, 2: 5}, "weighs a layer twice"),
        (1.5, "layers must be integers, got 1.5"),
        (True, "layers must be integers, got True"),
        ([1, "2"], "layers must be integers, got '2'"),
        ({1: math.nan}, "the weight of layer 1 must be a finite number, got nan"),
        ({1: "much"}, "the weight of layer 1 must be a finite number, got 'much'"),
    ],
)
def test_layers_that_make_no_sense_are_refused_at_once(layers: Any, message: str) -> None:
    with pytest.raises(InterventionError) as error:
        Add(V, layers=layers)
    assert message in str(error.value)


def test_all_layers_are_none_in_particular() -> None:
    assert layer_indices("all") is None


# -- strength and units ------------------------------------------------------------------------------------------


def test_strength_multiplies_weights_and_schedules_multiply_through() -> None:
    plan = Add(V, strength=schedule([2.0, 1.0, 0.0]), layers={0: 1.0, 1: 0.5, 2: 0.0})
    assert strengths(plan) == {0: Schedule((2, 1, 0)), 1: Schedule((1, 0.5, 0))}
    assert [Schedule((2, 1)).at(step) for step in (0, 1, 2, 99)] == [2, 1, 1, 1]
    assert Add(V, [2, 1], layers=1).strength == schedule([2, 1])
    assert Add(V, torch.tensor(2.0), layers=1).strength == 2.0


@pytest.mark.parametrize("strength", [0, 0.0, -0.0, schedule([0, 0])])
def test_zero_strength_is_checked_but_never_acts(strength: Any) -> None:
    assert Add(V, strength, layers=1).actions(shape()) == []
    assert Plan([Add(V, strength, layers=1)]).actions(shape()) == []
    with pytest.raises(MismatchError):
        Add(V, strength, layers=99).actions(shape())


@pytest.mark.parametrize("strength", [math.nan, math.inf, "1", True, None, 10**400, torch.ones(2), [], [1, "x"], 1j])
def test_strength_is_a_finite_number_or_a_schedule(strength: Any) -> None:
    with pytest.raises(InterventionError, match="strength"):
        Add(V, strength, layers=1)


@pytest.mark.parametrize("cls", [Ablate, lambda v, **k: Clamp(v, 1, **k), lambda _, **k: Zero(mlp(1), **k)])
def test_a_schedule_is_refused_where_positions_reach_before_the_last_prompt_token(cls: Callable[..., Any]) -> None:
    with pytest.raises(InterventionError, match="a schedule begins at the last prompt token, but positions all reach"):
        cls(V, strength=schedule([1.0, 2.0]))
    assert cls(V, strength=schedule([1.0, 2.0]), positions="last+generation")
    for positions in ("prompt", "prompt[0]", 'after("x")', "last+prompt[0]"):
        with pytest.raises(InterventionError, match="reach further back"):
            Add(V, [1.0, 2.0], layers=1, positions=positions)


@pytest.mark.parametrize("unit", ["norm", "gap"])
def test_a_unit_is_what_strength_counts_whatever_the_length_of_the_vector(unit: Any) -> None:
    v = vector(layer=1)
    size = v.norms[1] if unit == "norm" else v.gap[1]
    for scaled in (v, v * 7, v * 1e-3):
        (action,) = Add(scaled, 0.5, unit=unit).actions(shape())
        added = action.map(torch.zeros(1, WIDTH))[0]
        assert torch.allclose(added, v[1] / v[1].norm() * size, rtol=1e-5)
        assert action.strength == 0.5


def test_a_gap_points_from_the_negative_class_to_the_positive_one_under_any_sign() -> None:
    v = vector(layer=1)
    added = Add(v, unit="gap").actions(shape())[0].map(torch.zeros(1, WIDTH))
    mirrored = Add(-v, -1, unit="gap").actions(shape())[0]
    assert torch.allclose(added, mirrored.strength * mirrored.map(torch.zeros(1, WIDTH)))


# -- conditions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_condition_reads_the_cosine_or_the_projection(size: float) -> None:
    h = tensor(20, WIDTH, seed=4)
    r = V.double() / V.double().norm()
    projection, cosine = (h.double() @ r), (h.double() @ r) / h.double().norm(dim=1)
    assert When(V * size, 1, above=0.2).holds(h).tolist() == (cosine > 0.2).tolist()
    assert When(V * size, 1, below=0.2).holds(h).tolist() == (cosine < 0.2).tolist()
    assert When(V * size, 1, above=0.7, measure="projection").holds(h).tolist() == (projection > 0.7).tolist()
    assert When(V, 1, above=-2).holds(h).all()
    assert not When(V, 1, above=2).holds(h).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: When(V, 1), "needs one threshold: above=... or below=..."),
        (lambda: When(V, 1, above=0, below=1), "needs one threshold"),
        (lambda: When(V, 1, above=math.nan), "above=...) must be a finite number"),
        (lambda: When(V, -1, above=0), "layers are counted from 0, got -1"),
        (lambda: When(V, "1", above=0), "layers are counted from 0, got '1'"),
        (lambda: When(V, 1, above=0, measure="dot"), 'use "cosine" or "projection"'),
        (lambda: When(V * 0, 1, above=0), "the direction of When() is the zero vector"),
        (lambda: When(torch.ones(2, 3), 1, above=0), "has shape (2, 3); it needs 1 dimension"),
        (lambda: When(vector(layers=(0,)), 1, above=0), "vector 'happy' has no layer 1; it has 0"),
        (lambda: When(SteeringVector({1: tensor(2, 3)}, site="z"), 1, above=0), "When() reads the residual stream"),
        (lambda: Add(V, layers=1, when=0.5), "when= takes a When(...), got float"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SteersmanError) as error:
        make()
    assert message in str(error.value)


# -- refusals ----------------------------------------------------------------------------------------------------

OTHER = Origin("Qwen/Qwen3-1.7B", "qwen3", 28, 2048, "a" * 16)
BARE = {"layer": None, "origin": None}

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: Add(V), "Add(tensor): a bare tensor does not say where; name the layers="),
    (
        lambda: Add(vector(layer=None)),
        "has no chosen layer (its quality was not measured); name the layers=, among 0, 1",
    ),
    (lambda: Add(V, layers=4), "Add(tensor) names layer 4, but tiny has 4 layers: 0 to 3"),
    (lambda: Add(V, layers=10**30), "names layer 1000000000000000000000000000000, but tiny has 4 layers"),
    (lambda: Add(V, layers=-5), "names layer -5, but tiny has 4 layers"),
    (lambda: Add(V, layers=[-1, 3]), "names a layer twice: [-1, 3]"),
    (lambda: Add(vector(layers=(1,)), layers=[1, 2]), "vector 'happy' has no layer 2; it has 1"),
    (lambda: Add(tensor(9), layers=1), "the direction has shape (9,), but d_model of tiny is 6; it must be [6]"),
    (lambda: Add(tensor(2, 3), layers=1), "the direction has shape (2, 3), but d_model of tiny is 6"),
    (lambda: Add(tensor(3, 2), layers=1, site="z"), "the direction has shape (3, 2)"),
    (lambda: Add(tensor(4), layers=1, site="mlp_post"), "but the width of mlp_post of tiny is 5; it must be [5]"),
    (lambda: Add(None, layers=1), "Add(tensor) needs a vector"),
    (lambda: Add("happy", layers=1), "the vector of Add(tensor) must be a tensor of real numbers, got str"),
    (lambda: Add(V * math.nan, layers=1), "holds NaN or infinite numbers; look where it was computed"),
    (lambda: Add(torch.tensor([1j]), layers=1), "must hold real numbers, but its dtype is torch.complex64"),
    (lambda: Add(torch.empty(0), layers=1), "is empty: its shape is (0,)"),
    (lambda: Add(torch.ones(1, 1, 6), layers=1), "it needs 1 dimension or 2 dimensions; squeeze() it or take one row"),
    (lambda: Add(torch.ones(6, device="meta"), layers=1), "is on the meta device and has no values"),
    (lambda: Add(V.to_sparse(), layers=1), "must be a dense tensor"),
    (lambda: Add([10**400], layers=1), "must be a tensor of real numbers, got list"),
    (lambda: Add(V, layers=1, site="residual"), "unknown site 'residual'; the sites are resid_pre, resid_mid"),
    (lambda: Add(V, layers=1, site="writers"), "would add the vector many times over; name one site"),
    (lambda: Add(V, layers=1, unit="norm"), "a bare tensor has no norm to count by; use a SteeringVector"),
    (lambda: Add(V, layers=1, unit="sigma"), """unit='sigma': use None (as stored), "norm" or "gap\""""),
    (lambda: Add(vector(projections={}), unit="gap"), """unit="gap" at layer 0, but it stores no class projections"""),
    (lambda: Add(vector(norms={}), unit="norm"), """unit="norm" at layer 0, but it stores no residual norms"""),
    (lambda: Add(vector() * 0, unit="norm"), "vector 'happy' is the zero vector and points nowhere"),
    (lambda: Ablate(vector()), "a vector has one for each layer; take one, Ablate(vector[12]), or name the layers="),
    (lambda: Ablate(V * 0), "the direction of Ablate() is the zero vector and points nowhere"),
    (lambda: Ablate(vector() * 0, layers=1), "the direction of Ablate() is the zero vector"),
    (lambda: Ablate(tensor(9)), "the direction has shape (9,), but tiny needs [6], or [k, 6] for a subspace"),
    (lambda: Ablate(V, site="writers", layers=1), """Ablate(site="writers") acts in every layer; leave layers= out"""),
    (lambda: Clamp(V, math.inf, layers=1), "Clamp(value=...) must be a finite number, got inf"),
    (lambda: Clamp(V, 1, side="left", layers=1), """Clamp(side='left'): use "both", "above" or "below\""""),
    (lambda: Clamp(V * 0, 1, layers=1), "the direction of Clamp is the zero vector"),
    (lambda: Affine(V, 1, layers=1), "needs a SteeringVector that knows its class means"),
    (lambda: Affine(vector(projections={}), 1), "stores no class projections for layer 0; use Clamp(value=...)"),
    (lambda: Affine(vector(), 1, site="attn_out"), "were measured at resid_post, not at attn_out; extract it there"),
    (lambda: Erase(V), "Erase() needs an Eraser, got Tensor"),
    (lambda: Erase(eraser(), layers=0), "the eraser was fitted at layers [1, 2], not at 0"),
    (lambda: Erase(eraser(), site="mlp_out"), "this eraser was fitted at resid_post, not at mlp_out; fit it there"),
    (lambda: Erase(eraser(origin=OTHER)), "the eraser was fitted on Qwen/Qwen3-1.7B, but this is tiny"),
    (lambda: Erase(eraser(site="mlp_post")), "the eraser has width 6 at layer 1, but tiny has 5"),
    (lambda: Erase(eraser(layers=(9,))), "the eraser names layer 9, but tiny has 4 layers"),
    (lambda: Rotate(None, 1.0, layers=1), "Rotate needs a vector"),
    (lambda: Rotate(V, 1.0, plane=(V, V, V), layers=1), "a plane is spanned by two directions, got 3"),
    (lambda: Rotate(tensor(WIDTH, seed=3), 1, plane=(V, V.flip(0)), layers=1), "the vector does not lie in the plane"),
    (lambda: Rotate(V, 1.0, plane=vector(origin=OTHER), layers=1), "was made for Qwen/Qwen3-1.7B"),
    (lambda: Replace(V, layers=1), """Replace needs positions=, for example positions="last\""""),
    (lambda: Replace(V, positions="last"), "Replace() needs layers=, for example layers=5"),
    (
        lambda: Replace(tensor(4), layers=1, positions="last"),
        "the tensor of Replace() has shape (4,) at layer 1; it needs",
    ),
    (lambda: Replace({1: V}, layers=2, positions="last"), "there are no values for layer 2, only for [1]"),
    (lambda: Replace({"1": V}, positions="last"), "values: layers are counted from 0, got '1'"),
    (lambda: Replace({}, positions="last"), "values need at least one layer"),
    (lambda: Zero("heads"), "Zero needs to know where: heads(10, 5), neurons(3, [7])"),
    (lambda: Zero(heads(1, 2)), "Zero names head 2 of layer 1, but tiny has 2 heads there: 0 to 1"),
    (lambda: Zero(neurons(1, [0, -6])), "Zero names neuron -6 of layer 1, but tiny has 5 neurons there: 0 to 4"),
    (lambda: Zero(heads(7)), "Zero names layer 7, but tiny has 4 layers"),
    (lambda: Mean(mlp(1)), "Mean() needs means; see mean_activations"),
    (lambda: Mean(mlp(1), tensor(5)), "the means of Mean() has shape (5,) at layer 1; it needs [6], or one such row"),
    (lambda: Mean(heads(1, 0), tensor(2)), "it needs [6], or one such row per token; or [3] for the chosen part"),
    (lambda: Mean(mlp(1), LayerValues({1: V}, "z")), "were read at z, but mlp_out is to be set; read them there"),
    (lambda: Mean(mlp(1), LayerValues({1: V}, origin=OTHER)), "were read from Qwen/Qwen3-1.7B, but this is tiny"),
    (lambda: Resample(mlp(1)), "needs a reference set, [n, width] per layer"),
    (lambda: Resample(mlp(1), V, seed=1.5), "Resample(seed=...) must be an integer, got 1.5"),
    (lambda: Custom(3, layers=1, site="z", positions="all"), "needs a function fn(h, where), got int"),
    (lambda: Custom(print, layers=1, positions="all"), "Custom() needs layers= and site= named"),
    (lambda: Custom(print, layers=1, site="z"), "Custom needs positions="),
    (lambda: Add(V, layers=1, when=When(tensor(9), 1, above=0)), "the direction of When() has width 9, but tiny has 6"),
    (lambda: Add(V, layers=1, when=When(V, 7, above=0)), "When() names layer 7, but tiny has 4 layers"),
    (lambda: Add(V, layers=1, when=When(vector(origin=OTHER), 1, above=0)), "was made for Qwen/Qwen3-1.7B"),
    (lambda: Sites("resid_post", None, (1,)), "site 'resid_post' has no heads or neurons to choose from"),
    (lambda: heads(1, []), "no heads given; name at least one"),
    (lambda: neurons(1, 1.5), "neurons must be integers, got 1.5"),
    (lambda: site("writers"), "unknown site 'writers'"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_what_does_not_fit_is_refused_with_the_reason(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SteersmanError) as error:
        make().actions(shape())
    assert message in str(error.value)


@pytest.mark.parametrize("item", [
    Clamp(V, 1, layers=1), Affine(vector(), 1), Rotate(V, 1.0, layers=1), Replace(V, layers=1, positions="last"),
    Custom(print, layers=1, site="z", positions="all"),
])  # fmt: skip
def test_only_ablation_acts_at_all_writers(item: Any) -> None:
    facts = {name: getattr(item, name) for name in item.__dataclass_fields__}
    with pytest.raises(InterventionError, match=r"name (one|it)|it is|one site|name it"):
        type(item)(**{**facts, "site": "writers"})


# -- sites a model lacks -----------------------------------------------------------------------------------------


def test_a_site_the_model_lacks_is_refused_by_name_and_reason() -> None:
    lacking = {"unavailable": {("resid_mid", 1): "attention and MLP run side by side"}}
    with pytest.raises(SiteUnavailableError, match="tiny has no 'resid_mid' in layer 1: attention and MLP run side by"):
        places(Add(V, layers=[0, 1], site="resid_mid"), **lacking)
    assert places(Add(V, layers=[0, 2], site="resid_mid"), **lacking) == [("resid_mid", 0), ("resid_mid", 2)]
    with pytest.raises(SiteUnavailableError):
        places(Zero(site("resid_mid")), **lacking)


def test_neurons_of_a_mixture_of_experts_are_refused() -> None:
    experts = {"d_mlp": (5, None, 5, 5), "unavailable": {("mlp_post", 1): "it is a mixture of experts"}}
    for item in (Zero(neurons(1)), Zero(neurons("all", 0)), Add(tensor(5), layers=1, site="mlp_post")):
        with pytest.raises(SiteUnavailableError, match="it is a mixture of experts"):
            places(item, **experts)
    with pytest.raises(SiteUnavailableError, match="no single MLP in layer 1"):
        shape(d_mlp=(5, None, 5, 5)).width("mlp_post", 1)


def test_ablating_all_writers_needs_every_writer() -> None:
    with pytest.raises(SiteUnavailableError, match="needs every attn_out and mlp_out, and layer 2 has no 'attn_out'"):
        places(Ablate(V), unavailable={("attn_out", 2): "it is recurrent"})


# -- heads and neurons -------------------------------------------------------------------------------------------


def test_heads_are_their_slice_of_the_site_negative_ones_from_the_end() -> None:
    (action,) = Zero(heads(1, -1)).actions(shape())
    assert action.map(torch.ones(1, WIDTH)).tolist() == [[1, 1, 1, 0, 0, 0]]
    (action,) = Zero(neurons(1, [0, -1, 4])).actions(shape())
    assert action.map(torch.ones(1, NEURONS)).tolist() == [[0, 1, 1, 1, 0]]


def test_means_may_have_the_shape_of_heads_or_be_flat() -> None:
    flat = torch.arange(6.0)
    for means in (flat, flat.reshape(HEADS, HEAD), {1: flat}, {1: flat.reshape(HEADS, HEAD)}, flat[None]):
        (action,) = Mean(heads(1), means).actions(shape())
        assert action.map(torch.zeros(2, WIDTH)).tolist() == [list(range(6))] * 2
        (action,) = Mean(heads(1, 1), means).actions(shape())
        assert action.map(torch.zeros(1, WIDTH)).tolist() == [[0, 0, 0, 3, 4, 5]]
    by_position = tensor(8, HEADS, HEAD)
    (action,) = Mean(heads(1), by_position).actions(shape())
    assert action.map.values.equal(by_position.reshape(8, WIDTH))  # type: ignore[attr-defined]


def test_every_component_has_a_width() -> None:
    assert {c: shape().width(c, 0) for c in COMPONENTS} == {
        "resid_pre": 6, "resid_mid": 6, "resid_post": 6, "attn_out": 6, "mlp_out": 6, "z": 6, "mlp_post": 5,
    }  # fmt: skip


def test_the_source_of_each_step_is_named_and_order_is_kept() -> None:
    plan = Plan([Add(vector(layer=3)), Ablate(V, layers=0), Zero(mlp(2))])
    assert [(a.source, a.layer) for a in plan.actions(shape())] == [("Add(happy)", 3), ("Ablate", 0), ("Zero", 2)]
