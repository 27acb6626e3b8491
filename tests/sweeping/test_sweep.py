"""A sweep gives the numbers of whole forward passes cell by cell, steered by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.model import reference
from tests.model.running import LONG, PROMPTS, steering_model, vector

import steersman as sm
from steersman.errors import DataError, FileFormatError, MismatchError, UnsupportedError
from steersman.sweeping import Sweep

TEXTS = [*PROMPTS, LONG]
NEUTRAL = ["The weather in London is bad and", "a good a bad a great"]
STRENGTHS = [-1.5, 0.5, 2.0]
SINGLE = sm.contrast(positive=[" great", " good"], negative=[" awful"])
LONGER = sm.contrast(positive=[" great the", " good"], negative=[" awful of and", " bad"])


def by_hand(model, family, target, text, edits_at) -> float:
    """The propensity after one prompt, every continuation in a whole pass of its own."""
    prompt = model.tokens.encode(text)
    sides = []
    for side in (target.positive, target.negative):
        total = []
        for continuation in side:
            ids = model.tokens.continuation(continuation)
            logits = reference.logits(model.hf, family, [*prompt, *ids], edits_at(len(prompt), len(prompt) + len(ids)))
            logs = logits.double().log_softmax(-1)
            total.append(sum(logs[len(prompt) - 1 + step, token] for step, token in enumerate(ids)))
        sides.append(torch.logsumexp(torch.stack(total), 0))
    return float(sides[0] - sides[1])


@pytest.mark.parametrize("target", [SINGLE, LONGER])
@pytest.mark.parametrize(
    ("positions", "way"), [("last+generation", "branches"), ("last", "branches"), ("all", "resume"), ("all", "plain")]
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_effects_are_those_of_hand_written_hooks(family: str, positions: str, way: str, target) -> None:
    model = steering_model(family)
    v = vector(model)
    found = sm.sweep(
        model, v, prompts=TEXTS, target=target, layers=[0, 2], strengths=STRENGTHS, neutral=NEUTRAL, random=0,
        positions=positions, way=None if way != "plain" else way,
    )  # fmt: skip
    assert found.engine == way
    for row in found:
        effects = []
        for text in TEXTS:

            def edits(prompt: int, total: int, row=row) -> list:
                touched = reference.where(positions, prompt, total)
                return [("resid_post", row.layer, reference.at(touched, reference.add(row.strength * v)))]

            steered = by_hand(model, family, target, text, edits)
            effects.append(steered - by_hand(model, family, target, text, lambda *_: []))
        assert row.effect == pytest.approx(np.mean(effects), abs=1e-4)


@pytest.mark.parametrize("positions", ["last+generation", "all"])
def test_side_effects_are_those_of_hand_written_hooks(positions: str) -> None:
    model = steering_model("llama")
    v = vector(model)
    found = sm.sweep(
        model, v, prompts=TEXTS, target=SINGLE, layers=[1], strengths=STRENGTHS, neutral=NEUTRAL, random=0,
        positions=positions,
    )  # fmt: skip
    for row in found:
        nats = []
        for text in NEUTRAL:
            ids = model.tokens.encode(text)
            edit = ("resid_post", row.layer, reference.add(row.strength * v))
            if positions != "all":  # the first word counts as the prompt, and what follows as generated
                touched = list(range(1, len(ids)))
                edit = ("resid_post", row.layer, reference.at(touched, reference.add(row.strength * v)))
            p = reference.logits(model.hf, "llama", ids).double().log_softmax(-1)[1:]
            q = reference.logits(model.hf, "llama", ids, [edit]).double().log_softmax(-1)[1:]
            nats += (p.exp() * (p - q)).sum(-1).tolist()
        assert row.kl == pytest.approx(np.mean(nats), rel=1e-4, abs=1e-6)
        assert row.kl_p95 == pytest.approx(np.quantile(nats, 0.95), rel=1e-4, abs=1e-6)
        assert row.kl_tokens == len(nats)


@pytest.mark.parametrize(
    ("operation", "options"),
    [
        ("ablate", {"site": "resid_post"}),
        ("clamp", {"value": 1.0, "positions": "last"}),
        ("rotate", {"angle": 0.8}),
        (lambda v, layer, s: sm.Plan([sm.Add(v, s, layers=layer), sm.Zero(sm.heads(1, 0))]), {}),
        ("add", {"site": "attn_out", "positions": "prompt[-2:]"}),
    ],
)
@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "qwen3_next"])
def test_all_ways_agree_for_any_operation(family: str, operation, options) -> None:
    model = steering_model(family)
    texts = [text for text in TEXTS if len(text) > 6]
    settings = {
        "prompts": texts, "target": LONGER, "layers": [1, 2], "strengths": [-1.0, 1.0], "neutral": NEUTRAL,
        "random": 0, "operation": operation, **options,
    }  # fmt: skip
    fast = sm.sweep(model, vector(model), **settings)
    slow = sm.sweep(model, vector(model), **settings, way="plain")
    assert fast.engine != "plain"
    for one, other in zip(fast, slow, strict=True):
        assert one.effect == pytest.approx(other.effect, abs=1e-4)
        assert one.kl == pytest.approx(other.kl, rel=1e-3, abs=1e-6)


def test_a_way_that_is_not_exact_is_refused() -> None:
    model = steering_model("bloom")
    with pytest.raises(UnsupportedError, match="along the row"):
        sm.sweep(model, vector(model), prompts=TEXTS, target=SINGLE, neutral=NEUTRAL, random=0, way="branches")


@pytest.fixture(scope="module")
def swept() -> tuple[sm.SteeringModel, torch.Tensor, dict, Sweep]:
    model = steering_model("llama")
    v = vector(model)
    prompts = [f"The {a} {b}" for a in ("good", "bad", "great") for b in ("weather", "movie is", "Paris was")]
    settings = {
        "prompts": prompts, "target": SINGLE, "layers": [0, 1, 2], "strengths": [-1.0, 0.0, 1.0],
        "neutral": NEUTRAL, "random": 19, "seed": 3,
    }  # fmt: skip
    return model, v, settings, sm.sweep(model, v, **settings)


def test_p_values_are_ranks_among_random_directions_of_the_same_length(swept) -> None:
    model, v, settings, found = swept
    from steersman.evaluation.controls import random_directions
    from steersman.evaluation.statistics import max_statistic

    drawn = random_directions(v, 19, seed=3)
    assert torch.allclose(drawn.norm(dim=1), v.norm())
    base = SINGLE.measure(model, settings["prompts"]).values.mean()
    null = np.array([
        [SINGLE.measure(model, settings["prompts"], steer=sm.Add(one, layers=layer)).values.mean() - base
         for layer in (0, 1, 2)] for one in drawn
    ])  # fmt: skip
    own = [found.row(layer, 1.0).effect for layer in (0, 1, 2)]
    assert [found.row(layer, 1.0).p_value for layer in (0, 1, 2)] == max_statistic(own, null).tolist()
    low, high = np.quantile(null[:, 1], [0.025, 0.975])
    assert found.row(1, 1.0).control_low == pytest.approx(low, abs=1e-4)
    assert found.row(1, 1.0).control_high == pytest.approx(high, abs=1e-4)
    assert found.row(1, -1.0).control_low == pytest.approx(-high, abs=1e-4)


def test_strength_zero_does_nothing(swept) -> None:
    for layer in (0, 1, 2):
        row = swept[3].row(layer, 0.0)
        assert row.effect == pytest.approx(0, abs=1e-4)
        assert row.kl < 1e-9
        assert row.top1 == 1


def test_tuning_and_reporting_share_no_item(swept) -> None:
    split = swept[3].facts["split"]
    assert not set(split["tune"]) & set(split["report"])
    assert sorted(split["tune"] + split["report"]) == list(range(9))
    row = swept[3].row(1, 1.0)
    n, m = len(split["tune"]), len(split["report"])
    assert row.effect == pytest.approx((n * row.tune_effect + m * row.report_effect) / (n + m))


def test_slopes_are_those_of_each_item(swept) -> None:
    model, v, settings, found = swept
    for layer in (0, 2):
        ends = [
            SINGLE.measure(model, settings["prompts"], steer=sm.Add(v, s, layers=layer)).values for s in (-1.0, 1.0)
        ]
        slopes = (ends[1] - ends[0]) / 2  # least squares over -1, 0, 1
        row = found.row(layer, 1.0)
        assert row.slope == pytest.approx(slopes.mean(), abs=1e-4)
        assert row.anti_steerable == (slopes < 0).mean()


def test_random_directions_are_tried_at_each_size_once_and_never_at_none() -> None:
    from steersman.sweeping.cells import Grid, maker

    grid = Grid(maker("add", {}), torch.ones(2), [0], [-2.0, -1.0, 0.0, 1.0])
    assert grid.magnitudes == [1.0, 2.0]


def test_fewer_than_four_sources_are_not_parted() -> None:
    from steersman.sweeping.rows import split_of

    tune, report, notes = split_of(["a", "b", "c", "a"], 0)
    assert tune.tolist() == [0, 1, 2, 3]
    assert report is None
    assert "too few sources" in notes[0]
    tune, report, notes = split_of(["a", "b", "c", "d"], 0)
    assert report is not None
    assert sorted([*tune, *report]) == [0, 1, 2, 3]
    assert not notes


def test_the_choice_is_within_budget_and_a_plan(swept) -> None:
    _model, v, _settings, found = swept
    budget = sorted(row.kl for row in found if row.strength)[3]
    allowed = [row for row in found if row.strength and row.kl <= budget and row.tune_effect > 0]
    best = found.best(max_kl=budget)
    assert best in allowed
    assert best.tune_effect >= 0.9 * max(row.tune_effect for row in allowed)
    plan = found.plan(max_kl=budget)
    assert plan == sm.Plan(sm.Add(v, best.strength, layers=[best.layer]))
    assert plan.evidence["row"]["kl"] == best.kl
    assert plan.evidence["items"] == 9
    with pytest.raises(DataError, match="no cell moves"):
        found.best(max_kl=1e-12)
    front = found.pareto()
    assert [row.kl for row in front] == sorted(row.kl for row in front)
    assert [row.tune_effect for row in front] == sorted(row.tune_effect for row in front)


def test_a_plateau_is_preferred_to_a_spike() -> None:
    from dataclasses import replace

    def row(layer: int, effect: float):
        from steersman.sweeping import Row

        whole = Row(
            layer, 1.0, effect, None, None, effect, None, None, None, None, None, 0.01, 0.1, 1.0, 9, *[None] * 3
        )
        return [whole, replace(whole, strength=2.0, tune_effect=effect * 0.9)]

    effects = [0.1, 1.05, 0.1, 0.95, 1.0, 0.95]
    found = Sweep(tuple(one for layer, e in enumerate(effects) for one in row(layer, e)), {}, {})
    assert found.best().layer == 4


def test_interrupted_and_resumed_gives_the_same_rows(swept, tmp_path) -> None:
    model, v, settings, whole = swept
    path = tmp_path / "rows.jsonl"

    def interrupt(what: str, done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sm.sweep(model, v, **settings, rows=path, progress=interrupt)
    kept = path.read_text()
    assert len(kept.splitlines()) == 1 + 1 + 2 * 3  # settings, the unsteered values, two layers
    for cut in (0, 25):  # also where the last line was cut off while it was written
        path.write_text(kept[: len(kept) - cut])
        assert sm.sweep(model, v, **settings, rows=path).rows == whole.rows
    with pytest.raises(MismatchError, match="strengths"):
        sm.sweep(model, v, **(settings | {"strengths": [1.0]}), rows=path)


def test_a_file_keeps_everything_but_the_tensors(swept, tmp_path) -> None:
    found = swept[3]
    loaded = Sweep.load(found.save(tmp_path / "sweep.json"))
    assert loaded.rows == found.rows
    assert loaded.facts == json.loads(json.dumps(found.facts))
    assert loaded.facts["versions"]["torch"] == torch.__version__
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(FileFormatError):
        Sweep.load(tmp_path / "other.json")


def test_a_calibrated_strength_costs_its_budget() -> None:
    from steersman.evaluation.divergence import divergence

    model = steering_model("gpt2")
    v = vector(model, scale=0.3)
    for budget in (0.001, 0.01, 0.1):
        strength = sm.calibrate(model, v, layer=1, max_kl=budget, neutral=NEUTRAL)
        spent = divergence(model, NEUTRAL, sm.Add(v, strength, layers=1)).mean
        assert spent == pytest.approx(budget, rel=0.15)
    assert sm.calibrate(model, 10 * v, layer=1, max_kl=0.01, neutral=NEUTRAL) == pytest.approx(
        sm.calibrate(model, v, layer=1, max_kl=0.01, neutral=NEUTRAL) / 10, rel=0.1
    )
    assert sm.calibrate(model, v, layer=1, probe=-1.0, neutral=NEUTRAL) < 0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"strengths": [0.0]}, DataError, "not zero"),
        ({"strengths": [float("nan")]}, DataError, "finite"),
        ({"layers": [7]}, MismatchError, "layer 7"),
        ({"random": -1}, DataError, "number of directions"),
        ({"prompts": None}, DataError, "prompts"),
        ({"neutral": []}, DataError, "neutral"),
    ],
)
def test_mistakes_are_told_before_anything_runs(changes: dict, error: type, words: str) -> None:
    model = steering_model("llama")
    settings = {"prompts": TEXTS, "target": SINGLE, "neutral": NEUTRAL, "layers": [1], "random": 0} | changes
    with pytest.raises(error, match=words):
        sm.sweep(model, vector(model), **settings)


def test_figures_carry_the_numbers(swept, tmp_path) -> None:
    found = swept[3]
    svg = found.heatmap(tmp_path / "map.svg")
    assert (tmp_path / "map.svg").read_text(encoding="utf-8") == svg
    assert svg.count("<svg") == 1
    assert "Dose and response at layer 1" in found.dose_response(layer=1)
    frame = found.frame()
    assert len(str(found).splitlines()) == len(found) + 1
    assert repr(found).startswith(f"Sweep({len(found)} cells of layers ")
    assert list(frame["layer"]) == [0] * 3 + [1] * 3 + [2] * 3
