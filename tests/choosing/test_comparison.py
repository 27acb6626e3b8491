"""Ways are compared at one KL, on items that took no part in naming the best."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.choosing.test_condition import prompts
from tests.model.running import counting_passes, steering_model, vector

import steersman as sm
from steersman.errors import DataError, MismatchError
from steersman.evaluation.divergence import divergence
from steersman.evaluation.statistics import split_by_source

TARGET = sm.contrast(" great", " awful")
TEXTS = ("The weather in London is bad and", "a good a bad a great")
PROMPTS = prompts(" is", 24, 5)
GOOD = sm.Add(torch.ones(32), layers=1)


@pytest.fixture(scope="module")
def compared():
    model = steering_model("llama")
    v = vector(model)
    ways = {
        "first": sm.Add(v, 0.5, layers=1),
        "ten times": sm.Add(10 * v, 0.5, layers=1),
        "other": sm.Add(vector(model, 1), layers=2),
        "ablation": sm.Ablate(vector(model, 2), layers=[0]),
    }
    found = sm.compare(model, ways, target=TARGET, prompts=PROMPTS, neutral=TEXTS, max_kl=0.05, random=19)
    return model, v, ways, found


def test_all_cost_the_same_or_say_that_they_cost_less(compared) -> None:
    model, _, _, found = compared
    for one in found:
        assert divergence(model, TEXTS, found.plans[one.name]).mean == pytest.approx(one.kl, rel=1e-3)
        assert one.reached == (abs(one.kl - 0.05) < 0.002)
        if one.name != "ablation":
            assert one.reached
    assert found["ablation"].factor <= 1


def test_the_length_of_a_vector_makes_no_difference(compared) -> None:
    one, other = compared[-1]["first"], compared[-1]["ten times"]
    assert one.factor == pytest.approx(10 * other.factor, rel=0.03)
    assert one.effect.value == pytest.approx(other.effect.value, rel=0.03)
    assert one.efficiency == pytest.approx(other.efficiency, rel=0.02)
    assert one.p_value == other.p_value


def test_the_figures_are_those_of_the_report_items(compared) -> None:
    model, _, _, found = compared
    tune, report = split_by_source([str(i) for i in range(24)])
    base = TARGET.measure(model, PROMPTS).values
    moved = {name: TARGET.measure(model, PROMPTS, steer=plan).values - base for name, plan in found.plans.items()}
    best = max(moved, key=lambda name: moved[name][tune].mean())
    assert found.best.name == best
    for one in found:
        assert one.effect.value == pytest.approx(moved[one.name][report].mean(), abs=1e-5)
        assert one.tune_effect == pytest.approx(moved[one.name][tune].mean(), abs=1e-5)
        if one.name != best:
            assert one.behind.value == pytest.approx((moved[one.name] - moved[best])[report].mean(), abs=1e-5)
    assert found.best.behind is None
    told = TARGET.measure(model, PROMPTS, preface=TARGET.in_words()).values
    assert found.words.value == pytest.approx((told - base)[report].mean(), abs=1e-5)


def test_each_is_ranked_among_random_directions_in_its_place(compared) -> None:
    from steersman.evaluation.controls import random_plans

    model, _, _, found = compared
    _, report = split_by_source([str(i) for i in range(24)])
    base = TARGET.measure(model, PROMPTS).values[report].mean()
    one = found["other"]
    drawn = [
        TARGET.measure(model, PROMPTS, steer=plan).values[report].mean() - base
        for plan in random_plans(found.plans["other"], 19, seed=0)
    ]
    assert one.p_value == (1 + sum(abs(d) >= abs(one.effect.value) for d in drawn)) / 20
    assert (one.control_low, one.control_high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-5)


def test_a_falling_target_is_won_by_the_lowest(compared) -> None:
    model, _, ways, found = compared
    down = sm.compare(
        model, {"up": ways["first"], "down": sm.Add(-vector(model), layers=1)}, target=TARGET, prompts=PROMPTS,
        neutral=TEXTS, max_kl=0.05, random=0, sign=-1,
    )  # fmt: skip
    assert down.best.name == ("up" if found["first"].tune_effect < 0 else "down")
    assert down.best.p_value is None
    assert down.best.control_low is None


def test_plan_frame_and_chart_tell_the_same(compared, tmp_path) -> None:
    found = compared[-1]
    plan = sm.Plan.load(found.plan().save(tmp_path / "best.safetensors"))
    assert plan == found.plans[found.best.name]
    assert plan.evidence["chosen"]["effect"]["value"] == found.best.effect.value
    assert len(plan.evidence["others"]) == 3
    assert found.plan("other") == found.plans["other"]
    table = found.frame().set_index("name")
    assert table.loc["other", "effect"] == found["other"].effect.value
    svg = found.chart(tmp_path / "bars.svg")
    assert (tmp_path / "bars.svg").read_text().startswith("<svg")
    assert f'data-value="{found["other"].effect.value}"' in svg
    assert "in words, unsteered" in svg


def test_an_ablation_is_done_in_full_at_most_and_is_said_to_cost_less() -> None:
    model = steering_model("llama")
    whole = sm.Ablate(vector(model, 2), layers=[0])
    costs = divergence(model, TEXTS, whole).mean
    ways = {"half": sm.Ablate(vector(model, 2), layers=[0], strength=0.5), "added": sm.Add(vector(model), layers=1)}
    found = sm.compare(model, ways, target=TARGET, prompts=PROMPTS, neutral=TEXTS, max_kl=2 * costs, random=0)
    assert found["half"].factor == 2
    assert found.plans["half"] == sm.Plan(whole)
    assert found["half"].kl == pytest.approx(costs, rel=1e-5)
    assert not found["half"].reached
    assert found["added"].reached


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"ways": {"one": None}}, DataError, "two or more"),
        ({"ways": {"one": sm.Add(torch.ones(32), 0.0, layers=1), "two": GOOD}}, DataError, "'one'"),
        ({"ways": {"one": sm.Add(torch.ones(9), layers=1), "two": GOOD}}, MismatchError, "9"),
        ({"max_kl": 0}, DataError, "above zero"),
        ({"sign": 2}, DataError, "sign"),
        ({"sources": ["a"]}, DataError, "sources"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_runs(changes: dict, error: type, words: str) -> None:
    model = steering_model("llama")
    given = {
        "ways": {n: sm.Add(vector(model, i), layers=1) for i, n in enumerate("ab")}, "target": TARGET,
        "prompts": PROMPTS,
    } | changes  # fmt: skip
    with counting_passes(model.hf) as passes, pytest.raises(error, match=words):
        sm.compare(model, **given)
    assert not passes


def test_the_best_is_named_by_the_tuning_items_even_where_another_wins_on_the_others() -> None:
    from steersman.choosing.comparison import _Measured, _side_by_side

    tune, report = np.arange(10), np.arange(10, 20)
    moved = {"tuned": np.r_[np.full(10, 2.0), np.arange(10.0)], "lucky": np.r_[np.ones(10), np.arange(10.0) + 5]}
    rows = [
        _Measured(name, sm.Plan(), 1.0, 0.1, True, values, np.zeros((0, 20)), values) for name, values in moved.items()
    ]
    facts = {"sign": 1, "seed": 0, "target": {"unit": "nats"}, "max_kl": 0.1}
    found = _side_by_side(rows, [str(i) for i in range(20)], (tune, report), None, facts)
    assert found.best.name == "tuned"
    assert found["tuned"].behind is None
    assert found["lucky"].behind.value == 5
