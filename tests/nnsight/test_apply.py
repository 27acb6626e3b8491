"""``apply(plan, model)`` inside a trace does what the hook engine does: same plan, same logits, same tokens."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from tests.model.pairs import pairwise
from tests.model.running import PROMPTS, assert_close, steering_model, vector
from torch import Tensor

import steersman as sm
from steersman.errors import (
    InterventionError,
    MismatchError,
    NotAppliedError,
    SiteUnavailableError,
    TraceError,
    UnsupportedError,
)
from steersman.nnsight import LanguageModel, apply

FACTORS: dict[str, list[Any]] = {
    "operation": ["add", "ablate", "clamp", "one-sided", "erase", "rotate", "replace", "mean", "resample", "zero", "schedule"],
    "site": ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "mlp_post"],
    "positions": ["last+generation", "all", "prompt", "last", "generation", "prompt[-3:]", 'after("i")'],
    "family": ["gpt2", "llama", "opt", "granite"],
    "rows": ["one", "list", "invokes"],
    "layer": [0, 2],
}  # fmt: skip


def valid(case: dict[str, Any]) -> bool:
    if case["operation"] == "schedule":
        return case["positions"] in ("last+generation", "last", "generation")
    return True


CASES = pairwise(FACTORS, valid)


@cache
def traced(family: str) -> LanguageModel:
    return LanguageModel(steering_model(family))


def intervention(model: sm.SteeringModel, operation: str, site: str, positions: str, layer: int) -> Any:
    width = model.shape.width(site, layer)
    v = vector(model, 1, width=width)
    where: dict[str, Any] = {"layers": layer, "site": site, "positions": positions}
    chosen = sm.site(site, layer)
    make = {
        "add": lambda: sm.Add(v, 1.5, **where),
        "schedule": lambda: sm.Add(v, sm.schedule([2.0, 0.0, -1.0]), **where),
        "ablate": lambda: sm.Ablate(v, **where),
        "clamp": lambda: sm.Clamp(v, 2.0, strength=0.7, **where),
        "one-sided": lambda: sm.Clamp(v, 0.5, side="above", **where),
        "erase": lambda: sm.Erase(
            sm.Eraser({layer: (v[:, None] / v.norm(), v[:, None] / v.norm(), v)}, site=site), **where
        ),
        "rotate": lambda: sm.Rotate(v, angle=0.6, **where),
        "replace": lambda: sm.Replace(v, **where),
        "zero": lambda: sm.Zero(chosen, positions=positions),
        "mean": lambda: sm.Mean(chosen, v, positions=positions),
        "resample": lambda: sm.Resample(chosen, torch.stack([v, -v, 2 * v]), positions=positions),
    }
    return make[operation]()


def by_apply(model: LanguageModel, prompts: list[str], plan: Any, rows: str, new: int = 4) -> tuple[Tensor, Tensor]:
    """The prompt's logits and the ids generated, the plan applied to the first row, or to all."""
    with model.generate(prompts, max_new_tokens=new, do_sample=False) as tracer:
        apply(plan, model)
        logits = model.output.logits.save()
        ids = tracer.result.save()
    return logits.detach(), ids


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(value) for value in case.values()))
def test_a_plan_in_a_trace_is_the_plan_in_hooks(case: dict[str, Any]) -> None:
    hooks, model = steering_model(case["family"]), traced(case["family"])
    plan = intervention(hooks, case["operation"], case["site"], case["positions"], case["layer"])
    prompts = PROMPTS[:1] if case["rows"] == "one" else PROMPTS[::2]
    steer: Any = [plan, *[None] * (len(prompts) - 1)] if case["rows"] == "invokes" else plan
    wanted = hooks.generate(prompts, steer=steer, max_new_tokens=4)
    columns = max(len(hooks.tokens.encode(prompt)) for prompt in prompts)
    if case["rows"] == "invokes":
        with model.generate(max_new_tokens=4, do_sample=False) as tracer:
            with tracer.invoke(prompts[0]):
                apply(plan, model)
            with tracer.invoke(prompts[1]):
                pass
            with tracer.invoke():
                ids = tracer.result.save()
                first = None
    else:
        _, ids = by_apply(model, prompts, plan, case["rows"])
    found = [
        hooks.tokens.decode_after(hooks.tokens.encode(p), row[columns:].tolist())
        for p, row in zip(prompts, ids, strict=True)
    ]
    assert found == wanted
    if case["positions"] == "generation":
        return
    reference = hooks.logits(prompts, steer=steer)
    with model.trace() as tracer:
        for number, prompt in enumerate(prompts):
            with tracer.invoke(prompt):
                if number == 0 or case["rows"] != "invokes":
                    apply(plan, model)
        with tracer.invoke():
            logits = model.output.logits.save()
    for row, prompt in enumerate(prompts):
        length = len(hooks.tokens.encode(prompt))
        assert_close(logits[row, -length:].detach(), reference[row, -length:], prompt)


def test_layers_in_any_order_several_plans_and_what_is_read_after_them() -> None:
    hooks, model = steering_model("llama"), traced("llama")
    v, w = vector(hooks, 1), vector(hooks, 2)
    with model.trace(PROMPTS):
        apply(sm.Add(v, layers=2, positions="all"), model)
        apply([sm.Ablate(w, layers=0), sm.Clamp(v, 1.0, layers=2)], model)
        seen = model.blocks[2].output.save()
        logits = model.lm_head.output.save()
    plan = [sm.Add(v, layers=2, positions="all"), sm.Ablate(w, layers=0), sm.Clamp(v, 1.0, layers=2)]
    reference = hooks.logits(PROMPTS, steer=sm.Plan(plan))
    for row, prompt in enumerate(PROMPTS):
        length = len(hooks.tokens.encode(prompt))
        assert_close(logits[row, -length:].detach(), reference[row, -length:])
    assert torch.allclose(seen[:, -1] @ (v / v.norm()), torch.ones(()), atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edited_model_is_an_edit_here(family: str) -> None:
    hooks = steering_model(family)
    plan = sm.Plan([sm.Add(vector(hooks, 3), 2.0, layers=1), sm.Ablate(vector(hooks, 4))])
    opened = LanguageModel(hooks.edit(plan))
    model = traced(family)
    with model.edit() as edited:
        apply(plan, model)
    for own in (opened, edited):
        with own.generate(PROMPTS[0], max_new_tokens=5) as tracer:
            ids = tracer.result.save()
        text = hooks.tokens.decode_after(hooks.tokens.encode(PROMPTS[0]), ids[0, -5:].tolist())
        assert text == hooks.generate(PROMPTS[0], steer=plan, max_new_tokens=5)
    with model.generate(PROMPTS[0], max_new_tokens=5) as tracer:
        ids = tracer.result.save()
    text = hooks.tokens.decode_after(hooks.tokens.encode(PROMPTS[0]), ids[0, -5:].tolist())
    assert text == hooks.generate(PROMPTS[0], max_new_tokens=5)


def test_apply_in_a_loop_or_a_block_over_steps_is_applied_once() -> None:
    hooks, model = steering_model("gpt2"), traced("gpt2")
    plan = sm.Add(vector(hooks, 1), layers=1)
    wanted = hooks.generate(PROMPTS[0], steer=plan, max_new_tokens=5)
    with model.generate(PROMPTS[0], max_new_tokens=5) as tracer:
        with tracer.all():
            apply(plan, model)
        block = tracer.result.save()
    with model.generate(PROMPTS[0], max_new_tokens=5) as tracer:
        for _ in tracer.iter[:5]:
            apply(plan, model)
        loop = tracer.result.save()
    for ids in (block, loop):
        assert hooks.tokens.decode_after(hooks.tokens.encode(PROMPTS[0]), ids[0, -5:].tolist()) == wanted


def test_a_condition_above_which_the_plan_acts() -> None:
    hooks, model = steering_model("gpt2"), traced("gpt2")
    v = vector(hooks, 1)
    found = sm.capture(hooks, PROMPTS[0])[0][-1]
    other = sm.capture(hooks, PROMPTS[1])[0][-1]
    middle = float((found + other) @ v / v.norm()) / 2
    plan = sm.Add(v, 2.0, layers=2, when=sm.When(v, layer=0, above=middle, measure="projection"))
    reference = hooks.logits(PROMPTS[:2], steer=plan)
    with model.trace(PROMPTS[:2]):
        apply(plan, model)
        logits = model.lm_head.output.save()
    plainly = hooks.logits(PROMPTS[:2])
    changed = [bool((reference[row, -1] != plainly[row, -1]).any()) for row in range(2)]
    assert sorted(changed) == [False, True]
    assert_close(logits[:, -1].detach(), reference[:, -1])


def test_a_plan_is_differentiable() -> None:
    model = traced("llama")
    v = vector(steering_model("llama"), 1).requires_grad_()
    with model.trace(PROMPTS[0]):
        apply(sm.Add(v, layers=1), model)
        loss = model.lm_head.output[0, -1, 5].save()
    (gradient,) = torch.autograd.grad(loss, v)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda v: sm.Add(v, layers=3), MismatchError, "layer 3.*3 layers: 0 to 2"),
        (lambda v: sm.Add(v[:5], layers=1), MismatchError, r"shape \(5,\).*d_model.*32"),
        (lambda v: sm.Add(sm.SteeringVector({1: v[:5]}, name="happy"), layers=1), MismatchError, "happy"),
        (lambda v: sm.Add(v, layers=1, positions="prompt[99]"), NotAppliedError, "select no token"),
        (lambda v: sm.Add(v, layers=1, positions="generation"), NotAppliedError, "selected no token"),
        (lambda v: sm.Custom(lambda h, w: h, layers=1, site="z", positions="all"), UnsupportedError, "hook engine"),
        (lambda v: sm.Add(v, layers=0, when=sm.When(v, layer=1, above=0)), UnsupportedError, "run once without"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(make: Any, error: type[Exception], words: str) -> None:
    model = traced("llama")
    plan = make(vector(steering_model("llama"), 1))
    with pytest.raises(error, match=words), model.trace(PROMPTS[0]):
        apply(plan, model)
        model.lm_head.output.save()


def test_a_site_that_is_not_there_is_refused_by_name() -> None:
    model = traced("gpt_neox")
    with pytest.raises(SiteUnavailableError, match="side by side"), model.trace("a"):
        apply(sm.Add(torch.ones(32), layers=1, site="resid_mid"), model)


def test_apply_too_late_or_outside_a_trace_says_where_it_belongs() -> None:
    model = traced("gpt2")
    plan = sm.Add(torch.ones(32), layers=2)
    with pytest.raises(TraceError, match="top of its block"), model.trace("a"):
        model.blocks[0].output.save()
        apply(plan, model)
    with pytest.raises(TraceError, match="outside a trace"):
        apply(plan, model)
    with pytest.raises(InterventionError, match="LanguageModel"):
        apply(plan, steering_model("gpt2"))  # type: ignore[arg-type]


def test_a_refused_trace_leaves_the_model_ready_for_the_next() -> None:
    hooks, model = steering_model("gpt2"), traced("gpt2")
    with pytest.raises(MismatchError), model.trace("a"):
        apply(sm.Add(torch.ones(32), layers=99), model)
    with model.trace(PROMPTS[0]):
        logits = model.lm_head.output.save()
    assert_close(logits.detach(), hooks.logits(PROMPTS[0]))
