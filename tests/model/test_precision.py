"""Precision and derivatives: computed in float32, rounded once; differentiable when asked, else without a graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.model.running import PROMPTS, assert_close, fresh_model, hook_count, inputs, steering_model, vector
from tests.models import tiny, tiny_tokenizer
from torch import Tensor, nn

import steersman as sm

HALVES = [torch.bfloat16, torch.float16]


def half_model(family: str, dtype: torch.dtype) -> sm.SteeringModel:
    return sm.SteeringModel(tiny(family).to(dtype), tiny_tokenizer())


def outputs(model: sm.SteeringModel, module: nn.Module, steer: Any) -> Tensor:
    """What a module gives, as the next one receives it."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(
        lambda m, args, out: seen.append((out[0] if isinstance(out, tuple) else out).clone())
    )
    try:
        model.logits(PROMPTS, steer=steer)
    finally:
        handle.remove()
    return seen[0]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_touched_tokens_are_computed_in_float32_and_rounded_once(family: str, dtype: torch.dtype) -> None:
    model = half_model(family, dtype)
    v, w = vector(model), vector(model, 1)
    block = model.architecture.blocks[1]
    before = outputs(model, block, None)
    assert before.dtype == dtype
    wide, unit = before.float(), w / w.norm()

    def ablated(h: Tensor) -> Tensor:
        return h + (h @ unit)[..., None] * -unit

    expected = {
        "add": (sm.Add(v, 0.37, layers=1), wide + v * 0.37),
        "two at one site": (
            sm.Plan([sm.Add(v, 0.37, layers=1), sm.Add(w, -0.11, layers=1)]), wide + v * 0.37 + w * -0.11
        ),
        "ablate": (sm.Ablate(w, layers=1, positions="last+generation"), ablated(wide)),
    }  # fmt: skip
    for name, (plan, by_hand) in expected.items():
        found = outputs(model, block, plan)
        if name == "ablate":  # the order of a sum is not ours to say: within one rounding
            assert (
                (found[:, -1].float() - by_hand[:, -1]).abs() <= torch.finfo(dtype).eps * by_hand[:, -1].abs() + 1e-6
            ).all()
        else:
            assert torch.equal(found[:, -1], by_hand[:, -1].to(dtype)), name
        assert torch.equal(found[:, :-1], before[:, :-1]), "untouched tokens are bit for bit as they were"


@pytest.mark.parametrize("dtype", HALVES)
def test_an_addition_too_small_for_the_dtype_is_not_lost_when_it_is_one_of_many(dtype: torch.dtype) -> None:
    model = half_model("llama", dtype)
    v = vector(model)
    small = sm.Plan([sm.Add(v * 0.01, layers=1) for _ in range(100)])
    block = model.architecture.blocks[1]
    off = outputs(model, block, small)[:, -1].float() - outputs(model, block, sm.Add(v, layers=1))[:, -1].float()
    assert off.abs().max() <= 2 * torch.finfo(dtype).eps * outputs(model, block, None)[:, -1].float().abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_vectors_of_any_real_dtype_are_taken(dtype: torch.dtype) -> None:
    model = steering_model("llama")
    v = (vector(model) * 4).round()
    assert torch.equal(
        model.logits(PROMPTS, steer=sm.Add(v.to(dtype), layers=1)), model.logits(PROMPTS, steer=sm.Add(v, layers=1))
    )


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_generates_with_and_without_a_cache_and_in_contexts(dtype: torch.dtype) -> None:
    model = half_model("llama", dtype)
    plan = sm.Plan([sm.Add(vector(model), layers=1), sm.Ablate(vector(model, 1)), sm.Zero(sm.heads(1, 2))])
    single = steering_model("llama")
    assert model.logits(PROMPTS, steer=plan).dtype == dtype
    with model.steer(plan):
        out = model.hf.generate(**inputs(model, PROMPTS), max_new_tokens=3, pad_token_id=1)
    assert len(model.generate(PROMPTS, steer=plan, max_new_tokens=3)) == len(out) == 3
    assert single.shape.fingerprint == model.shape.fingerprint, "the dtype is no part of who a model is"


def test_a_float64_model_is_steered_in_float64() -> None:
    model = sm.SteeringModel(tiny("gpt2").double(), tiny_tokenizer())
    v = vector(model)
    block = model.architecture.blocks[1]
    expected = outputs(model, block, None)[:, -1] + v.double()
    assert torch.equal(outputs(model, block, sm.Add(v, layers=1))[:, -1], expected)


# -- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda v: sm.Add(v, 1.5, layers=1),
    lambda v: sm.Ablate(v),
    lambda v: sm.Clamp(v, 0.5, layers=[0, 1]),
    lambda v: sm.Rotate(v, angle=0.7, layers=1),
    lambda v: sm.Replace(v, layers=1, positions="prompt[1:3]"),
    lambda v: sm.Mean(sm.attention(1), v),
    lambda v: sm.Add(v, layers=0, site="resid_mid", positions="all"),
    lambda v: sm.Add(v, sm.schedule([1.0, 0.5]), layers=1),
])  # fmt: skip
def test_the_gradient_of_a_vector_is_the_finite_difference(make: Any) -> None:
    model = sm.SteeringModel(tiny("gpt2").double(), tiny_tokenizer())
    v = vector(model).requires_grad_()
    weights = torch.randn(320, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(direction: Tensor, grad: bool) -> Tensor:
        return (model.logits(PROMPTS, steer=make(direction), grad=grad)[:, -1] @ weights).sum()

    loss(v, True).backward()
    assert v.grad is not None
    step = torch.randn(32, generator=torch.Generator().manual_seed(1)) * 2e-3
    with torch.no_grad():
        difference = loss(v + step, False) - loss(v - step, False)
    slope = 2 * float(v.grad @ step)
    assert float(difference) == pytest.approx(slope, rel=2e-3, abs=2e-4)


def test_a_vector_is_trained_through_calls_and_through_a_context() -> None:
    model = fresh_model("llama")
    batch = inputs(model, PROMPTS)
    v = torch.zeros(model.d_model, requires_grad=True)
    optimiser = torch.optim.SGD([v], lr=0.5)
    losses: list[float] = []
    for _ in range(4):
        loss = -model.logits(PROMPTS, steer=sm.Add(v, layers=1), grad=True)[:, -1, 7].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    v.grad = None
    with model.steer(sm.Add(v, layers=1)):
        gradients = []
        for _ in range(2):
            model.hf(**batch).logits[:, -1, 7].mean().backward()
            gradients.append(v.grad.clone())  # pyright: ignore
        with torch.no_grad():
            assert not model.hf(**batch).logits.requires_grad
        model.hf(**batch).logits.sum().backward()
    assert torch.allclose(gradients[1], 2 * gradients[0])


def test_parameters_of_the_model_have_gradients_under_steering() -> None:
    model = fresh_model("gpt2")
    model.logits(
        PROMPTS, steer=sm.Plan([sm.Add(vector(model), layers=1), sm.Zero(sm.heads(0, 1))]), grad=True
    ).sum().backward()
    gradient = model.architecture.blocks[0].attn.c_proj.weight.grad
    assert gradient.abs().sum() > 0
    assert gradient[8:16].abs().sum() == 0, "a silenced head writes nothing whatever its weights"


def test_without_grad_there_is_no_graph_and_results_are_ordinary_tensors() -> None:
    model = steering_model("gpt2")
    v = vector(model).requires_grad_()
    found = model.logits(PROMPTS, steer=sm.Add(v, layers=1))
    assert not found.requires_grad
    assert not found.is_inference()
    weight = torch.ones(320, requires_grad=True)
    (found @ weight).sum().backward()
    assert weight.grad is not None
    plan = sm.Add(v, layers=1)
    with torch.inference_mode():
        assert model.logits(PROMPTS, steer=plan, grad=True).requires_grad
    assert torch.is_grad_enabled()
    assert hook_count(model.hf) == 0


def test_a_plan_used_under_inference_mode_can_be_used_with_gradients_afterwards() -> None:
    model = fresh_model("llama")
    plan = sm.Plan([sm.Add(vector(model), layers=1), sm.Clamp(vector(model, 1), 1.0, layers=2)])
    with torch.inference_mode(), model.steer(plan):
        model.hf(**inputs(model, PROMPTS))
    with model.steer(plan):
        with torch.inference_mode():
            without = model.hf(**inputs(model, PROMPTS)).logits
        found = model.hf(**inputs(model, PROMPTS)).logits
        found.sum().backward()
    assert_close(found.detach(), without.clone())
