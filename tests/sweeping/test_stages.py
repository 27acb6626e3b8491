"""What a first stage of a sweep says to first order is true there, what it drops it tells, and p-values stay honest."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from tests.model.running import fresh_model, steering_model, vector

import steersman as sm
from steersman.errors import DataError, UnsupportedError
from steersman.evaluation import RegexRate, Sampling
from steersman.evaluation.controls import random_directions
from steersman.evaluation.statistics import max_statistic
from steersman.plan import Plan
from steersman.sweeping import Sweep
from steersman.sweeping.cells import maker, plan_of
from steersman.sweeping.measuring import Effects

PROMPTS = [f"The {a} {b}" for a in ("good", "bad", "great") for b in ("weather", "movie is", "Paris was")]
NEUTRAL = ["The weather in London is bad and", "a good a bad a great"]
SINGLE = sm.contrast(positive=[" great", " good"], negative=[" awful"])
LONGER = sm.contrast(positive=[" great the", " good"], negative=[" awful of and", " bad"])


def linear_model() -> sm.SteeringModel:
    """A Llama whose logits are linear in the stream of every layer: its blocks write nothing, and its last norm divides
    by a constant.
    """
    model = fresh_model("llama")
    with torch.no_grad():
        for block in model.hf.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
            for module in (block.self_attn.o_proj, block.mlp.down_proj):
                if module.bias is not None:
                    module.bias.zero_()
        model.hf.model.norm.variance_epsilon = 1e12
        model.hf.model.norm.weight.mul_(1e6)
    return model


def by_layer(model: sm.SteeringModel, seed: int, sizes: list[float]) -> sm.SteeringVector:
    draws = {layer: vector(model, seed + layer) * size for layer, size in enumerate(sizes)}
    return sm.SteeringVector(draws, site="resid_post")


class TestFirstOrder:
    def test_on_a_linear_model_it_is_the_closed_form(self) -> None:
        model = linear_model()
        target = sm.contrast(" great", " awful")
        v = by_layer(model, 0, [1.0, 1.0, 1.0, 1.0][: model.n_layers])
        (good,), (bad,) = (side[0] for side in target.tokens(model))
        head, gain = model.hf.lm_head.weight.detach(), model.hf.model.norm.weight.detach() / 1e6
        expected = [float(v[layer] @ (gain * (head[good] - head[bad]))) for layer in v.layers]
        plans = [Plan(sm.Add(v, 3.0, layers=[layer])) for layer in v.layers]
        effects = Effects(model, target, target.items(model, PROMPTS), plans[0], v.layers)
        assert effects.first_order(plans) == pytest.approx(3 * np.array(expected), rel=1e-4)
        exact = effects.values(plans) - effects.values([Plan()])
        assert exact.mean(1) == pytest.approx(3 * np.array(expected), rel=1e-3)

    @pytest.mark.parametrize("target", [SINGLE, LONGER, sm.contrast(" great", " awful", measure="balance"),
                                        sm.contrast(" great", " awful", measure="preference")])  # fmt: skip
    @pytest.mark.parametrize(
        ("operation", "options"),
        [
            ("add", {}),
            ("add", {"positions": "all", "site": "attn_out"}),
            ("ablate", {"site": "resid_mid"}),
            ("clamp", {"value": 1.0, "positions": "prompt[-2:]"}),
        ],
    )
    def test_it_is_the_derivative_of_what_is_measured(self, target, operation, options) -> None:
        model = steering_model("llama")
        make, small = maker(operation, options), 0.01
        plans = {s: [plan_of(make, vector(model), layer, s) for layer in (0, 2)] for s in (-small, small)}
        prompts = PROMPTS[:4]
        effects = Effects(model, target, target.items(model, prompts), plans[small][0], [0, 2])
        ends = [
            [target.measure(model, prompts, steer=plan).values[[0, 3]].mean() for plan in plans[s]]
            for s in (-small, small)
        ]
        slopes = (np.array(ends[1]) - np.array(ends[0])) / 2
        assert effects.first_order(plans[small], [0, 3]) == pytest.approx(slopes, rel=0.02, abs=2e-6)

    def test_a_condition_decides_row_by_row(self) -> None:
        model = steering_model("llama")
        read, v = vector(model, 5), vector(model)
        acts = sm.activations(model, PROMPTS, layers=[1], read="last")[1]
        cosines = torch.cosine_similarity(acts, read[None]).sort().values
        when = sm.When(read, layer=1, above=float(cosines[4:6].mean()))
        plans = [Plan(sm.Add(v, 0.01, layers=2, when=w)) for w in (when, None)]
        effects = Effects(model, SINGLE, SINGLE.items(model, PROMPTS), plans[0], [2])
        gated, whole = effects.first_order(plans)
        base = effects.values([Plan()])
        each = (effects.values(plans) - base)[0]
        assert (each == 0).sum() == 5
        assert gated == pytest.approx(each.mean(), rel=0.05)
        assert gated != pytest.approx(whole, rel=0.05)

    def test_the_model_is_left_as_it_was(self) -> None:
        model = steering_model("gpt2")
        before = model.logits(PROMPTS[0])
        plan = Plan(sm.Add(vector(model), layers=1))
        Effects(model, SINGLE, SINGLE.items(model, PROMPTS), plan, [1]).first_order([plan])
        assert torch.equal(model.logits(PROMPTS[0]), before)
        assert all(parameter.grad is None for parameter in model.hf.parameters())


@pytest.fixture(scope="module")
def settings() -> dict:
    return {"prompts": PROMPTS, "target": SINGLE, "layers": [0, 1, 2], "strengths": [-1.0, 0.0, 1.0],
            "neutral": NEUTRAL, "random": 19, "seed": 3}  # fmt: skip


@pytest.fixture(scope="module")
def whole(settings) -> tuple[sm.SteeringModel, torch.Tensor, Sweep]:
    model = steering_model("llama")
    v = vector(model)
    return model, v, sm.sweep(model, v, **settings)


def slopes_by_hand(model: sm.SteeringModel, directions, prompts: list[str], small: float = 0.02) -> np.ndarray:
    """Central differences of the plain measure, ``[directions, layers]``."""

    def value(direction, layer: int, strength: float) -> float:
        return SINGLE.measure(model, prompts, steer=sm.Add(direction, strength, layers=layer)).values.mean()

    return np.array([
        [(value(one, layer, small) - value(one, layer, -small)) / (2 * small) for layer in (0, 1, 2)]
        for one in directions
    ])  # fmt: skip


class TestScreening:
    def test_what_is_kept_is_measured_as_without_it(self, whole, settings, caplog) -> None:
        model, v, full = whole
        with caplog.at_level(logging.INFO, logger="steersman"):
            found = sm.sweep(model, v, **settings, screen=2)
        assert len(found.layers) == 2
        for row in found:
            same = full.row(row.layer, row.strength)
            for name in ("effect", "low", "high", "tune_effect", "report_effect", "slope", "kl", "kl_p95", "top1",
                         "control_low", "control_high"):  # fmt: skip
                assert getattr(row, name) == pytest.approx(getattr(same, name), abs=2e-5), name
        assert "screening" in caplog.text

    def test_it_keeps_the_steepest_layers_on_the_tuning_items(self, whole, settings) -> None:
        model, v, _full = whole
        found = sm.sweep(model, v, **settings, screen=1)
        tune = [PROMPTS[i] for i in found.facts["split"]["tune"]]
        slopes = slopes_by_hand(model, [v], tune)[0]
        assert found.layers == [int(np.abs(slopes).argmax())]
        stated = found.facts["stages"]["screen"]["slopes"]
        assert [stated[str(layer)] for layer in (0, 1, 2)] == pytest.approx(slopes.tolist(), rel=0.02, abs=1e-4)
        assert found.facts["stages"]["screen"]["items"] == len(tune)

    def test_what_is_dropped_is_told_everywhere(self, whole, settings, tmp_path) -> None:
        from steersman import report

        model, v, _full = whole
        found = sm.sweep(model, v, **settings, screen=1)
        lost = sorted({0, 1, 2} - set(found.layers))
        assert [cell["layer"] for cell in found.dropped] == lost
        assert {cell["stage"] for cell in found.dropped} == {"screening"}
        assert found.searched == [0, 1, 2]
        frame = found.frame()
        assert sorted(frame[frame["stage"] == "screening"]["layer"]) == lost
        assert frame[frame["stage"] == "screening"]["effect"].isna().all()
        assert frame["stage"].isna().sum() == len(found)
        loaded = Sweep.load(found.save(tmp_path / "sweep.json"))
        assert loaded.dropped == found.dropped
        report.write(tmp_path / "report.html", sweep=found)
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert f"dropped layers {lost[0]}, {lost[1]}" in page
        assert found.heatmap().count('data-value=""') == 2 * 3

    def test_keeping_all_layers_changes_nothing(self, whole, settings) -> None:
        model, v, full = whole
        found = sm.sweep(model, v, **settings, screen=3)
        assert found.rows == full.rows
        assert found.dropped == []

    def test_p_values_compare_with_random_directions_screened_alike(self, whole, settings) -> None:
        model, v, full = whole
        found = sm.sweep(model, v, **settings, screen=1)
        tune = [PROMPTS[i] for i in found.facts["split"]["tune"]]
        drawn = random_directions(v, 19, seed=3)
        slopes = slopes_by_hand(model, [v, *drawn], tune)
        kept = np.abs(slopes).argmax(1)
        assert len(set(kept[1:].tolist())) > 1  # random directions keep layers of their own
        base = SINGLE.measure(model, PROMPTS).values.mean()
        scale = np.sqrt((slopes**2).mean(0))
        largest = [
            abs(SINGLE.measure(model, PROMPTS, steer=sm.Add(one, layers=int(layer))).values.mean() - base)
            / scale[layer]
            for one, layer in zip(drawn, kept[1:], strict=True)
        ]
        own = abs(full.row(int(kept[0]), 1.0).effect) / scale[kept[0]]
        expected = (1 + sum(one >= own for one in largest)) / 20
        assert found.row(int(kept[0]), 1.0).p_value == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("target", "error", "words"),
        [
            (RegexRate("good"), UnsupportedError, "read off the logits"),
            (SINGLE, DataError, "at least 1"),
        ],
    )
    def test_what_cannot_be_screened_is_refused_before_anything_runs(self, settings, target, error, words) -> None:
        with pytest.raises(error, match=words):
            sm.sweep(steering_model("llama"), vector(steering_model("llama")),
                     **(settings | {"target": target}), screen=1 if error is UnsupportedError else 0)  # fmt: skip


class TestHalving:
    def test_each_round_drops_the_worse_half_on_its_items(self, whole, settings) -> None:
        model, v, full = whole
        found = sm.sweep(model, v, **settings, halving=2)
        first = found.facts["stages"]["halving"]["rounds"][0]
        assert first == {"items": 2, "cells": 6, "dropped": 2}
        tune = np.random.default_rng(3).permutation(np.array(found.facts["split"]["tune"])).tolist()
        some = [PROMPTS[i] for i in tune[:2]]
        before = SINGLE.measure(model, some).values
        for strength in (-1.0, 1.0):
            scores = [
                float((SINGLE.measure(model, some, steer=sm.Add(v, strength, layers=layer)).values - before).mean())
                for layer in (0, 1, 2)
            ]
            (lost,) = [c for c in found.dropped if c["strength"] == strength and c["items"] == 2]
            assert lost["layer"] == int(np.abs(scores).argmin())
            assert lost["score"] == pytest.approx(min(scores, key=abs), abs=1e-4)
        for row in found:
            assert row.effect == pytest.approx(full.row(row.layer, row.strength).effect, abs=2e-5)
            assert row.kl == pytest.approx(full.row(row.layer, row.strength).kl, abs=1e-6)
        assert {(c["layer"], c["strength"]) for c in found.dropped} | {
            (row.layer, row.strength) for row in found if row.strength
        } == {(layer, s) for layer in (0, 1, 2) for s in (-1.0, 1.0)}

    def test_no_report_item_is_looked_at(self, whole, settings) -> None:
        model, v, _full = whole
        found = sm.sweep(model, v, **settings, halving=1)
        tune = len(found.facts["split"]["tune"])
        assert max(one["items"] for one in found.facts["stages"]["halving"]["rounds"]) < tune

    def test_p_values_rank_among_directions_halved_alike(self, whole, settings) -> None:
        model, v, _full = whole
        found = sm.sweep(model, v, **settings, halving=3)
        rounds = found.facts["stages"]["halving"]["rounds"]
        assert [one["items"] for one in rounds] == [3]
        tune = np.random.default_rng(3).permutation(np.array(found.facts["split"]["tune"])).tolist()
        some = [PROMPTS[i] for i in tune[:3]]

        def effects(prompts: list[str], strength: float = 1.0) -> np.ndarray:
            base = SINGLE.measure(model, prompts).values.mean()
            return np.array([
                [SINGLE.measure(model, prompts, steer=sm.Add(one, strength, layers=layer)).values.mean() - base
                 for layer in (0, 1, 2)] for one in (v, *random_directions(v, 19, seed=3))
            ])  # fmt: skip

        first, exact = effects(some), effects(PROMPTS)
        lost = np.abs(first).argmin(1)
        exact[np.arange(20), lost] = np.nan
        expected = max_statistic(exact[0], exact[1:], scale=np.sqrt((first**2).mean(0)))
        for layer in (0, 1, 2):
            if layer != lost[0]:
                assert found.row(layer, 1.0).p_value == pytest.approx(expected[layer])

    def test_targets_that_generate_are_halved_too(self) -> None:
        model = steering_model("gpt2")
        target = RegexRate("o", sampling=Sampling(max_new_tokens=3, temperature=None))
        found = sm.sweep(
            model, vector(model, scale=3.0), prompts=PROMPTS, target=target, layers=[0, 1, 2], strengths=[1.0],
            neutral=NEUTRAL, random=0, halving=2,
        )  # fmt: skip
        assert found.engine == "measure"
        assert [c["items"] for c in found.dropped] == [2]
        before = target.measure(model, PROMPTS).values
        for row in found:
            after = target.measure(model, PROMPTS, steer=found.plans[row.layer, row.strength]).values
            assert row.effect == pytest.approx((after - before).mean())


def test_screening_and_halving_one_after_the_other_resume_anywhere(whole, settings, tmp_path) -> None:
    model, v, _full = whole
    path = tmp_path / "rows.jsonl"
    found = sm.sweep(model, v, **settings, screen=2, halving=3, rows=path)
    assert {c["stage"] for c in found.dropped} == {"screening", "halving"}
    lines = path.read_text().splitlines(keepends=True)
    for kept in range(1, len(lines), 2):
        path.write_text("".join(lines[:kept]))
        assert sm.sweep(model, v, **settings, screen=2, halving=3, rows=path).rows == found.rows


class TestTheTestIsHonest:
    """A search that drops places by their score, on noise: is its smallest p-value uniform?"""

    @staticmethod
    def rejections(alike: bool, trials: int = 600, n: int = 39, places: int = 10, keep: int = 2) -> float:
        rng = np.random.default_rng(0)
        sizes = np.linspace(0.5, 3, places)
        smallest = []
        for _ in range(trials):
            slopes = rng.standard_normal((n + 1, places)) * sizes
            exact = slopes + 0.5 * rng.standard_normal(slopes.shape) * sizes
            kept = np.argsort(-np.abs(slopes), axis=1)[:, :keep]
            if not alike:  # the mistake: random directions only where the vector was kept
                kept[1:] = kept[0]
            masked = np.full_like(exact, np.nan)
            np.put_along_axis(masked, kept, np.take_along_axis(exact, kept, 1), 1)
            scale = np.sqrt((slopes**2).mean(0))
            smallest.append(np.nanmin(max_statistic(masked[0], masked[1:], scale=scale)))
        return float(np.mean(np.array(smallest) <= 0.05))

    def test_with_random_directions_searched_alike(self) -> None:
        assert 0.03 <= self.rejections(alike=True) <= 0.07

    def test_without_it_would_not_be(self) -> None:
        assert self.rejections(alike=False) > 0.15

    def test_a_dropped_place_needs_a_scale(self) -> None:
        with pytest.raises(DataError, match="scale"):
            max_statistic([1.0, np.nan], [[1.0, 2.0]])
        assert np.isnan(max_statistic([1.0, np.nan], [[1.0, 2.0]], scale=False)[1])


def test_what_was_dropped_is_said_in_a_sentence_for_each_stage() -> None:
    from steersman.sweeping.stages import said

    facts = {"screen": {"kept": [5], "dropped": [0, 1, 2, 3, 7, 9, 10], "items": 6},
             "halving": {"first": 1, "rounds": [{"items": 1, "cells": 6, "dropped": 3}]}}  # fmt: skip
    dropped = [{"stage": "screening", "layer": layer, "strength": None, "items": 6} for layer in (0, 1)]
    dropped += [
        {"stage": "halving", "layer": layer, "strength": s, "items": 1} for s, layer in ((1.0, 5), (-1.0, 5), (-1.0, 6))
    ]
    screening, halving = said(facts, dropped)
    assert (
        "on 6 tuning items kept 1 of 8 layers and dropped layers 0 to 3, 7, 9, 10; p-values hold for all" in screening
    )
    assert "on 1 tuning item dropped 3 of 6 cells (at -1 layers 5, 6; at +1 layer 5)" in halving
    assert said({}, []) == []
