"""Edited models: the same parameters, another behaviour, and the original as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.running import (
    PROMPTS,
    assert_close,
    assert_same_generation,
    fresh_model,
    hook_count,
    inputs,
    steering_model,
    trace,
    trace_hf,
    vector,
)

import steersman as sm
from steersman.errors import FileFormatError, MismatchError, UnsupportedError


@pytest.fixture
def model() -> sm.SteeringModel:
    return fresh_model("gpt2")


def plans(model: sm.SteeringModel) -> tuple[sm.Plan, sm.Plan]:
    return (
        sm.Plan([sm.Add(vector(model), layers=1), sm.Ablate(vector(model, 1))]),
        sm.Plan([sm.Add(vector(model, 2), layers=2, positions="all")]),
    )


def test_the_original_is_untouched_and_the_edit_always_acts(model: sm.SteeringModel) -> None:
    a, _ = plans(model)
    before = trace(model, PROMPTS)
    edited = model.edit(a)
    assert torch.equal(trace(edited, PROMPTS).logits, trace(model, PROMPTS, a).logits)
    assert_same_generation(trace_hf(edited.hf, inputs(model, PROMPTS)), trace(model, PROMPTS, a))
    assert torch.equal(trace(model, PROMPTS).logits, before.logits)
    assert model.plan == sm.Plan()
    assert edited.plan == a
    assert hook_count(model.hf) == 0


def test_every_parameter_and_buffer_is_shared(model: sm.SteeringModel) -> None:
    edited = model.edit(plans(model)[0])
    twin, base = edited.hf, model.hf
    assert twin is not base
    assert edited.hf is twin
    for (name, mine), (other, theirs) in zip(
        [*base.named_parameters(), *base.named_buffers()],
        [*twin.named_parameters(), *twin.named_buffers()],
        strict=True,
    ):
        assert name == other
        assert mine.data_ptr() == theirs.data_ptr()
    with torch.no_grad():
        base.get_input_embeddings().weight.mul_(0.5)
    assert torch.equal(model.logits(PROMPTS, steer=edited.plan), edited.logits(PROMPTS)), (
        "a change of one is one of both"
    )


def test_edits_nest_in_order(model: sm.SteeringModel) -> None:
    a, b = plans(model)
    twice = model.edit(a).edit(b)
    assert twice.plan == a + b
    assert torch.equal(trace(twice, PROMPTS).logits, trace(model, PROMPTS, a + b).logits)
    assert_same_generation(trace_hf(twice.hf, inputs(model, PROMPTS)), trace(model, PROMPTS, a + b))


@pytest.mark.parametrize("hf_asked_first", [True, False])
def test_contexts_on_an_edited_model_add_to_its_edit(model: sm.SteeringModel, hf_asked_first: bool) -> None:
    a, b = plans(model)
    expected = trace(model, PROMPTS, a + b)
    edited = model.edit(a)
    if hf_asked_first:
        hooks = hook_count(edited.hf)
    with edited.steer(b):
        assert torch.equal(trace(edited, PROMPTS).logits, expected.logits)
        assert_same_generation(trace_hf(edited.hf, inputs(model, PROMPTS)), expected)
    if hf_asked_first:
        assert hook_count(edited.hf) == hooks
    assert_same_generation(trace_hf(edited.hf, inputs(model, PROMPTS)), trace(model, PROMPTS, a))


def test_contexts_of_base_and_edit_do_not_reach_each_other(model: sm.SteeringModel) -> None:
    a, b = plans(model)
    edited = model.edit(a)
    batch = inputs(model, PROMPTS)
    plain, changed = trace(model, PROMPTS).logits, trace(edited, PROMPTS).logits
    own = trace_hf(edited.hf, batch).logits
    with model.steer(b):
        assert torch.equal(trace(edited, PROMPTS).logits, changed)
        assert torch.equal(trace_hf(edited.hf, batch).logits, own)
    with edited.steer(b):
        assert torch.equal(trace(model, PROMPTS).logits, plain)
        assert torch.equal(trace_hf(model.hf, batch).logits, trace_hf(model.hf, batch).logits)


def test_the_tree_of_an_edit_may_be_asked_for_while_the_base_is_steered(model: sm.SteeringModel) -> None:
    a, b = plans(model)
    edited = model.edit(a)
    expected = trace(model, PROMPTS, a)
    with model.steer(b):
        found = trace_hf(edited.hf, inputs(model, PROMPTS))
    assert_same_generation(found, expected)
    assert hook_count(model.hf) == 0
    assert_same_generation(trace_hf(edited.hf, inputs(model, PROMPTS)), expected)


def test_hooks_of_the_user_stay_where_they_were(model: sm.SteeringModel) -> None:
    seen: list[int] = []
    model.architecture.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    edited = model.edit(plans(model)[0])
    with torch.no_grad():
        edited.hf(**inputs(model, PROMPTS))
    assert not seen
    model.logits(PROMPTS)
    assert seen == [1]


def test_an_edit_is_saved_as_its_base_and_its_plan(model: sm.SteeringModel, tmp_path: Path) -> None:
    a, b = plans(model)
    model.save_pretrained(tmp_path / "base")
    base = sm.SteeringModel.from_pretrained(tmp_path / "base")
    assert_close(base.logits(PROMPTS), model.logits(PROMPTS))
    edited = base.edit(a).edit(b)
    edited.save_pretrained(tmp_path / "edited")
    assert not list((tmp_path / "edited").glob("model*")), "no weights"
    again = sm.SteeringModel.from_pretrained(tmp_path / "edited")
    assert again.plan == a + b
    assert torch.equal(again.logits(PROMPTS), edited.logits(PROMPTS))
    assert again.generate(PROMPTS[0], max_new_tokens=4) == edited.generate(PROMPTS[0], max_new_tokens=4)


def test_an_edit_of_a_model_that_is_nowhere_cannot_be_saved(model: sm.SteeringModel, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="save the base first"):
        model.edit(plans(model)[0]).save_pretrained(tmp_path)


def test_an_edit_of_another_model_is_refused_when_loaded(model: sm.SteeringModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "base")
    sm.SteeringModel.from_pretrained(tmp_path / "base").edit(plans(model)[0]).save_pretrained(tmp_path / "edited")
    fresh_model("gpt2", n_layer=2, num_hidden_layers=2).save_pretrained(tmp_path / "base")
    with pytest.raises(MismatchError, match="was made for"):
        sm.SteeringModel.from_pretrained(tmp_path / "edited")
    (tmp_path / "edited" / "steersman_edit.json").write_text("{}")
    with pytest.raises(FileFormatError, match="does not describe an edited model"):
        sm.SteeringModel.from_pretrained(tmp_path / "edited")


@pytest.mark.parametrize("mark", ["dispatched", "quantised"])
def test_dispatched_and_quantised_models_have_no_second_tree_but_are_edited_all_the_same(mark: str) -> None:
    model = fresh_model("llama")
    a, _ = plans(model)
    if mark == "dispatched":
        from accelerate import cpu_offload

        cpu_offload(model.hf, execution_device=torch.device("cpu"))
    else:
        model.hf.is_quantized = True
    edited: Any = model.edit(a)
    with pytest.raises(UnsupportedError, match=f"is {mark}.*use edited.generate"):
        _ = edited.hf
    plain = fresh_model("llama")
    assert_close(edited.logits(PROMPTS), plain.logits(PROMPTS, steer=a))
    assert edited.generate(PROMPTS, max_new_tokens=3) == plain.generate(PROMPTS, steer=a, max_new_tokens=3)


def test_a_plan_that_does_not_fit_is_refused_when_editing() -> None:
    model = steering_model("gpt2")
    with pytest.raises(MismatchError, match="it must be"):
        model.edit(sm.Add(torch.ones(3), layers=1))
