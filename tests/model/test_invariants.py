"""What holds whatever the plan: contexts leave nothing behind; cache, batch, padding and nesting change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.running import (
    PROMPTS,
    assert_close,
    assert_same_generation,
    hook_count,
    inputs,
    steering_model,
    trace,
    trace_hf,
    vector,
)

import steersman as sm

FAMILIES = ["gpt2", "llama", "gpt_neox", "mixtral", "mistral", "granite"]
POSITIONS = ["last", "generation", "last+generation", "prompt", "all", "prompt[1:3]", "prompt[-2]", "generation[0:2]"]


def interventions(family: str) -> st.SearchStrategy[Any]:
    """Any affine or turning operation with an effect, at a residual site of any layer."""
    model = steering_model(family)

    @st.composite
    def build(draw: st.DrawFn) -> Any:
        v = vector(model, draw(st.integers(0, 9)))
        where: dict[str, Any] = {
            "layers": draw(st.integers(0, model.n_layers - 1)),
            "site": draw(st.sampled_from(["resid_pre", "resid_post", "attn_out", "mlp_out"])),
            "positions": draw(st.sampled_from(POSITIONS)),
            "strength": draw(st.sampled_from([1.0, -0.5, 2.0])),
        }
        kind = draw(st.sampled_from(["add", "ablate", "clamp", "rotate", "replace", "zero"]))
        if kind == "zero":
            return sm.Zero(sm.heads(0, [1]))
        makers = {
            "add": lambda: sm.Add(v, **where),
            "ablate": lambda: sm.Ablate(v, **where),
            "clamp": lambda: sm.Clamp(v, 1.5, side="above", **where),
            "rotate": lambda: sm.Rotate(v, angle=0.8, **where),
            "replace": lambda: sm.Replace(v, **where),
        }
        return makers[kind]()

    return build()


def plans(family: str) -> st.SearchStrategy[sm.Plan]:
    return st.lists(interventions(family), min_size=1, max_size=3).map(sm.Plan)


a_family_and_a_plan = st.sampled_from(FAMILIES).flatmap(lambda family: st.tuples(st.just(family), plans(family)))


@given(a_family_and_a_plan)
@settings(max_examples=30)
def test_cache_and_batch_change_nothing(case: tuple[str, sm.Plan]) -> None:
    model, plan = steering_model(case[0]), case[1]
    batched = trace(model, PROMPTS, plan)
    assert_same_generation(trace(model, PROMPTS, plan, use_cache=False), batched, "cache off")
    for row, prompt in enumerate(PROMPTS):
        alone = trace(model, prompt, plan)
        alone.scores = [scores.expand(len(PROMPTS), -1) for scores in alone.scores]
        found, expected = batched.logits[row], alone.logits[row]
        steps = (batched.generated[row] != alone.generated[row]).nonzero()
        same = len(found) if not len(steps) else int(steps[0]) + 1
        assert_close(found[:same], expected[:same], prompt)


@given(a_family_and_a_plan)
@settings(max_examples=25)
def test_the_model_after_a_context_is_the_model_before(case: tuple[str, sm.Plan]) -> None:
    model, plan = steering_model(case[0]), case[1]
    before, hooks = model.logits(PROMPTS), hook_count(model.hf)
    with model.steer(plan):
        trace(model, PROMPTS, new=3)
    assert torch.equal(model.logits(PROMPTS), before)
    with pytest.raises(ZeroDivisionError), model.steer(plan):
        _ = 1 / 0
    assert torch.equal(model.logits(PROMPTS), before)
    assert hook_count(model.hf) == hooks


@given(a_family_and_a_plan)
@settings(max_examples=20)
def test_nested_contexts_are_the_plans_in_a_row_and_so_are_calls(case: tuple[str, sm.Plan]) -> None:
    model, plan = steering_model(case[0]), case[1]
    more = sm.Plan([sm.Add(vector(model, 50), layers=1), sm.Zero(sm.mlp(0))])
    whole = trace(model, PROMPTS, plan + more)
    with model.steer(plan), model.steer(more):
        nested = trace(model, PROMPTS)
        plain = trace_hf(model.hf, inputs(model, PROMPTS))
    with model.steer(plan):
        mixed = trace(model, PROMPTS, more)
    for found in (nested, mixed, plain):
        assert_same_generation(found, whole)
    assert torch.equal(nested.logits, whole.logits)
    assert torch.equal(mixed.logits, whole.logits)
    assert torch.equal(trace(model.edit(plan).edit(more), PROMPTS).logits, whole.logits)


@given(a_family_and_a_plan)
@settings(max_examples=20)
def test_each_row_of_a_batch_follows_its_own_plan_as_if_it_were_alone(case: tuple[str, sm.Plan]) -> None:
    model, plan = steering_model(case[0]), case[1]
    other = sm.Plan([sm.Add(vector(model, 60), layers=[0, 1], positions="all"), sm.Add(vector(model, 61), layers=1)])
    mixed = trace(model, PROMPTS, [None, plan, other])
    for row, own in enumerate((None, plan, other)):
        together = trace(model, PROMPTS, own)
        together.scores = [scores[row : row + 1] for scores in together.scores]
        alone = trace(model, PROMPTS, own)
        alone.scores = [scores[row : row + 1] for scores in mixed.scores]
        assert_same_generation(alone, together, row)
    if case[0] != "mixtral":  # experts compute their tokens together, whatever row these are of
        assert torch.equal(mixed.logits[0], trace(model, PROMPTS).logits[0]), (
            "an unsteered row is bit for bit as before"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_strength_zero_is_no_steering_bit_for_bit(family: str) -> None:
    model = steering_model(family)
    v = vector(model)
    nothing = sm.Plan([
        sm.Add(v, 0.0, layers=1), sm.Ablate(v, strength=0), sm.Clamp(v, 3.0, strength=0, layers="all"),
        sm.Rotate(v, angle=1, strength=0, layers=0), sm.Replace(v, strength=0, layers=0, positions="all"),
        sm.Add(v, layers={1: 0.0}), sm.Add(v, sm.schedule([0.0, 0.0]), layers=1), sm.Zero(sm.block(0), strength=0),
    ])  # fmt: skip
    base, hooks = trace(model, PROMPTS, new=3), hook_count(model.hf)
    assert torch.equal(trace(model, PROMPTS, nothing, new=3).logits, base.logits)
    with model.steer(nothing):
        assert hook_count(model.hf) == hooks, "nothing is even hooked"
        assert torch.equal(trace(model, PROMPTS, new=3).logits, base.logits)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "opt", "mistral"])
@pytest.mark.parametrize("with_position_ids", [True, False])
@pytest.mark.parametrize("positions", ["last", "last+generation", "prompt[0]", "prompt[-2]", "all", "prompt[1:3]"])
def test_padding_on_either_side_touches_the_same_tokens(family: str, with_position_ids: bool, positions: str) -> None:
    """Compared by what the steering changes, since without position ids padding itself may move learned positions."""
    model = steering_model(family)
    plan = sm.Add(vector(model) * 3, layers=1, positions=positions)
    takes_positions = "position_ids" in model._engine.parameters
    for side in ("left", "right"):
        batch = inputs(model, PROMPTS, side)
        if with_position_ids and takes_positions:
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
        seen: list[torch.Tensor] = []
        handle = model.architecture.blocks[1].register_forward_hook(
            lambda m, a, out, seen=seen: seen.append((out[0] if isinstance(out, tuple) else out).clone())
        )
        try:
            with torch.no_grad():
                model.hf(**batch)
                with model.steer(plan):
                    model.hf(**batch)
        finally:
            handle.remove()
        changed = (seen[0] != seen[1]).any(-1)
        for row, prompt in enumerate(PROMPTS):
            count = len(model.tokens.encode(prompt))
            touched = changed[row][batch["attention_mask"][row].bool()].nonzero().flatten().tolist()
            named = {
                "last": [count - 1], "last+generation": [count - 1], "prompt[0]": [0], "prompt[-2]": [count - 2],
                "all": list(range(count)), "prompt[1:3]": [1, 2],
            }[positions]  # fmt: skip
            assert touched == named, (side, prompt)
            assert not changed[row][~batch["attention_mask"][row].bool()].any(), "padding is never touched"


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "mistral", "opt"])
def test_left_padding_right_padding_and_none_give_the_same_logits(family: str) -> None:
    model = steering_model(family)
    plan = sm.Plan([sm.Add(vector(model), layers=0), sm.Ablate(vector(model, 1))])
    expected = [model.logits(prompt, steer=plan)[0] for prompt in PROMPTS]
    with model.steer(plan), torch.no_grad():
        for side in ("left", "right"):
            batch = inputs(model, PROMPTS, side)
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
            found = model.hf(**batch).logits
            for row, alone in enumerate(expected):
                assert_close(found[row][batch["attention_mask"][row].bool()], alone, (side, row))


def test_untouched_rows_and_tokens_are_bit_identical() -> None:
    model = steering_model("llama")
    base = model.logits(PROMPTS)
    steered = model.logits(PROMPTS, steer=[None, sm.Add(vector(model), layers=1), None])
    assert torch.equal(steered[0], base[0])
    assert torch.equal(steered[2], base[2])
    assert not torch.equal(steered[1, -1], base[1, -1])
    assert torch.equal(steered[1, :-1], base[1, :-1]), "a causal model shows nothing before the touched token"


def test_every_row_is_steered_not_only_the_first() -> None:
    """Blocks may return plain tensors, whose [0] is the first row of the batch, not the hidden states."""
    for family in ("gpt2", "llama", "gpt_neox", "falcon"):
        model = steering_model(family)
        same = [PROMPTS[0]] * 3
        base, steered = model.logits(same), model.logits(same, steer=sm.Add(vector(model), layers=1))
        assert all(not torch.equal(steered[row, -1], base[row, -1]) for row in range(3))
        assert_close(steered[1], steered[0])
        assert_close(steered[2], steered[0])


def test_interventions_at_one_site_are_applied_in_the_order_of_the_plan() -> None:
    model = steering_model("gpt2")
    v, w = vector(model, 1), vector(model, 2)
    put_then_add = sm.Plan([sm.Replace(w, layers=2, positions="all"), sm.Add(v, layers=2, positions="all")])
    add_then_put = sm.Plan(reversed(put_then_add.interventions))
    assert_close(
        model.logits(PROMPTS, steer=put_then_add),
        model.logits(PROMPTS, steer=sm.Replace(v + w, layers=2, positions="all")),
    )
    assert_close(
        model.logits(PROMPTS, steer=add_then_put), model.logits(PROMPTS, steer=sm.Replace(w, layers=2, positions="all"))
    )


def test_a_vector_is_added_once_whatever_the_layer_it_is_given_in() -> None:
    """Adding after block l is adding before block l + 1; a second addition by either would show."""
    model = steering_model("llama")
    v = vector(model)
    after = model.logits(PROMPTS, steer=sm.Add(v, layers=0, positions="all"))
    before = model.logits(PROMPTS, steer=sm.Add(v, layers=1, site="resid_pre", positions="all"))
    assert_close(after, before)
    twice = sm.Plan([sm.Add(v, 0.5, layers=0, positions="all"), sm.Add(v, 0.5, layers=0, positions="all")])
    assert_close(model.logits(PROMPTS, steer=twice), after)


def test_a_schedule_gives_each_step_its_strength_and_holds_the_last() -> None:
    model = steering_model("gpt2")
    v = vector(model)
    scheduled = sm.Add(v, sm.schedule([2.0, 0.0, 1.0]), layers=1)
    by_parts = sm.Plan([
        sm.Add(v, 2.0, layers=1, positions="last"),
        sm.Add(v, 1.0, layers=1, positions="generation[1:]"),
    ])  # fmt: skip
    for cache in (True, False):
        assert_same_generation(
            trace(model, PROMPTS, scheduled, use_cache=cache), trace(model, PROMPTS, by_parts, use_cache=cache)
        )
    turned = sm.Rotate(v, angle=1.0, strength=sm.schedule([1.0, 0.0]), layers=1)
    assert_same_generation(
        trace(model, PROMPTS, turned), trace(model, PROMPTS, sm.Rotate(v, angle=1.0, layers=1, positions="last"))
    )


def test_rows_may_follow_schedules_of_their_own() -> None:
    model = steering_model("llama")
    a, b = (sm.Add(vector(model, n), sm.schedule([1.0 + n, 0.5, 0.0]), layers=1) for n in range(2))
    mixed = trace(model, PROMPTS, [a, b, None])
    for row, own in enumerate((a, b, None)):
        assert_close(mixed.logits[row, :1], trace(model, PROMPTS[row], own).logits[0, :1], row)
        assert_close(mixed.logits[row], trace(model, PROMPTS, own).logits[row], row)
