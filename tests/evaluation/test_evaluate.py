"""The whole table on the embedded model: it finds what is there, and says what is not."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch

import steersman as sm
from steersman import demo
from steersman.errors import DataError, MismatchError
from steersman.evaluation import Evaluation
from steersman.evaluation.arms import Arm, Comparison, Settings
from steersman.evaluation.gates import Gate
from steersman.evaluation.metrics.base import Control, Row
from steersman.evaluation.metrics.effect import Effect
from steersman.evaluation.neutral import default_texts
from steersman.evaluation.statistics import Estimate

PROMPTS = [
    "I think the movie was", "The weather today is", "The day was", "Today the music was", "The soup was",
    "The room is", "The game this morning was", "Honestly, the teacher is", "This is a",
]  # fmt: skip
OTHER = ["The storm was", "We saw the play. It was", "My friend says the song is", "The pool is", "The bed is",
         "The actor was", "The lecture today was", "It is a"]  # fmt: skip
SMALL = {"random": 20, "texts": 9, "max_new_tokens": 12}
FEW = [text.split(". ")[0] + "." for text in default_texts("demo")[:8]]


@cache
def found() -> Evaluation:
    """One evaluation that several tests look at."""
    model = demo.demo_model()
    words = [[f" {word}" for word in demo.words(side)] for side in ("positive", "negative")]
    return sm.evaluate(
        model, sm.Add(demo.vector("happy", model), layers=8), target=sm.contrast(*words), prompts=PROMPTS,
        other_prompts=OTHER, gates=["kl<=0.1", "kl<0.01", "effect.p<=0.05", "nothing>0"], **SMALL,
    )  # fmt: skip


def test_an_effect_is_found_told_from_chance_and_priced() -> None:
    effect, kl = found()["effect"], found()["kl"]
    assert effect.difference.low > 2
    assert effect.steered - effect.base == pytest.approx(effect.difference.value)
    assert effect.control.p_value == pytest.approx(1 / 21)
    assert "more than random directions" in effect.verdict
    assert 0.02 < kl.value < 0.06
    assert kl.details["affected_tokens"] > 500
    assert found()["accuracy"].steered == 1
    assert found()["anti_steerable"].value == 0
    assert found()["transfer"].difference.low > 0.5


def test_the_curve_bends_through_nothing_and_carries_its_controls() -> None:
    details = found()["slope"].details
    effects = [one["value"] for one in details["effects"]]
    assert details["factors"] == [-1, -0.5, 0, 0.5, 1]
    assert effects == sorted(effects)
    assert effects[2] == 0
    assert effects[-1] == pytest.approx(found()["effect"].value)
    assert details["kl"][-1] == pytest.approx(found()["kl"].value)
    assert details["kl"][2] == 0
    assert details["random"][2] == [0, 0]
    assert all(low <= 0 <= high for low, high in details["random"])
    assert details["spearman"] == pytest.approx(1)


def test_the_effect_at_the_budget_is_at_the_budget() -> None:
    row = found()["effect_at_budget"]
    assert row.details["kl"] == pytest.approx(0.1, rel=0.02)
    assert row.details["factor"] > 1
    assert row.value > found()["effect"].value


def test_gates_are_judged_and_a_figure_that_is_not_there_keeps_no_bound() -> None:
    assert [result.met for result in found().gates] == [True, False, True, False]
    assert "there is no nothing here" in found().gates[3].why
    assert not found().passed


def test_everything_goes_into_json_and_a_frame(tmp_path) -> None:
    document = json.loads(json.dumps(found().as_json(), allow_nan=False))
    assert document["schema"] == "steersman.evaluation/1"
    assert {"torch", "scipy", "steersman"} <= set(document["versions"])
    assert len(document["settings"]["prompts_sha256"]) == len(document["plan"]["digest"]) == 64
    assert set(document["samples"][0]["texts"]) == {"-", "0", "+"}
    assert document["model"]["fingerprint"]
    frame = found().frame()
    for row, line in zip(found().rows, str(found()).splitlines()[1:], strict=True):
        assert line.split()[0] == row.name
        assert line.endswith(row.verdict)
    assert len(repr(found())) < 300
    assert list(frame.metric) == [row.name for row in found().rows]
    path = tmp_path / "e.json"
    found().save(path)
    assert json.loads(path.read_text()) == document
    with pytest.raises(DataError, match=r"\.json"):
        found().save(tmp_path / "e.txt")


def test_the_same_seed_gives_the_same_figures_and_leaves_the_world_alone(embedded, mood, happy) -> None:
    state = torch.random.get_rng_state()
    options = {
        "target": mood,
        "prompts": PROMPTS[:8],
        "neutral": FEW,
        "random": 4,
        "texts": 8,
        "max_new_tokens": 5,
        "facts": False,
    }
    one, two = (sm.evaluate(embedded, sm.Add(happy, layers=8), seed=3, **options) for _ in range(2))
    assert one.as_json() == two.as_json()
    assert torch.equal(state, torch.random.get_rng_state())
    other = sm.evaluate(embedded, sm.Add(happy, layers=8), seed=4, **options)
    assert other["nll"].steered != one["nll"].steered


def test_a_direction_of_no_meaning_is_not_told_from_others(embedded, mood, happy) -> None:
    length, ps = float(happy[8].norm()), []
    for seed in range(15):
        noise = torch.randn(embedded.d_model, generator=torch.Generator().manual_seed(700 + seed))
        plan = sm.Plan(sm.Add(noise / noise.norm() * length, layers=8))
        arms = Arm(embedded), Arm(embedded, plan)
        comparison = Comparison(*arms, mood, PROMPTS[:4], None, (), Settings(random=19, seed=seed))
        ps.append(Effect().rows(comparison)[0].control.p_value)
    assert 0.25 < np.mean(ps) < 0.75
    assert np.mean(np.array(ps) <= 0.05) <= 0.2


def test_an_edit_is_the_plan_it_is_and_another_model_has_no_strength(embedded, mood, happy) -> None:
    options = {"target": mood, "prompts": PROMPTS, "neutral": FEW, "facts": False, "generate": False, "random": 4}
    plan = sm.Add(happy, layers=8)
    by_plan = sm.evaluate(embedded, plan, **options)
    by_edit = sm.evaluate(embedded, embedded.edit(plan), **options)
    assert by_edit.frame().equals(by_plan.frame())
    apart = demo.demo_model().edit(plan)  # the same, but with weights of its own
    by_model = sm.evaluate(embedded, apart, **options)
    for name in ("effect", "kl"):
        assert by_model[name].value == pytest.approx(by_plan[name].value, abs=1e-5)
    assert by_model["effect"].control is None
    assert set(by_model.left_out) == {"slope", "effect_at_budget"}
    assert by_model.as_json()["other"]["edits"] == sm.Plan(plan).digest


def test_an_ablation_is_compared_with_directions_that_activations_have(embedded, mood, happy) -> None:
    found = sm.evaluate(
        embedded, sm.Ablate(happy[8]), target=mood, prompts=PROMPTS, neutral=FEW, facts=False, generate=False, random=20
    )  # fmt: skip
    assert found["effect"].control.value > 0.1  # isotropic ones would do next to nothing
    assert found["kl"].control.value > found["kl"].value


def test_without_a_target_side_effects_are_measured_and_the_rest_is_said(embedded, happy) -> None:
    found = sm.evaluate(embedded, sm.Add(happy, layers=8), neutral=FEW, facts=False, **(SMALL | {"random": 2}))
    assert {"effect", "prompt", "slope", "effect_at_budget"} == set(found.left_out)
    assert "nll" in found
    with pytest.raises(KeyError, match="no target given"):
        found["effect"]


def test_too_few_items_are_said(embedded, mood, happy) -> None:
    options = {"target": mood, "prompts": PROMPTS, "sources": ["one"] * 5 + ["two"] * 4, "neutral": FEW, "random": 3}
    found = sm.evaluate(embedded, sm.Add(happy, layers=8), facts=False, generate=False, **options)
    assert found["effect"].difference.low is None
    assert "2 sources" in found["effect"].verdict
    assert not found.check("effect.low>0").met


def test_words_are_compared_with_steering(embedded, mood, happy) -> None:
    options = {"target": mood, "prompts": PROMPTS, "neutral": FEW, "facts": False, "generate": False, "random": 2}
    found = sm.evaluate(embedded, sm.Add(happy, layers=8), instruction="I love this song.", **options)["prompt"]
    told = mood.measure(embedded, [f"I love this song. {prompt}" for prompt in PROMPTS]).values.mean()
    assert found.steered == pytest.approx(told)
    assert found.details["instruction"] == "I love this song."
    assert found.verdict in ("steering does more", "words do more", "no difference to steering seen")


def test_it_works_on_any_family_with_a_chat_prompt(model) -> None:
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    chats = [[{"role": "user", "content": f"Is {word} good?"}] for word in ("Paris", "London", "it", "the weather")]
    found = sm.evaluate(
        model, sm.Add(vector, layers=1), target=sm.contrast(" good", " bad"), prompts=chats, random=3, texts=4,
        max_new_tokens=4, neutral=["The weather in Paris is good", "London was"], facts=False,
    )  # fmt: skip
    assert {"effect", "kl", "nll", "ended"} <= {row.name for row in found.rows}
    json.dumps(found.as_json(), allow_nan=False)


def test_what_cannot_be_evaluated_is_refused_before_any_work(embedded, mood, happy, gpt2) -> None:
    with pytest.raises(DataError, match="nothing to evaluate"):
        sm.evaluate(embedded, None)
    with pytest.raises(DataError, match="cannot be read"):
        sm.evaluate(embedded, sm.Add(happy, layers=8), gates=["kl = 1"])
    with pytest.raises(MismatchError, match="another vocabulary"):
        sm.evaluate(embedded, gpt2)
    with pytest.raises(DataError, match="give prompts"):
        sm.evaluate(embedded, sm.Add(happy, layers=8), target=mood)


@pytest.mark.parametrize(
    ("text", "met"),
    [("e>=1", True), ("e > 1", False), ("e.low>0.5", False), ("e.high<=2", True), ("e.base<0.2", True),
     ("e.steered>=1.1", True), ("e.difference>=1", True), ("e.p<0.05", True), ("e>=1e-3", True), ("e>-1", True),
     ("none.low>0", False), ("none.p<1", False)],
)  # fmt: skip
def test_gates_read_every_figure(text: str, met: bool) -> None:
    rows = [
        Row("e", "e", "", 0.1, 1.1, Estimate(1.0, 0.5, 2.0, 9, 9), control=Control("x", 0.1, 99, 0.01)),
        Row("none", "none", "", difference=Estimate(1.0, None, None, 2, 2, note="too few")),
    ]
    assert Gate.parse(text).check(rows).met is met


@pytest.mark.parametrize("text", ["", "kl", "kl<=", "kl==1", "kl<=x", "KL<=1", "kl.mode>1", "kl<=1.2.3", "kl<=1 and"])
def test_gates_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="the gate"):
        Gate.parse(text)
