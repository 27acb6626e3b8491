"""Each metric's formula, on numbers small enough to work out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluation.by_hand import adding, log_probability, logits

import steersman as sm
from steersman.conditions import Schedule
from steersman.errors import DataError
from steersman.evaluation.arms import Arm
from steersman.evaluation.metrics.budget import strength_at
from steersman.evaluation.metrics.capability import Capability, Fact, facts_of, read_facts
from steersman.evaluation.metrics.dose import scaled
from steersman.evaluation.metrics.fluency import distinct, longest_loop, repeated, surprise
from steersman.evaluation.samples import Sampling, draw
from steersman.plan import Plan


def test_variety_and_repetition_of_a_text_worked_out() -> None:
    text = [1, 2, 1, 2, 1, 3]
    assert distinct(text, 1) == 3 / 6
    assert distinct(text, 2) == 3 / 5  # 12 21 12 21 13
    assert repeated([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)  # of 1234 2341 3412 4123 1234, the last
    assert (distinct([], 2), repeated([1, 2]), distinct([7], 2)) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ([], 0),
        ([1], 0),
        ([1, 1], 2),
        ([1, 2, 3], 0),
        ([0, 1, 2, 1, 2, 1, 9], 5),
        ([5, 5, 5, 5], 4),
        ([1, 2, 3, 1, 2, 3], 6),
    ],
)
def test_the_longest_loop_worked_out(text: list[int], wanted: int) -> None:
    assert longest_loop(text) == wanted


@given(st.lists(st.integers(0, 2), max_size=14))
def test_the_longest_loop_is_what_trying_everything_finds(text: list[int]) -> None:
    best = 0
    for start in range(len(text)):
        for end in range(start + 2, len(text) + 1):
            part = text[start:end]
            for period in range(1, len(part) // 2 + 1):
                if all(part[i] == part[i - period] for i in range(period, len(part))):
                    best = max(best, len(part))
    assert longest_loop(text) == best


def test_surprise_is_the_mean_nll_under_the_unsteered_model(model, direction) -> None:
    family = model.architecture.hf.config.model_type
    prompts = ["The weather is", "Paris"]
    plan = Plan(sm.Add(direction, layers=1))
    samples = draw(model, prompts, plan, Sampling(texts=4, max_new_tokens=5), 3)
    found = surprise(Arm(model), samples)
    for prompt, tokens, value in zip(samples.prompts, samples.tokens, found, strict=True):
        rows = logits(model.hf, family, [*prompt, *tokens])
        assert value == pytest.approx(-log_probability(rows, len(prompt), tokens) / len(tokens), abs=1e-4)
    edited = surprise(Arm(model, plan), samples)
    for prompt, tokens, value in zip(samples.prompts, samples.tokens, edited, strict=True):
        rows = logits(model.hf, family, [*prompt, *tokens], 1, adding(direction, len(prompt) - 1))
        assert value == pytest.approx(-log_probability(rows, len(prompt), tokens) / len(tokens), abs=1e-4)


def test_endings_are_seen(gpt2) -> None:
    """A direction towards the token that ends a text makes all of them end at once."""
    end = gpt2.hf.config.eos_token_id
    push = gpt2.hf.get_output_embeddings().weight[end].detach() * 200
    plan = sm.Add(push, layers=2)
    samples = draw(gpt2, ["The weather"], plan, Sampling(texts=5, max_new_tokens=6), 0)
    assert samples.ended == [True] * 5
    assert all(tokens[-1] == end for tokens in samples.tokens)
    plain = draw(gpt2, ["The weather"], None, Sampling(texts=5, max_new_tokens=6), 0)
    assert not all(plain.ended)


def test_a_fact_is_right_when_its_answer_beats_the_wrong_ones_or_is_what_is_said(model, direction) -> None:
    family = model.architecture.hf.config.model_type
    facts = (
        Fact("The weather is", " great", (" bad", " awful of"), "a"),
        Fact("Paris is", " good of", (" bad",), "b"),
        Fact("London is", model.generate("London is", max_new_tokens=2), (), "c"),
        Fact("London is", " Paris great", (), "d"),
    )
    plan = Plan(sm.Add(direction, layers=1))
    right, nats = Capability(facts).score(model, [Plan(), plan])
    for row, change in ((0, False), (1, True)):
        for number, fact in enumerate(facts):
            start = model.tokens.encode(fact.prompt)
            logs = []
            for text in (fact.answer, *fact.wrong):
                rest = model.tokens.continuation(text)
                rows = logits(
                    model.hf, family, [*start, *rest], 1, adding(direction, len(start) - 1) if change else None
                )
                logs.append(log_probability(rows, len(start), rest))
                said = rows[len(start) - 1 : -1].argmax(-1).tolist() == rest
            assert nats[row, number] == pytest.approx(logs[0], abs=1e-4)
            assert right[row, number] == (max(logs) == logs[0] if fact.wrong else said)
    assert right[0, 3] == 0


def test_the_packaged_facts_are_known_by_the_embedded_model(embedded) -> None:
    facts = facts_of(None)
    assert len(facts) == 69
    right, _ = Capability(facts[:20]).score(embedded, [Plan()])
    assert right.mean() == 1
    said, _ = Capability(tuple(Fact(fact.prompt, fact.answer) for fact in facts[:5])).score(embedded, [Plan()])
    assert said.mean() == 1
    assert all(fact.answer not in fact.wrong for fact in facts)


def test_a_line_that_is_no_fact_is_named(tmp_path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "a", "answer": "b", "wrong": "c"}\n')
    with pytest.raises(DataError, match="line 2 is no fact"):
        read_facts(path)


def test_scaling_multiplies_every_strength() -> None:
    vector = torch.ones(4)
    plan = Plan(
        [sm.Add(vector, 1.5, layers={1: 0.5}), sm.Ablate(vector), sm.Add(vector, sm.schedule([2, 1]), layers=2)]
    )
    found = scaled(plan, -2.0)
    assert [item.strength for item in found] == [-3.0, -2.0, Schedule((-4.0, -2.0))]
    assert scaled(found, -0.5) == plan


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("budget", [0.003, 0.1, 40.0])
def test_the_strength_that_spends_a_budget_is_found(power: float, budget: float) -> None:
    asked: list[float] = []

    def kl(strength: float) -> float:
        asked.append(strength)
        return 0.7 * strength**power

    strength, spent = strength_at(kl, budget)
    assert spent == pytest.approx(budget, rel=0.02)
    assert strength == pytest.approx((budget / 0.7) ** (1 / power), rel=0.03)
    assert len(asked) <= (2 if power == 2 else 7)  # one probe and one correction where the law is quadratic


def test_a_law_that_bends_is_followed_and_one_that_is_nothing_is_refused() -> None:
    _, spent = strength_at(lambda s: math.log1p(s**2) + s**4 / 50, 2.5)
    assert spent == pytest.approx(2.5, rel=0.02)
    with pytest.raises(ValueError, match="no prediction"):
        strength_at(lambda s: 0.0, 0.1)


def test_seeds_of_samples_do_not_depend_on_batches(model) -> None:
    few = draw(model, ["Paris", "The weather is good"], None, Sampling(texts=2, max_new_tokens=4), 8)
    alone = draw(model, ["Paris"], None, Sampling(texts=1, max_new_tokens=4), 8)
    assert few.tokens[0] == alone.tokens[0]
    assert np.array_equal(few.prompts[0], alone.prompts[0])


def test_effect_at_a_budget_and_efficiency_do_not_know_the_length_of_a_vector(gpt2) -> None:
    """By hand: slope over root of Fisher information from central differences, and the KL on the same texts."""
    from steersman.evaluation.divergence import divergence

    prompts, texts = (
        ["The good was", "a bad and", "the great is"],
        ["the good is a bad and the great", "a was of the good"],
    )
    target = sm.contrast(" great", " awful")
    v = torch.randn(gpt2.d_model, generator=torch.Generator().manual_seed(2))
    rows = []
    for length in (1.0, 5.0):
        found = sm.evaluate(
            gpt2, sm.Add(length * v, 0.4 / length, layers=1), target=target, prompts=prompts, neutral=texts,
            facts=False, generate=False, random=0, max_kl=0.02, other_prompts=["of the"],
        )  # fmt: skip
        assert found["effect_at_budget"].details["kl"] == pytest.approx(0.02, rel=0.03)
        rows.append((found["effect_at_budget"].value, found["efficiency"].value, found["transfer"].value))
    assert rows[0] == pytest.approx(rows[1], rel=1e-3)
    small = found["efficiency"].details["measured_at"] * 0.4
    up, down = (target.measure(gpt2, prompts, steer=sm.Add(v, s * small, layers=1)).values for s in (1, -1))
    fisher = 2 * divergence(gpt2, texts, sm.Add(v, small, layers=1)).mean / small**2
    assert rows[0][1] == pytest.approx(float(((up - down) / (2 * small)).mean() / fisher**0.5), rel=1e-3)
    before = target.measure(gpt2, ["of the"]).values
    elsewhere = target.measure(gpt2, ["of the"], steer=sm.Add(v, 0.4, layers=1)).values - before
    assert rows[0][2] == pytest.approx(float(elsewhere.mean()) / found["effect"].value, rel=1e-3)
