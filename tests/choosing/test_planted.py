"""Sweeps find the layer of a planted direction, and report no effect where nothing is planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from tools.planted.models import POSITIVE, bare, planted, population, prompts
from tools.planted.study import RANDOM, TARGET, Trial, summary, trial, true_effects

import steersman as sm
from steersman.evaluation import statistics


@pytest.fixture(scope="module")
def trials() -> tuple[list[Trial], list[Trial]]:
    return [trial(planted(seed), seed) for seed in range(6)], [trial(bare(seed), seed) for seed in range(6)]


def test_the_planted_layer_is_found(trials) -> None:
    found, _ = trials
    assert [t.layer for t in found] == [t.planted for t in found]
    assert np.median([t.p_value for t in found]) <= 0.05
    assert all(t.truth > 0.2 for t in found)


def test_nothing_is_found_where_nothing_is(trials) -> None:
    _, without = trials
    assert sum(t.p_value <= 0.05 for t in without) <= 1
    assert np.median([t.p_value for t in without]) > 0.1
    assert {round(t.p_value * (RANDOM + 1), 9) % 1 for t in without} == {0}


def test_a_direction_acts_at_its_layer_and_nowhere_else() -> None:
    """By plain hooks: added below it is taken out, added above nobody reads it."""
    from tests.model import reference

    made = planted(3, cosine=1.0)
    hf, layer = made.model.hf, made.layer
    great, awful = (made.model.tokens.continuation(word)[0] for word in (POSITIVE, " awful"))

    def effect(at: int) -> float:
        moved = []
        for text in prompts(12, 0):
            ids = made.model.tokens.encode(text)
            edit = ("resid_post", at, reference.at([len(ids) - 1], reference.add(made.vector)))
            after, before = (reference.logits(hf, "gpt2", ids, edits)[-1] for edits in ([edit], []))
            moved.append(float((after - before)[great] - (after - before)[awful]))
        return float(np.mean(moved))

    effects = [effect(at) for at in range(1, 5)]
    assert int(np.argmax(effects)) + 1 == layer
    assert all(abs(e) < 0.6 * effects[layer - 1] for at, e in enumerate(effects, 1) if at != layer)


def test_the_truth_is_the_mean_over_all_prompts_there_are() -> None:
    made = bare(1)
    plan = sm.Plan(sm.Add(made.vector, layers=3))
    everything = population()
    assert len(set(everything)) == len(everything) == 8**3
    assert set(prompts(200, 5)) <= set(everything)
    moved = TARGET.measure(made.model, everything, steer=plan).values - TARGET.measure(made.model, everything).values
    assert true_effects(made, [plan, plan]) == pytest.approx([moved.mean()] * 2, abs=1e-5)


def test_the_summary_counts(trials) -> None:
    found = summary(*trials)
    assert found["layer found"]["share"] == 1
    assert found["layer found"]["n"] == 6
    assert found["coverage"]["n"] == 12
    held = sum(t.low <= t.truth <= t.high for side in trials for t in side)
    assert found["coverage"]["share"] == held / 12


def test_the_smallest_of_several_places_is_uniform_where_nothing_is() -> None:
    """The p-value of a search, without models: places that go together, of very different size."""
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(4000, 40, 1))
    effects = (shared + rng.normal(size=(4000, 40, 5))) * [0.01, 1, 3, 30, 1]
    found = np.array([statistics.max_statistic(one[0], one[1:]).min() for one in effects])
    assert stats.kstest(found - rng.uniform(0, 1 / 40, 4000), "uniform").pvalue > 0.01
    assert 0.04 < (found <= 0.05).mean() < 0.06


def test_the_study_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    trial(bare(0), 0)
    assert torch.equal(torch.get_rng_state(), before)
