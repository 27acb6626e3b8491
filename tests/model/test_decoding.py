"""A batch that rows join and leave gives each row what it gets alone."""

from __future__ import annotations

from typing import Any

import pytest
from tests.model.running import PROMPTS, fresh_model, hook_count, steering_model, vector

import steersman as sm
from steersman.model.decoding import Decoding

ENOUGH = 12
#: One of each kind of cache and of positions: absolute, rotary, ALiBi; full, windows, latent, recurrent.
FAMILIES = ["gpt2", "llama", "mistral", "gemma3", "qwen3_5", "bloom", "gpt_neo", "opt", "deepseek_v3"]


def _plans(model: sm.SteeringModel) -> list[Any]:
    later = sm.Add(vector(model, 1, 3.0), strength=sm.schedule([1.0, 0.5, 2.0]), layers=1)
    gate = sm.When(vector(model, 2), layer=0, above=-2.0)
    return [
        sm.Plan(sm.Add(vector(model, 0, 4.0), layers=1)),
        None,
        sm.Plan([later, sm.Ablate(vector(model, 3), layers=[0, 2])]),
        sm.Plan(sm.Add(vector(model, 4, 3.0), layers=2, when=gate, positions="generation[2:6]")),
    ]


def _alone(model: sm.SteeringModel, prompts: list[list[int]], plans: list[Any]) -> list[list[int]]:
    return [
        model.generate_tokens([ids], steer=plan, max_new_tokens=ENOUGH)[0]
        for ids, plan in zip(prompts, plans, strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_join_and_leave_are_what_they_are_alone(family: str) -> None:
    model = steering_model(family)
    prompts = [model.tokens.encode(text) for text in (*PROMPTS, "London is bad")]
    plans = _plans(model)
    expected = _alone(model, prompts, plans)
    decoding, found, numbers = Decoding(model), [[] for _ in prompts], []
    due = [(0, 0), (0, 1), (3, 2), (5, 3)]  # (step, row)
    for step in range(60):
        arrived = [row for at, row in due if at <= step]
        if arrived and decoding.joinable:
            due = [(at, row) for at, row in due if row not in arrived]
            fresh = decoding.join([prompts[row] for row in arrived], [plans[row] for row in arrived])
            numbers += arrived
            for row, scores in zip(arrived, fresh, strict=True):
                found[row].append(int(scores.argmax()))
        elif not numbers:
            break
        else:
            scores = decoding.step([found[row][-1] for row in numbers])
            for row, own in zip(numbers, scores, strict=True):
                found[row].append(int(own.argmax()))
        staying = [place for place, row in enumerate(numbers) if len(found[row]) < ENOUGH]
        decoding.keep(staying)
        numbers = [numbers[place] for place in staying]
    assert not due
    assert found == expected


def test_padding_that_nobody_needs_goes() -> None:
    model = steering_model("llama")
    decoding = Decoding(model)
    long, short = model.tokens.encode(PROMPTS[2] * 3), model.tokens.encode("Paris")
    decoding.join([long, short], [None, None])
    assert decoding._mask.shape[1] == len(long)
    decoding.keep([1])
    assert decoding._mask.shape[1] == len(short) == decoding._cache.get_seq_length()


def test_no_hook_is_left() -> None:
    model = fresh_model("gpt2")
    before = hook_count(model.hf)
    decoding = Decoding(model)
    decoding.join([[5, 6, 7]], [sm.Add(vector(model), layers=1)])
    assert hook_count(model.hf) > before
    decoding.keep([])
    assert hook_count(model.hf) == before


def test_a_plan_that_does_not_fit_leaves_the_others_alone() -> None:
    model = fresh_model("gpt2")
    plan = sm.Plan(sm.Add(vector(model, 0, 4.0), layers=1))
    expected = model.generate_tokens([[5, 6, 7]], steer=plan, max_new_tokens=4)[0]
    decoding = Decoding(model)
    tokens = [int(decoding.join([[5, 6, 7]], [plan]).argmax())]
    with pytest.raises(sm.errors.MismatchError):
        decoding.join([[5, 6]], [sm.Add(vector(model), layers=99)])
    for _ in range(3):
        tokens.append(int(decoding.step([tokens[-1]]).argmax()))
    assert tokens == expected
