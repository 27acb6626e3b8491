"""Propensities against hand-written hooks, one unpadded row at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.evaluation.by_hand import adding, log_probability, logits

import steersman as sm
from steersman.errors import DataError, PromptError
from steersman.evaluation.items import Item, scores, scores_at_last
from steersman.evaluation.scoring import score, score_plans, token_log_probabilities

PROMPTS = ["The weather is", "Paris was", "I think that the movie is"]
LONG = sm.contrast(positive=[" great and good", " good"], negative=[" bad", " awful of"])
SHORT = sm.contrast(positive=[" great", " good"], negative=[" bad", " awful"])


def expected(model: sm.SteeringModel, target, prompt: str, vector: torch.Tensor | None) -> tuple[float, float]:
    family = model.architecture.hf.config.model_type
    start = model.tokens.encode(prompt)
    sides = []
    for side in (target.positive, target.negative):
        found = []
        for text in side:
            rest = model.tokens.continuation(text)
            change = None if vector is None else adding(vector, len(start) - 1)
            rows = logits(model.hf, family, [*start, *rest], 1, change)
            found.append(math.exp(log_probability(rows, len(start), rest)))
        sides.append(math.log(sum(found)))
    return sides[0], sides[1]


@pytest.mark.parametrize("target", [SHORT, LONG], ids=["single tokens", "several tokens"])
@pytest.mark.parametrize("steered", [False, True])
def test_propensity_is_what_hooks_by_hand_give(model, direction, target, steered: bool) -> None:
    plan = sm.Add(direction, layers=1) if steered else None
    items = target.items(model, PROMPTS)
    assert all(item.single for item in items) == (target is SHORT)
    for budget in (1, 4096):  # one row a pass, or all in one
        found = score(model, items, steer=plan, token_budget=budget)
        for i, prompt in enumerate(PROMPTS):
            high, low = expected(model, target, prompt, direction if steered else None)
            assert found.log_positive[i] == pytest.approx(high, abs=2e-5)
            assert found.log_negative[i] == pytest.approx(low, abs=2e-5)
            assert found.propensity[i] == pytest.approx(high - low, abs=4e-5)


@pytest.mark.parametrize("target", [SHORT, LONG])
def test_several_plans_at_once_are_each_alone(model, direction, target) -> None:
    plans = [None, sm.Add(direction, layers=1), sm.Ablate(direction)]
    items = target.items(model, PROMPTS)
    together = score_plans(model, items, plans, token_budget=50)
    for row, plan in enumerate(plans):
        alone = score(model, items, steer=plan)
        assert np.abs(together.propensity[row] - alone.propensity).max() < 2e-5


def test_scores_come_from_whoever_has_the_logits(model) -> None:
    items = SHORT.items(model, PROMPTS)
    rows = torch.stack([model.logits(prompt)[0, -1] for prompt in PROMPTS])
    plain = score(model, items)
    at_last = scores_at_last(items, rows)
    stacked = scores_at_last(items, torch.stack([rows, rows]))
    assert np.abs(at_last.propensity - plain.propensity).max() < 2e-5
    assert stacked.propensity.shape == (2, 3)
    logs = torch.log_softmax(rows.double(), -1)
    flat = [float(logs[i, ids[0]]) for i, item in enumerate(items) for ids in (*item.positive, *item.negative)]
    assert np.abs(scores(items, np.array(flat)).propensity - plain.propensity).max() < 2e-5


def test_the_measures_are_one_thing_seen_three_ways(model) -> None:
    found = score(model, SHORT.items(model, PROMPTS))
    p, n = np.exp(found.log_positive), np.exp(found.log_negative)
    assert found.values("propensity") == pytest.approx(np.log(p / n))
    assert found.values("preference") == pytest.approx(p / (p + n))
    assert found.values("balance") == pytest.approx(p - n)


def test_forms_of_one_question_are_averaged() -> None:
    items = [Item((1,), ((5,),), ((6,),), unit, str(unit)) for unit in (0, 0, 1)]
    found = scores(items, np.array([-1.0, -2.0, -3.0, -1.0, -5.0, -5.0]))
    assert found.values("propensity") == pytest.approx([(1.0 - 2.0) / 2, 0.0])
    assert found.sources == ("0", "1")


def test_every_token_of_a_text_is_scored(model, direction) -> None:
    family = model.architecture.hf.config.model_type
    pairs = [(model.tokens.encode(p), model.tokens.continuation(" is great and the weather")) for p in PROMPTS]
    found = token_log_probabilities(model, pairs, sm.Add(direction, layers=1), 30)
    for (start, rest), row in zip(pairs, found, strict=True):
        whole = logits(model.hf, family, [*start, *rest], 1, adding(direction, len(start) - 1))
        wanted = [log_probability(whole, len(start) + i, [token]) for i, token in enumerate(rest)]
        assert row.tolist() == pytest.approx(wanted, abs=2e-5)


def test_only_the_logits_asked_for_are_computed(model) -> None:
    ids = [model.tokens.encode(prompt) for prompt in PROMPTS]
    whole = model.token_logits(ids)
    last = model.token_logits(ids, keep=2)
    assert last.shape == (3, 2, whole.shape[-1])
    assert torch.equal(last, whole[:, -2:]) or (last - whole[:, -2:]).abs().max() < 1e-5
    assert (whole[0, -1] - model.logits(PROMPTS[0])[0, -1]).abs().max() < 1e-5


def test_tokens_generated_are_the_text_generated(model) -> None:
    ids = [model.tokens.encode(prompt) for prompt in PROMPTS]
    tokens = model.generate_tokens(ids, max_new_tokens=6, temperature=1.0, seed=[3, 4, 5])
    texts = [
        model.generate(p, max_new_tokens=6, temperature=1.0, seed=s) for p, s in zip(PROMPTS, (3, 4, 5), strict=True)
    ]
    assert [model.tokens.decode_after(i, t) for i, t in zip(ids, tokens, strict=True)] == texts
    with pytest.raises(PromptError, match="2 seeds for 3 rows"):
        model.generate_tokens(ids, temperature=1.0, seed=[1, 2])
    with pytest.raises(PromptError, match="at least one token"):
        model.token_logits([[]])


def test_sides_that_overlap_are_refused_and_doubled_mass_is_left_out(gpt2, caplog) -> None:
    with pytest.raises(DataError, match="do not exclude each other"):
        sm.contrast(" great", " great of").items(gpt2, PROMPTS)
    items = sm.contrast([" great", " great of"], " bad").items(gpt2, PROMPTS)
    assert len(items[0].positive) == 1
    assert "left out" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positive": [], "negative": " a"}, "at least one text"),
        ({"positive": [" a"], "negative": [""]}, "at least one text"),
        ({"positive": [" a"], "negative": [" a"]}, "both sides"),
        ({"positive": " a", "negative": " b", "measure": "odds"}, "propensity"),
    ],
)
def test_a_contrast_that_makes_no_sense_is_refused(arguments, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sm.contrast(**arguments)


def test_a_contrast_needs_prompts_and_their_sources(gpt2) -> None:
    with pytest.raises(DataError, match="give prompts"):
        SHORT.measure(gpt2)
    with pytest.raises(DataError, match="1 sources for 3 prompts"):
        SHORT.measure(gpt2, PROMPTS, sources=["a"])
    assert SHORT.measure(gpt2, PROMPTS, sources=["a", "a", "b"]).sources == ("a", "a", "b")
