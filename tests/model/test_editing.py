"""Edited models: the same parameters, another behaviour, and the original as it was."""

from __future__ import annotations

import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.language.fake_hub import Hub, pointed_at, serving
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
from steersman.errors import FileFormatError, InterventionError, MismatchError, UnsupportedError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Hub]:
    with serving() as running:
        pointed_at(running, monkeypatch, tmp_path)
        yield running


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


# -- listing and leaving out ------------------------------------------------------------------------------------------


def test_edits_are_listed_left_out_and_traced_to_their_base(model: sm.SteeringModel) -> None:
    a, b = plans(model)
    edited = model.edit(a, name="kind").edit(b).edit(sm.Zero(sm.heads(1, 1)), name="deaf")
    assert [(edit.name, len(edit.plan)) for edit in edited.edits] == [("kind", 2), (None, 1), ("deaf", 1)]
    assert edited.plan == a + b + sm.Zero(sm.heads(1, 1))
    assert edited.base is model
    assert model.base is model
    assert model.edits == ()
    for rest in (edited.without("kind", 2), edited.without(0, -1), edited.without(edited.edits[0], "deaf")):
        assert rest.plan == b
        assert rest.base is model
        assert torch.equal(rest.logits(PROMPTS), model.logits(PROMPTS, steer=b))
    assert edited.plan == a + b + sm.Zero(sm.heads(1, 1)), "the edited model itself is as it was"
    bare = edited.without(0, 1, 2)
    assert torch.equal(bare.logits(PROMPTS), model.logits(PROMPTS))
    assert bare.hf is model.hf
    expected = trace(model, PROMPTS, a)
    with bare.steer(a):
        assert_same_generation(trace_hf(model.hf, inputs(model, PROMPTS)), expected)
    assert hook_count(model.hf) == 0


@pytest.mark.parametrize("which", [3, -4, "sad", None, True])
def test_an_edit_that_is_not_there_cannot_be_left_out(model: sm.SteeringModel, which: Any) -> None:
    edited = model.edit(plans(model)[0], name="kind").edit(plans(model)[1]).edit([])
    with pytest.raises(InterventionError, match=f"no edit {which!r}; it has 'kind', 1, 2"):
        edited.without(which)
    with pytest.raises(InterventionError, match="name the edits"):
        edited.without()


def test_edits_keep_their_names_when_saved(model: sm.SteeringModel, tmp_path: Path) -> None:
    a, b = plans(model)
    model.save_pretrained(tmp_path / "base")
    base = sm.SteeringModel.from_pretrained(tmp_path / "base")
    base.edit(a, name="kind").edit(b).save_pretrained(tmp_path / "edited")
    again = sm.SteeringModel.from_pretrained(tmp_path / "edited")
    assert [(edit.name, edit.plan) for edit in again.edits] == [("kind", a), (None, b)]
    assert again.without("kind").plan == b


def test_a_plan_that_is_not_the_one_the_edit_speaks_of_is_refused(model: sm.SteeringModel, tmp_path: Path) -> None:
    a, b = plans(model)
    model.save_pretrained(tmp_path / "base")
    sm.SteeringModel.from_pretrained(tmp_path / "base").edit(a).save_pretrained(tmp_path / "edited")
    b.save(tmp_path / "edited" / "plan.safetensors")
    with pytest.raises(FileFormatError, match="is not the plan"):
        sm.SteeringModel.from_pretrained(tmp_path / "edited")


def test_many_edited_views_of_one_set_of_weights_run_side_by_side(model: sm.SteeringModel) -> None:
    several = [sm.Plan([sm.Add(vector(model, seed), layers=seed % 3)]) for seed in range(6)]
    batch = inputs(model, PROMPTS)
    alone = [trace(model, PROMPTS, plan).logits for plan in several]
    views = [model.edit(plan) for plan in several]

    def own(view: sm.SteeringModel) -> tuple[torch.Tensor, torch.Tensor, Any]:
        return trace(view, PROMPTS).logits, trace_hf(view.hf, batch).logits, view.hf

    with ThreadPoolExecutor(12) as pool:  # two threads ask for the tree of each at the same time
        found = list(pool.map(own, [view for view in views for _ in range(2)]))
    for number, (by_call, by_tree, tree) in enumerate(found):
        assert torch.equal(by_call, alone[number // 2])
        assert float((by_tree - alone[number // 2]).abs().max()) < 1e-4
        assert tree is views[number // 2].hf
    assert hook_count(model.hf) == 0
    shared = {p.data_ptr() for p in model.hf.parameters()}
    assert all({p.data_ptr() for p in view.hf.parameters()} == shared for view in views)


def test_an_edited_model_is_shared_as_its_base_and_its_plan(model: sm.SteeringModel, hub: Hub, tmp_path: Path) -> None:
    a, b = plans(model)
    model.push_to_hub("me/base", token="secret")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(hub.files["me/base", "main"])
    model.save_pretrained(tmp_path / "base")
    edited = sm.SteeringModel.from_pretrained(tmp_path / "base").edit(a, name="kind").edit(b)
    with pytest.raises(UnsupportedError, match="where others cannot find it"):
        edited.push_to_hub("me/kind", token="secret")
    edited.hf.config._name_or_path = "me/base"
    edited.base.hf.config._name_or_path = "me/base"
    edited.push_to_hub("me/kind", token="secret")
    files = hub.files["me/kind", "main"]
    assert set(files) == {"steersman_edit.json", "plan.safetensors", "README.md"}
    assert json.loads(files["steersman_edit.json"])["base"] == "me/base"
    assert b"base_model: me/base" in files["README.md"]
    again = sm.SteeringModel.from_pretrained("me/kind")
    assert [(edit.name, edit.plan) for edit in again.edits] == [("kind", a), (None, b)]
    assert_close(again.logits(PROMPTS), edited.logits(PROMPTS))
