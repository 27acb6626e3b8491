"""Weights over layers: within the budget, as good as the best single layer tried, seeded, and reported apart."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from tests.choosing.test_condition import prompts
from tests.model.running import counting_passes, fresh_model, vector

import steersman as sm
from steersman.choosing.kernel import Kernel
from steersman.errors import DataError, InterventionError, MismatchError, UnsupportedError
from steersman.evaluation.divergence import divergence
from steersman.evaluation.statistics import split_by_source

TARGET = sm.contrast(" great", " awful")
TEXTS = ("The weather in London is bad and", "a good a bad a great")
PROMPTS = prompts(" is", 24, 5)
SETTINGS = {
    "target": TARGET, "prompts": PROMPTS, "neutral": TEXTS, "layers": [0, 1, 2, 3], "max_kl": 0.05, "trials": 12,
    "random": 9, "seed": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return fresh_model("gpt2", num_hidden_layers=5)


@pytest.fixture(scope="module", params=["kernel", "weights"])
def searched(request: pytest.FixtureRequest, model):
    return sm.choose_layers(model, vector(model), shape=request.param, **SETTINGS)


def test_a_kernel_is_a_tent() -> None:
    kernel = Kernel(2.0, 3.0, 2.0, 0.25)
    assert kernel.weights(range(8)) == {1: 0.5, 2: 1.25, 3: 2.0, 4: 1.25, 5: 0.5}
    assert Kernel(2.0, 3.4, 0.1, 0.0).weights(range(8)) == {3: 2.0}
    halfway = Kernel(1.0, 2.5, 1.0, 0.0)
    assert halfway.weights(range(8)) == {2: 0.5, 3: 0.5}


def test_every_trial_is_what_plain_scoring_gives(model, searched) -> None:
    tune, _ = split_by_source([str(i) for i in range(24)], seed=2)
    base = TARGET.measure(model, PROMPTS).values
    for trial in (searched.trials[1], searched.trials[-1], searched.chosen):
        plan = sm.Add(vector(model), layers=dict(trial.weights))
        moved = TARGET.measure(model, PROMPTS, steer=plan).values - base
        assert trial.tune_effect == pytest.approx(moved[tune].mean(), abs=1e-4)
        assert trial.kl == pytest.approx(divergence(model, TEXTS, plan).mean, rel=1e-3)


def test_single_layers_come_first_and_the_choice_is_no_worse(searched) -> None:
    assert [list(t.weights) for t in searched.trials[:8]] == [[0], [1], [2], [3]] * 2
    assert [t.weights[i % 4] > 0 for i, t in enumerate(searched.trials[:8])] == [True] * 4 + [False] * 4
    assert len(searched.trials) == 8 + 12
    assert all(t.kl <= 0.05 for t in searched.trials[:4])  # those that the strengths were measured for
    within = [t for t in searched.trials if t.kl <= 0.05]
    assert searched.chosen.tune_effect == max(t.tune_effect for t in within)
    assert searched.single.tune_effect == max(t.tune_effect for t in within if t in searched.trials[:8])
    assert searched.chosen.tune_effect >= searched.single.tune_effect
    assert any(len(t.weights) > 1 for t in searched.trials)


def test_the_report_items_took_no_part(model, searched) -> None:
    _, report = split_by_source([str(i) for i in range(24)], seed=2)
    base = TARGET.measure(model, PROMPTS).values
    chosen = TARGET.measure(model, PROMPTS, steer=searched.plan()).values - base
    alone = sm.Add(vector(model), layers=dict(searched.single.weights))
    single = TARGET.measure(model, PROMPTS, steer=alone).values - base
    assert searched.effect.value == pytest.approx(chosen[report].mean(), abs=1e-4)
    assert searched.beyond.value == pytest.approx((chosen - single)[report].mean(), abs=1e-4)
    assert searched.effect.n == 12


def test_random_directions_are_given_the_same_search(model, searched) -> None:
    from steersman.evaluation.controls import random_directions
    from steersman.evaluation.statistics import max_statistic

    _, report = split_by_source([str(i) for i in range(24)], seed=2)
    base = TARGET.measure(model, PROMPTS).values[report].mean()
    within = [t for t in searched.trials if t.kl <= 0.05]

    def effect(direction, trial) -> float:
        plan = sm.Add(direction, layers=dict(trial.weights))
        return TARGET.measure(model, PROMPTS, steer=plan).values[report].mean() - base

    own = [effect(vector(model), t) for t in within]
    null = np.array([[effect(d, t) for t in within] for d in random_directions(vector(model), 9, seed=2)])
    assert searched.p_value == pytest.approx(max_statistic(own, null)[within.index(searched.chosen)])


def test_the_same_seed_is_the_same_search(model) -> None:
    settings = SETTINGS | {"random": 0, "trials": 8}
    before = optuna.logging.get_verbosity()
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two = (sm.choose_layers(model, vector(model), **settings) for _ in range(2))
    assert one.trials == two.trials
    other = sm.choose_layers(model, vector(model), **(settings | {"seed": 3}))
    assert one.trials != other.trials
    assert one.p_value is None
    assert optuna.logging.get_verbosity() == before
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()


def test_plan_front_frame_and_chart(searched, tmp_path) -> None:
    plan = sm.Plan.load(searched.plan().save(tmp_path / "layers.safetensors"))
    assert plan == searched.plan()
    assert plan.evidence["chosen"]["kl"] == searched.chosen.kl
    assert plan.evidence["versions"]["optuna"] == optuna.__version__
    front = searched.pareto()
    assert [t.kl for t in front] == sorted(t.kl for t in front)
    assert [t.tune_effect for t in front] == sorted(t.tune_effect for t in front)
    for t in searched.trials:
        assert any(f.kl <= t.kl and f.tune_effect >= t.tune_effect for f in front) or t.tune_effect <= 0
    table = searched.frame()
    assert len(table) == len(searched.trials)
    assert table["layer 2"].iloc[2] == searched.trials[2].weights[2]
    assert searched.chart(tmp_path / "front.svg").startswith("<svg")


def test_an_ablation_is_done_in_part_and_a_falling_target_is_a_subtraction(model) -> None:
    found = sm.choose_layers(
        model, vector(model), operation="ablate", **(SETTINGS | {"trials": 4, "max_kl": 5.0, "sign": -1, "random": 3})
    )
    assert found.effect.value < 0.5
    assert all(0 < w <= 1.5 for t in found.trials for w in t.weights.values())
    assert found.plan()[0].operation == "ablate"
    down = sm.choose_layers(model, vector(model), **(SETTINGS | {"trials": 3, "sign": -1, "random": 0}))
    assert (
        down.chosen.tune_effect < 0 < sm.choose_layers(model, vector(model), **(SETTINGS | {"trials": 1})).effect.value
    )
    signs = {w > 0 for t in down.trials[8:] for w in t.weights.values()}
    assert signs == {next(iter(down.single.weights.values())) > 0}


def test_what_random_directions_do_beyond_the_budget_does_not_count() -> None:
    from steersman.choosing.layer_search import LayerTrial, _p_value

    within, beyond = np.where(np.arange(19) % 2, 1.0, -1.0), np.r_[100.0, np.zeros(18)]
    drawn = {1: within, 2: beyond}
    tried = SimpleNamespace(
        trials=[LayerTrial({1: 1.0}, 3.0, 0.05), LayerTrial({2: 1.0}, 3.0, 0.2)], base=np.zeros(4),
        plans=[sm.Plan(sm.Add(torch.ones(8), layers=layer)) for layer in (1, 2)], moved=[np.full(4, 3.0)] * 2,
        effects=SimpleNamespace(values=lambda plans: np.repeat(drawn[next(iter(plans[0][0].layers))][:, None], 4, 1)),
    )  # fmt: skip
    assert _p_value(tried, 0, np.arange(4), 0.1, 19, 0, None) == 1 / 20
    assert _p_value(tried, 0, np.arange(4), 0.3, 19, 0, None) == 2 / 20


def test_a_vector_turned_round_is_searched_the_other_way(model) -> None:
    settings = SETTINGS | {"random": 0, "trials": 4}
    ways = []
    for v in (vector(model), -vector(model)):
        found = sm.choose_layers(model, v, **settings)
        ways.append(next(iter(found.single.weights.values())) > 0)
        assert {w > 0 for t in found.trials[8:] for w in t.weights.values()} == {ways[-1]}
    assert sorted(ways) == [False, True]


def test_the_front_of_a_falling_target_falls() -> None:
    from steersman.choosing.layer_search import LayerSearch, LayerTrial

    effects = {0.01: -0.2, 0.02: 0.9, 0.03: -0.1, 0.04: -0.5}
    trials = tuple(LayerTrial({0: 1.0}, effect, kl) for kl, effect in effects.items())
    found = LayerSearch(trials, trials[3], trials[3], None, None, None, {"sign": -1}, sm.Plan())
    assert [t.kl for t in found.pareto()] == [0.01, 0.04]


def test_what_moves_the_target_the_other_way_is_never_chosen() -> None:
    from steersman.choosing.layer_search import LayerTrial, _best

    trials = [LayerTrial({0: 1.0}, -0.5, 0.01), LayerTrial({1: 1.0}, 0.9, 0.2)]
    assert _best(trials, 0.1, -1) == 0
    assert _best(trials, 0.3, 1) == 1
    with pytest.raises(DataError, match=r"up within 0\.1 nats"):
        _best(trials, 0.1, 1)


def test_without_optuna_it_says_what_to_install(model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'steersman\[tune\]'"):
        sm.choose_layers(model, vector(model), **SETTINGS)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"shape": "square"}, DataError, "kernel"),
        ({"operation": "clamp"}, InterventionError, "rotate"),
        ({"max_kl": 0}, DataError, "above zero"),
        ({"sign": 0}, DataError, "sign"),
        ({"trials": 0}, DataError, "trial"),
        ({"layers": [1]}, DataError, "two or more"),
        ({"layers": [1, 9]}, MismatchError, "layer 9"),
        ({"prompts": None}, DataError, "prompts"),
    ],
)
def test_mistakes_are_told_before_anything_runs(model, changes: dict, error: type, words: str) -> None:
    with counting_passes(model.hf) as passes, pytest.raises(error, match=words):
        sm.choose_layers(model, vector(model), **(SETTINGS | changes))
    assert not passes
