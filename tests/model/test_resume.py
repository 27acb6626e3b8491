"""Blocks called again from the middle of a recorded pass give the logits of whole passes."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.model import reference
from tests.model.running import LONG, PROMPTS, assert_close, fresh_model, hook_count, steering_model, vector
from tests.models import FAMILIES

import steersman as sm
from steersman.errors import UnsupportedError
from steersman.model.resume import Resumable
from steersman.model.tail import Tail

TEXTS = [*PROMPTS, LONG]


def encoded(model: sm.SteeringModel) -> list[list[int]]:
    return [model.tokens.encode(text) for text in TEXTS]


def resumed(model: sm.SteeringModel, plans: list[sm.Plan], keep: list[int] | None = None) -> torch.Tensor:
    """The logits ``[plans, rows, columns, vocab]``, resumed where the plans allow."""
    again, ids = Resumable(model), encoded(model)
    wanted = [again.first_layer(plans)] if keep is None else keep
    base = again.record(ids, [len(row) for row in ids], keep=wanted)
    return again.logits(again.run(base, plans)).reshape(len(plans), len(ids), base.columns, -1)


def assert_same(model: sm.SteeringModel, plans: list[sm.Plan], keep: list[int] | None = None, bound=1e-5) -> None:
    found = resumed(model, plans, keep)
    for number, plan in enumerate(plans):
        expected = model.logits(TEXTS, steer=plan)
        for row, text in enumerate(TEXTS):
            real = len(model.tokens.encode(text))
            assert_close(found[number, row, -real:], expected[row, -real:], (number, text), bound)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str) -> None:
    model = steering_model(family)
    before = hook_count(model.hf)
    plans = [sm.Plan(sm.Add(vector(model, seed), layers=1, positions="all")) for seed in range(2)]
    # batches of other sizes sum in another order, which the steepest families enlarge; none reaches 1e-4
    assert_same(model, [*plans, sm.Plan(sm.Add(vector(model), layers=1))], bound=3e-5)
    assert hook_count(model.hf) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_behind_the_last_block_are_known(family: str) -> None:
    tail = Tail(steering_model(family))
    assert tail.direct
    values = torch.randn(2, 3, tail.model.d_model)
    assert_close(tail(values).flatten(0, 1), tail.through_model(values.flatten(0, 1)))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_resumed_pass_is_one_steered_by_hand(family: str) -> None:
    model = steering_model(family)
    v = vector(model)
    found = resumed(model, [sm.Plan(sm.Add(v, layers=1, positions="all"))])[0]
    for row, ids in enumerate(encoded(model)):
        expected = reference.logits(model.hf, family, ids, [("resid_post", 1, reference.add(v))])
        assert_close(found[row, -len(ids) :], expected)


@pytest.mark.parametrize(
    ("keep", "make"),
    [
        ([0], lambda v: sm.Ablate(v)),
        ([1], lambda v: sm.Zero(sm.heads(1, [0, 2]))),
        ([1], lambda v: sm.Clamp(v, 0.5, layers=1, site="resid_mid")),
        ([2], lambda v: sm.Rotate(v, angle=0.7, layers=2, positions="all", site="resid_pre")),
        ([2], lambda v: sm.Add(v, layers={1: 0.5, 2: 1.0}, positions="prompt[1:3]")),
        ([3], lambda v: sm.Add(v, layers=2, positions="last")),
        ([2, 1], lambda v: sm.Add(v, layers=1, positions="last", when=sm.When(v, layer=0, above=0.0))),
    ],
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_kind_of_intervention(family: str, keep: list[int], make) -> None:
    model = steering_model(family)
    plans = [sm.Plan(make(vector(model, seed))) for seed in range(3)]
    assert keep[0] == Resumable(model).first_layer(plans)
    assert_same(model, plans, keep)


def test_an_edited_model_inside_a_context() -> None:
    edited = steering_model("llama").edit(sm.Clamp(vector(steering_model("llama"), 5), 1.0, layers="all"))
    plans = [sm.Plan(sm.Add(vector(edited, seed), layers=1, positions="all")) for seed in range(2)]
    with edited.steer(sm.Add(vector(edited, 7), layers=[0, 2], positions="all")):
        assert_same(edited, plans)


def test_another_residual_replaces_the_stream() -> None:
    model = steering_model("gpt2")
    again, ids = Resumable(model), encoded(model)[:2]
    base = again.record(ids, [len(row) for row in ids], keep=[2])
    other = torch.randn(4, base.columns, model.d_model)
    found = again.logits(again.resume(base, 2, other))
    shorter = len(ids[1])
    for fork in range(2):
        for row, length in ((0, len(ids[0])), (1, shorter)):
            values = other[2 * fork + row, -length:]
            put = sm.Replace(values, layers=2, site="resid_pre", positions="prompt")
            assert_close(found[2 * fork + row, -length:], model.logits(TEXTS[row], steer=put)[0])


def test_a_condition_on_a_model_that_is_steered_already_is_refused() -> None:
    model = steering_model("llama").edit(sm.Add(vector(steering_model("llama")), layers=0))
    again, ids = Resumable(model), encoded(model)
    base = again.record(ids, [len(row) for row in ids], keep=[1, 2])
    plan = sm.Plan(sm.Add(vector(model), layers=1, when=sm.When(vector(model), layer=0, above=0.0)))
    with pytest.raises(UnsupportedError, match="steered already"):
        again.run(base, [plan])


def test_a_model_that_keeps_something_between_its_blocks_is_refused() -> None:
    model = fresh_model("llama")
    handed_on: list[float] = []

    def first(module, args, output) -> None:
        handed_on.append(3.0)

    def last(module, args, output):
        return output + handed_on.pop() if handed_on else output

    model.hf.model.layers[0].register_forward_hook(first)
    model.hf.model.layers[-1].register_forward_hook(last)
    with pytest.raises(UnsupportedError, match="more between its blocks"):
        Resumable(model)


def test_two_threads_resume_side_by_side() -> None:
    model = steering_model("llama")
    again, ids = Resumable(model), encoded(model)
    plans = [sm.Plan(sm.Add(vector(model, seed), layers=0)) for seed in range(4)]
    bases = [again.record(ids, [len(row) for row in ids], keep=[1]) for _ in plans]
    expected = [again.logits(again.run(base, [plan])) for base, plan in zip(bases, plans, strict=True)]
    failed: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            base = again.record(ids, [len(row) for row in ids], keep=[1])
            if not torch.allclose(again.logits(again.run(base, [plans[number]])), expected[number], atol=1e-5):
                failed.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(plans))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failed


def test_nothing_is_left_in_the_model() -> None:
    model = steering_model("gpt2")
    before, hooks = model.logits(TEXTS), hook_count(model.hf)
    resumed(model, [sm.Plan(sm.Ablate(vector(model)))])
    assert torch.equal(model.logits(TEXTS), before)
    assert hook_count(model.hf) == hooks
