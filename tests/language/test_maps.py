"""Every operation does to a token what its equation says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.language.strategies import HEAD, LAYERS, WIDTH, numbers, seeds, shape, tensor, vector
from torch import Tensor

from steersman import (
    Ablate,
    Add,
    Affine,
    Clamp,
    Custom,
    Erase,
    Eraser,
    Mean,
    Replace,
    Resample,
    Rotate,
    SteeringVector,
    Zero,
    heads,
    neurons,
    site,
)  # fmt: skip
from steersman.operations.base import Intervention
from steersman.operations.maps import AffineMap, Map, Tokens, moved

small = st.floats(-3, 3)


def states(seed: int, n: int = 7, width: int = WIDTH) -> Tensor:
    return tensor(n, width, seed=1000 + seed).double() * 3


def the_map(item: Intervention) -> Map:
    """The map of an intervention at its first site, in float64."""
    return moved(item.actions(shape())[0].map, torch.device("cpu"), torch.float64)


def affine(item: Intervention) -> AffineMap:
    found = the_map(item).affine
    assert found is not None
    return found


def same(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> bool:
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.abs().max())))


def unit(v: Tensor) -> Tensor:
    return v.double() / v.double().norm()


def tokens(n: int, prompts: list[tuple[int, ...] | None], rows: list[int] | None = None, start: int = 0) -> Tokens:
    return Tokens(1, "resid_post", rows or [0] * n, range(start, start + n), range(n), prompts)


# -- the normal form ---------------------------------------------------------------------------------------------


@st.composite
def affine_maps(draw: st.DrawFn) -> AffineMap:
    seed, rank = draw(seeds), draw(st.integers(1, 3))
    read = draw(st.sampled_from([None, tensor(WIDTH, rank, seed=seed + 1).double()]))
    return AffineMap(tensor(WIDTH, rank, seed=seed).double(), read, tensor(rank, seed=seed + 2).double())


@given(affine_maps(), affine_maps(), seeds)
def test_then_is_one_map_that_does_what_the_two_do_in_order(a: AffineMap, b: AffineMap, seed: int) -> None:
    h = states(seed)
    assert same(a.then(b)(h), b(a(h)), 1e-10)
    assert a.then(b).rank == a.rank + b.rank


@given(affine_maps(), affine_maps(), affine_maps(), seeds)
def test_composition_is_associative(a: AffineMap, b: AffineMap, c: AffineMap, seed: int) -> None:
    h = states(seed)
    assert same(a.then(b).then(c)(h), a.then(b.then(c))(h), 1e-10)


@given(affine_maps(), small, seeds)
def test_strength_scales_the_whole_change(a: AffineMap, s: float, seed: int) -> None:
    h = states(seed)
    assert same(a.scaled(s)(h), h + s * (a(h) - h), 1e-10)
    assert same(h + a.change(h), a(h), 1e-12)


@given(affine_maps(), seeds)
def test_matrices_are_the_map_written_out(a: AffineMap, seed: int) -> None:
    h = states(seed)
    weight, bias = a.matrices()
    assert same(h @ weight.T + bias, a(h), 1e-10)
    assert torch.equal(bias, a.offset)


@given(affine_maps(), seeds)
def test_a_map_of_float32_is_the_same_map_within_rounding(a: AffineMap, seed: int) -> None:
    h = states(seed)
    narrow = moved(a, torch.device("cpu"), torch.float32)
    assert narrow(h.float()).dtype == torch.float32
    assert same(narrow(h.float()).double(), a(h), 1e-5)


# -- addition ----------------------------------------------------------------------------------------------------


@given(seeds, seeds)
def test_add_adds(seed: int, at: int) -> None:
    v, h = tensor(WIDTH, seed=seed), states(at)
    assert torch.equal(affine(Add(v, layers=1))(h), h + v.double())
    assert affine(Add(v, layers=1)).read is None


# -- projections -------------------------------------------------------------------------------------------------


@given(seeds, seeds, st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
def test_ablate_removes_the_projection_and_nothing_else_whatever_the_length(seed: int, at: int, size: float) -> None:
    v, h = tensor(WIDTH, seed=seed), states(at)
    op, r = affine(Ablate(v * size, layers=1)), unit(v)
    assert same(op(h), h - (h @ r)[:, None] * r)
    assert float((op(h) @ r).abs().max()) < 1e-5
    assert same(op(op(h)), op(h))


@given(seeds, seeds, st.integers(2, WIDTH - 1))
def test_ablate_removes_the_whole_span_of_several_directions(seed: int, at: int, k: int) -> None:
    rows, h = tensor(k, WIDTH, seed=seed) * torch.logspace(-8, 4, k)[:, None], states(at)
    op = affine(Ablate(rows, layers=1))
    basis = torch.linalg.qr(torch.nn.functional.normalize(rows.double(), dim=1).T).Q
    assert same(op(h), h - h @ basis @ basis.T, 1e-4)
    assert same(op(op(h)), op(h), 1e-5)
    assert op.rank == k


@pytest.mark.parametrize("rows", [[[1.0, 2, 3, 0, 0, 0], [2.0, 4, 6, 0, 0, 0]], torch.randn(WIDTH + 1, WIDTH)])
def test_dependent_directions_are_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match="linearly dependent; leave the superfluous ones out"):
        Ablate(torch.as_tensor(rows), layers=1).actions(shape())


@given(seeds, seeds, numbers)
def test_clamp_makes_the_projection_exactly_the_value(seed: int, at: int, value: float) -> None:
    v, h = tensor(WIDTH, seed=seed), states(at)
    op, r = affine(Clamp(v, value, layers=1)), unit(v)
    out = op(h)
    assert same(out @ r, torch.full((len(h),), value, dtype=torch.float64))
    assert same(out - (out @ r)[:, None] * r, h - (h @ r)[:, None] * r, 1e-6 * max(1, abs(value)))


@given(seeds, seeds)
def test_ablation_is_clamping_at_zero(seed: int, at: int) -> None:
    v, h = tensor(WIDTH, seed=seed), states(at)
    assert same(affine(Clamp(v, 0, layers=1))(h), affine(Ablate(v, layers=1))(h))


@given(seeds, seeds, small, st.sampled_from(["above", "below"]))
def test_a_one_sided_clamp_acts_on_that_side_only(seed: int, at: int, value: float, side: Any) -> None:
    v, h = tensor(WIDTH, seed=seed), states(at)
    op, r = the_map(Clamp(v, value, side=side, layers=1)), unit(v)
    before = h @ r
    acts = before > value if side == "above" else before < value
    assert op.affine is None
    assert same(op(h) @ r, torch.where(acts, torch.full_like(before, value), before))
    assert torch.equal(op(h)[~acts], h[~acts])


@given(seeds, seeds, small)
def test_affine_editing_puts_every_input_at_the_same_point_between_the_means(seed: int, at: int, alpha: float) -> None:
    v, h = vector(seed, layer=1), states(at)
    negative, positive = v.projections[1]
    target, r = (1 - alpha) * negative + alpha * positive, unit(v[1])
    assert same(affine(Affine(v, alpha))(h) @ r, torch.full((len(h),), target, dtype=torch.float64))
    assert same(affine(Affine(v, alpha))(h), affine(Clamp(v, target))(h))


@given(seeds, seeds, st.sampled_from([0.0, 1.0]))
def test_what_affine_editing_makes_does_not_depend_on_the_projection_it_met(seed: int, at: int, alpha: float) -> None:
    v, h = vector(seed, layer=1), states(at)
    op, r = affine(Affine(v, alpha)), unit(v[1])
    pushed = h + torch.linspace(-50, 50, len(h), dtype=torch.float64)[:, None] * r
    assert same(op(pushed), op(h), 1e-5)


# -- erasure -----------------------------------------------------------------------------------------------------


def labelled(seed: int, n: int = 60) -> tuple[Tensor, Tensor]:
    x = tensor(n, WIDTH, seed=seed).double() @ tensor(WIDTH, WIDTH, seed=seed + 1).double()
    labels = (torch.arange(n) % 3 == 0).double()
    return x + labels[:, None] * tensor(WIDTH, seed=seed + 2).double() + 5, labels


def binary_eraser(x: Tensor, labels: Tensor) -> Eraser:
    """LEACE for one binary label in closed form: x - a b^T (x - mu) / (b^T a), a the gap, b = Sigma^-1 a."""
    gap = x[labels == 1].mean(0) - x[labels == 0].mean(0)
    read = torch.linalg.solve(torch.cov(x.T, correction=0), gap)
    return Eraser({1: (gap[:, None] / (read @ gap), read[:, None], x.mean(0))})


@given(seeds)
def test_erasing_leaves_no_linear_trace_of_the_label_and_the_mean_where_it_was(seed: int) -> None:
    x, labels = labelled(seed)
    op = affine(Erase(binary_eraser(x, labels)))
    out = op(x)
    crossed = (out - out.mean(0)).T @ (labels - labels.mean()) / len(x)
    assert float(crossed.abs().max()) < 1e-4
    assert float((out[labels == 1].mean(0) - out[labels == 0].mean(0)).abs().max()) < 1e-4
    assert same(out.mean(0), x.mean(0), 1e-5)
    assert same(op(out), out, 1e-4)


# -- rotation ----------------------------------------------------------------------------------------------------

angles = st.floats(0, math.pi)


@given(seeds, seeds, angles)
def test_turning_towards_a_direction_keeps_the_norm_and_sets_the_angle(seed: int, at: int, angle: float) -> None:
    v, h = tensor(WIDTH, seed=seed), states(at)
    out, r = the_map(Rotate(v, angle, layers=1))(h), unit(v)
    assert same(out.norm(dim=1), h.norm(dim=1))
    assert same(torch.cosine_similarity(out, r, dim=1), torch.full((len(h),), math.cos(angle), dtype=torch.float64))
    plane = torch.stack([h, r.expand_as(h)], dim=2)
    within = plane @ torch.linalg.lstsq(plane, out[:, :, None]).solution
    assert same(within[:, :, 0], out, 1e-5)


def test_a_token_along_the_direction_has_no_plane_to_turn_in_and_stays() -> None:
    v = tensor(WIDTH)
    h = torch.stack([3 * unit(v), -2 * unit(v), torch.zeros(WIDTH, dtype=torch.float64)])
    assert torch.equal(the_map(Rotate(v, 1.0, layers=1))(h), h)


@given(seeds, seeds, st.floats(-7, 7))
def test_turning_in_a_plane_sets_the_angle_there_and_leaves_the_rest(seed: int, at: int, angle: float) -> None:
    first, second, h = tensor(WIDTH, seed=seed), tensor(WIDTH, seed=seed + 60), states(at)
    b1 = unit(first)
    b2 = unit(second.double() - (second.double() @ b1) * b1)
    size = (h @ b1).square().add((h @ b2).square()).sqrt()
    rest = h - (h @ b1)[:, None] * b1 - (h @ b2)[:, None] * b2
    expected = rest + size[:, None] * (math.cos(angle) * b1 + math.sin(angle) * b2)
    for item in (
        Rotate(first, angle, plane=second, layers=1),
        Rotate(None, angle, plane=(first, second), layers=1),
        Rotate(first, angle, plane=[first, second], layers=1),
    ):
        out = the_map(item)(h)
        assert same(out, expected, 1e-5)
        assert same(out.norm(dim=1), h.norm(dim=1), 1e-6)


@given(seeds, seeds, st.floats(-3, 3), st.floats(-3, 3))
def test_a_start_within_the_plane_moves_the_zero_of_the_angle(seed: int, at: int, angle: float, turn: float) -> None:
    first, second, h = tensor(WIDTH, seed=seed), tensor(WIDTH, seed=seed + 60), states(at)
    b1 = unit(first)
    b2 = unit(second.double() - (second.double() @ b1) * b1)
    start = (math.cos(turn) * b1 + math.sin(turn) * b2).float()
    moved_start = the_map(Rotate(start, angle, plane=(first, second), layers=1))(h)
    assert same(moved_start, the_map(Rotate(first, angle + turn, plane=second, layers=1))(h), 1e-5)


def test_nearly_parallel_directions_still_span_an_exact_plane() -> None:
    first = torch.eye(WIDTH)[0] + 0.3
    second = first + 1e-4 * tensor(WIDTH)
    h = states(0)
    assert same(the_map(Rotate(first, 1.0, plane=second, layers=1))(h).norm(dim=1), h.norm(dim=1), 1e-6)


@pytest.mark.parametrize("start", [None, torch.ones(WIDTH)])
def test_parallel_directions_span_no_plane(start: Tensor | None) -> None:
    with pytest.raises(ValueError, match="the two directions are parallel and span no plane"):
        Rotate(start, 1.0, plane=(torch.ones(WIDTH), -2 * torch.ones(WIDTH)), layers=1).actions(shape())


# -- setting, drawing --------------------------------------------------------------------------------------------


@given(seeds, seeds, st.sampled_from([None, 1, [1, 0]]))
def test_zero_silences_the_heads_named_and_no_other(seed: int, layer: int, which: Any) -> None:
    h = states(seed)
    op = the_map(Zero(heads(layer % LAYERS, which)))
    silent = (
        range(WIDTH) if which is None else [HEAD * i + j for i in torch.tensor([which]).ravel() for j in range(HEAD)]
    )
    expected = h.clone()
    expected[:, list(silent)] = 0
    assert torch.equal(op(h), expected)
    assert op.affine is not None
    assert same(op.affine(h), expected, 1e-12)


def test_means_of_the_chosen_neurons_go_where_they_were_named() -> None:
    h = states(0, width=5)
    whole, part = torch.arange(5.0), torch.tensor([4.0, 1.0])
    for means in (whole, part, {1: whole}, {1: part}):
        out = the_map(Mean(neurons(1, [4, 1]), means))(h)
        assert out[:, 4].unique().tolist() == [4.0]
        assert out[:, 1].unique().tolist() == [1.0]
        assert torch.equal(out[:, [0, 2, 3]], h[:, [0, 2, 3]])


def test_values_go_in_by_rank_and_means_by_position() -> None:
    rows, h = tensor(9, WIDTH), states(0, n=4)
    at = tokens(4, [(1, 2)], start=5)
    assert the_map(Replace(rows, layers=1, positions="generation"))(h, at).equal(rows[:4].double())
    assert the_map(Mean(site("mlp_out", 1), rows))(h, at).equal(rows[5:9].double())
    one = the_map(Replace(rows[0], layers=1, positions="last"))
    assert one(h).equal(rows[:1].double().expand(4, -1))
    assert one.affine is not None
    assert one.affine(h).allclose(one(h))


def test_replacing_hands_out_a_tensor_of_its_own() -> None:
    op = the_map(Replace(tensor(WIDTH), layers=1, positions="last"))
    out = op(states(0, n=1))
    out.zero_()
    assert float(op(states(0, n=1)).abs().max()) > 0


prompts = st.lists(st.integers(0, 999), min_size=1, max_size=6).map(tuple)


@given(st.lists(prompts, min_size=1, max_size=5), st.integers(0, 9))
def test_a_prompt_draws_the_same_row_alone_in_company_and_in_every_layer(batch: list[Any], seed: int) -> None:
    reference = tensor(40, WIDTH)
    first, second = Resample(site("resid_post", [0, 2]), reference, seed=seed).actions(shape())
    h = states(0, n=len(batch)).float()
    together = first.map(h, tokens(len(batch), batch, rows=list(range(len(batch)))))
    assert torch.equal(together, second.map(h, tokens(len(batch), batch, rows=list(range(len(batch))))))
    for row, prompt in enumerate(batch):
        assert torch.equal(first.map(h[:1], tokens(1, [prompt]))[0], together[row])
        assert (together[row] == reference).all(1).any()


def test_the_seed_and_the_prompt_decide_the_draw() -> None:
    def drawn(seed: int, prompt: tuple[int, ...]) -> list[float]:
        item = Resample(site("resid_post", 0), tensor(500, WIDTH), seed=seed)
        return item.actions(shape())[0].map(torch.zeros(1, WIDTH), tokens(1, [prompt]))[0].tolist()

    assert len({tuple(drawn(seed, (1, 2))) for seed in range(20)}) > 15
    assert len({tuple(drawn(0, (1, token))) for token in range(20)}) > 15
    assert drawn(0, (1, 23)) != drawn(0, (12, 3))


def test_a_draw_needs_the_prompt_unless_there_is_nothing_to_draw() -> None:
    many = Resample(site("resid_post", 0), tensor(5, WIDTH)).actions(shape())[0].map
    with pytest.raises(ValueError, match="draws by the prompt's token ids, and the model was fed embeddings"):
        many(torch.zeros(1, WIDTH), tokens(1, [None]))
    one = Resample(site("resid_post", 0), tensor(WIDTH)).actions(shape())[0].map
    assert torch.equal(one(torch.zeros(1, WIDTH), tokens(1, [None]))[0], tensor(WIDTH))


def test_a_custom_function_gets_the_tokens_and_where_they_are() -> None:
    seen: list[Tokens] = []
    item = Custom(lambda h, at: (seen.append(at), h * 2)[1], layers=1, site="attn_out", positions="all")
    h, at = states(0), tokens(7, [(1,)])
    assert torch.equal(item.actions(shape())[0].map(h, at), h * 2)
    assert seen == [at]


# -- gradients ---------------------------------------------------------------------------------------------------


def test_gradients_reach_the_tensors_that_users_gave() -> None:
    v = tensor(WIDTH).requires_grad_()
    for item in (
        Add(v, layers=1), Ablate(v, layers=1), Clamp(v, 2, layers=1), Rotate(v, 1.0, layers=1),
        Replace(v, layers=1, positions="last"), Mean(site("mlp_out", 1), v), Add(SteeringVector({1: v}), layers=1),
    ):  # fmt: skip
        assert item.requires_grad
        (found,) = torch.autograd.grad(item.actions(shape())[0].map(states(1).float()).square().sum(), v)
        assert float(found.abs().max()) > 0
    assert not Add(v.detach(), layers=1).requires_grad


def test_the_gradient_of_an_ablated_direction_is_that_of_the_equation() -> None:
    v, h = tensor(WIDTH).requires_grad_(), states(1).float()
    r = v / v.norm()
    (expected,) = torch.autograd.grad(((h - (h @ r)[:, None] * r) ** 3).sum(), v)
    (found,) = torch.autograd.grad((Ablate(v, layers=1).actions(shape())[0].map(h) ** 3).sum(), v)
    assert same(found, expected, 1e-4)
