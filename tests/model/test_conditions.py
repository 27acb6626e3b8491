"""Conditions: read once per row at the last prompt token, without the plan, and then held."""

from __future__ import annotations

import pytest
import torch
from tests.model import reference as by_hand
from tests.model.running import (
    PROMPTS,
    Trace,
    assert_close,
    assert_same_generation,
    counting_passes,
    hook_count,
    inputs,
    steering_model,
    trace,
    trace_hf,
    vector,
)

import steersman as sm

LAYER = 1


def row_of(found: Trace, row: int) -> Trace:
    return Trace([scores[row : row + 1] for scores in found.scores], found.ids)


def cosines(model: sm.SteeringModel, family: str, harm: torch.Tensor) -> list[float]:
    found = []
    for prompt in PROMPTS:
        hidden = by_hand.read(model.hf, family, "resid_post", LAYER, model.tokens.encode(prompt))[-1]
        found.append(float(torch.dot(hidden, harm) / hidden.norm() / harm.norm()))
    return found


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
@pytest.mark.parametrize("acts_at", [0, 2])
@pytest.mark.parametrize("cache", [True, False])
def test_each_row_of_a_mixed_batch_decides_for_itself(family: str, acts_at: int, cache: bool) -> None:
    model = steering_model(family)
    harm, v = vector(model, 5), vector(model)
    measured = cosines(model, family, harm)
    threshold = sorted(measured)[1]  # between the highest and the rest
    opens = [cosine > threshold + 1e-4 for cosine in measured]
    assert opens.count(True) == 1
    for gate, held in (
        (sm.When(harm, LAYER, above=threshold + 1e-4), opens),
        (sm.When(harm, LAYER, below=threshold + 1e-4), [not o for o in opens]),
    ):
        plan = sm.Add(v, layers=acts_at, when=gate)
        found = trace(model, PROMPTS, plan, use_cache=cache)
        always, never = trace(model, PROMPTS, sm.Add(v, layers=acts_at), use_cache=cache), trace(model, PROMPTS)
        for row, open_ in enumerate(held):
            assert_same_generation(row_of(found, row), row_of(always if open_ else never, row), (row, open_))


@pytest.mark.parametrize("positions", ["last+generation", "all", "generation", "prompt[0]"])
@pytest.mark.parametrize("acts_at", [0, 1, 2])
def test_a_threshold_no_cosine_reaches_is_off_and_one_that_all_pass_is_on(positions: str, acts_at: int) -> None:
    model = steering_model("llama")
    v, harm = vector(model), vector(model, 5)

    def plan(**threshold: float) -> sm.Add:
        return sm.Add(v, layers=acts_at, positions=positions, when=sm.When(harm, LAYER, **threshold))

    assert torch.equal(trace(model, PROMPTS, plan(above=2.0)).logits, trace(model, PROMPTS).logits)
    unconditional = trace(model, PROMPTS, sm.Add(v, layers=acts_at, positions=positions))
    assert torch.equal(trace(model, PROMPTS, plan(above=-2.0)).logits, unconditional.logits)
    assert torch.equal(trace(model, PROMPTS, plan(below=2.0)).logits, unconditional.logits)


def test_a_projection_is_measured_in_raw_residual_units() -> None:
    model = steering_model("gpt2")
    harm, v = vector(model, 5, scale=7.0), vector(model)
    hidden = by_hand.read(model.hf, "gpt2", "resid_post", LAYER, model.tokens.encode(PROMPTS[0]))[-1]
    projection = float(torch.dot(hidden, harm / harm.norm()))
    base, steered = model.logits(PROMPTS[0]), model.logits(PROMPTS[0], steer=sm.Add(v, layers=2))
    for offset, expected in ((-1e-3, steered), (1e-3, base)):
        gate = sm.When(harm, LAYER, above=projection + offset, measure="projection")
        assert torch.equal(model.logits(PROMPTS[0], steer=sm.Add(v, layers=2, when=gate)), expected)


def test_the_decision_is_held_while_the_text_grows() -> None:
    """A condition that the generated tokens would decide otherwise, were it read again."""
    model = steering_model("gpt2")
    harm, v = vector(model, 5), vector(model, scale=4.0)
    always = trace(model, PROMPTS[0], sm.Add(v, layers=2), new=8)
    ids = [*model.tokens.encode(PROMPTS[0]), *always.generated[0].tolist()]
    hidden = by_hand.read(model.hf, "gpt2", "resid_post", LAYER, ids)[-9:]
    measured = torch.cosine_similarity(hidden, harm[None])
    threshold = float(measured[0]) - 1e-3
    assert bool((measured[1:] < threshold).any()), "some later token is below the threshold"
    found = trace(model, PROMPTS[0], sm.Add(v, layers=2, when=sm.When(harm, LAYER, above=threshold)), new=8)
    assert_same_generation(found, always)


def test_a_plan_that_acts_below_its_condition_costs_one_clean_pass_over_the_prompt() -> None:
    model = steering_model("gpt2")
    v, harm = vector(model), vector(model, 5)

    def passes(plan: sm.Add) -> int:
        with counting_passes(model.hf) as seen:
            model.generate(PROMPTS, steer=plan, max_new_tokens=3)
        return len(seen)

    gate = sm.When(harm, LAYER, above=-2.0)
    assert passes(sm.Add(v, layers=2, when=gate)) == 3
    assert passes(sm.Add(v, layers=0, positions="generation", when=gate)) == 3, "acts nowhere in the prompt"
    assert passes(sm.Add(v, layers=0, when=gate)) == 4
    assert passes(sm.Add(v, layers=1, when=gate)) == 4, "what it reads would already be steered"


def test_the_condition_reads_the_model_without_the_plan() -> None:
    """The plan itself moves the stream far along the direction read; the decision must not see it."""
    model = steering_model("llama")
    harm = vector(model, 5)
    measured = max(cosines(model, "llama", harm))
    push = sm.Add(harm * 100, layers=0, positions="all")
    gated = sm.Add(vector(model), layers=2, when=sm.When(harm, LAYER, above=measured + 0.05))
    assert torch.equal(model.logits(PROMPTS, steer=sm.Plan([push, gated])), model.logits(PROMPTS, steer=push)), (
        "below its threshold on the clean prompt, so off"
    )


@pytest.mark.parametrize("settings", [{}, {"cache_implementation": "static"}, {"use_cache": False}, {"num_beams": 2}])
@pytest.mark.parametrize("acts_at", [0, 2])
@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma2"])
def test_conditions_hold_in_plain_calls_with_any_cache_and_with_beams(
    family: str, settings: dict, acts_at: int
) -> None:
    model = steering_model(family)
    harm, v = vector(model, 5), vector(model, scale=2.0)
    threshold = sorted(cosines(model, family, harm))[1] + 1e-4
    plan = sm.Add(v, layers=acts_at, when=sm.When(harm, LAYER, above=threshold))
    with model.steer(plan):
        inside = trace_hf(model.hf, inputs(model, PROMPTS), **settings)
    tolerance = 5e-5 if family == "gemma2" else 1e-5  # its own rounding, unsteered, is larger
    assert_same_generation(inside, trace(model, PROMPTS, plan, **settings), tolerance=tolerance)
    if "num_beams" not in settings:
        assert_same_generation(inside, trace(model, PROMPTS, plan), tolerance=tolerance)
    assert hook_count(model.hf) == 0


def test_beams_follow_the_decision_of_their_row() -> None:
    model = steering_model("gpt2")
    harm, v = vector(model, 5), vector(model, scale=3.0)
    measured = cosines(model, "gpt2", harm)
    gate = sm.When(harm, LAYER, above=sorted(measured)[1] + 1e-4)
    mixed = model.generate(PROMPTS, steer=sm.Add(v, layers=2, when=gate), num_beams=3, num_return_sequences=2)
    for row, prompt in enumerate(PROMPTS):
        own = sm.Add(v, layers=2) if measured[row] == max(measured) else None
        assert mixed[row] == model.generate(prompt, steer=own, num_beams=3, num_return_sequences=2)


def test_two_conditions_in_one_plan_are_decided_apart() -> None:
    model = steering_model("gpt2")
    v, w = vector(model), vector(model, 1)
    on, off = sm.When(vector(model, 5), 0, above=-2.0), sm.When(vector(model, 6), LAYER, above=2.0)
    plan = sm.Plan([sm.Add(v, layers=1, when=on), sm.Add(w, layers=2, when=off)])
    assert_close(model.logits(PROMPTS, steer=plan), model.logits(PROMPTS, steer=sm.Add(v, layers=1)))


def test_a_condition_with_a_continuation_is_read_at_the_end_of_the_prompt() -> None:
    model = steering_model("gpt2")
    harm, v = vector(model, 5), vector(model)
    measured = cosines(model, "gpt2", harm)[0]
    for shift, on in ((-1e-3, True), (1e-3, False)):
        plan = sm.Add(v, layers=2, when=sm.When(harm, LAYER, above=measured + shift))
        found = model.logits(PROMPTS[0], continuation=" great and good", steer=plan)
        always = model.logits(PROMPTS[0], continuation=" great and good", steer=sm.Add(v, layers=2))
        never = model.logits(PROMPTS[0], continuation=" great and good")
        assert_close(found, always if on else never)


def test_a_closed_condition_is_no_error() -> None:
    model = steering_model("gpt2")
    plan = sm.Add(vector(model), layers=2, when=sm.When(vector(model, 5), LAYER, above=2.0))
    with model.steer(plan):
        model.generate(PROMPTS, max_new_tokens=2)
        trace_hf(model.hf, inputs(model, PROMPTS), new=2)
