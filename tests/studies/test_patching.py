"""Patching studies, held to plain hooks that put one run's activations into another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.model import reference as by_hand
from tests.model.running import hook_count, steering_model
from tests.models import FAMILIES
from tests.studies import oracle

import steersman as sm
from steersman.errors import DataError, InterventionError, SiteUnavailableError, UnsupportedError
from steersman.model import resume
from steersman.studies import patching_runs

CLEAN, CORRUPT = "the movie was great and", "the movie was awful and"
PAIRS = (["a great movie is", "the good Paris was"], ["a good movie is", "the awful Paris was"])
METRIC = sm.logit_difference(" good", " bad")


def study_of(model: sm.SteeringModel, clean: Any = CLEAN, corrupt: Any = CORRUPT, **settings: Any) -> Any:
    return sm.patching_study(model, clean, corrupt, **{"metric": METRIC, **settings})


def difference(model: sm.SteeringModel, logits: torch.Tensor) -> float:
    target, foil = (model.tokens.continuation(text)[0] for text in (" good", " bad"))
    return float(logits[target] - logits[foil])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "mixtral"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_scores_equal_plain_hooks(family: str, direction: str) -> None:
    model = steering_model(family)
    before = hook_count(model.hf)
    clean, corrupt = model.tokens.encode(CLEAN), model.tokens.encode(CORRUPT)
    into, source = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
    ends = [difference(model, oracle.last(model.hf, family, ids)) for ids in (clean, corrupt)]
    for sites in ("resid_pre", "resid_post", "attn_out", "mlp_out"):
        study = study_of(model, sites=sites, direction=direction)
        assert (study.clean[0], study.corrupt[0]) == pytest.approx(ends, abs=1e-4)
        assert len(study) == 3 * len(clean)
        for patch in study.patches[3::4]:
            part, token = patch.component.parts[0], patch.place.index
            values = by_hand.read(model.hf, family, part.site, part.layer, source)
            edit = (part.site, part.layer, oracle.set_to(model.hf, part.site, None, values, [token]))
            found = difference(model, oracle.last(model.hf, family, into, [edit]))
            score = (found - ends[1]) / (ends[0] - ends[1])
            assert patch.score.value == pytest.approx(score, abs=1e-3), patch
    heads = study_of(model, sites="heads", direction=direction)
    for patch in heads.patches[::5]:
        part, unit = patch.component.parts[0], patch.component.unit
        values = by_hand.read(model.hf, family, "z", part.layer, source)
        edit = ("z", part.layer, oracle.set_to(model.hf, "z", unit, values))
        found = difference(model, oracle.last(model.hf, family, into, [edit]))
        assert patch.score.value == pytest.approx((found - ends[1]) / (ends[0] - ends[1]), abs=1e-3)
    assert hook_count(model.hf) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_patched_is_one_and_nothing_is_zero_in_every_family(family: str) -> None:
    model = steering_model(family)
    for site, positions, layers in (("resid_pre", "all", 0), ("resid_post", "last", model.n_layers - 1)):
        whole = study_of(model, sites=sm.site(site, layers), positions=positions)
        assert whole.patches[0].score.value == pytest.approx(1, abs=1e-3)
        noised = study_of(model, sites=sm.site(site, layers), positions=positions, direction="noising")
        assert noised.patches[0].score.value == pytest.approx(0, abs=1e-3)
    nothing = study_of(model, sites=sm.site("resid_pre", 1), positions="prompt[0]")
    assert nothing.patches[0].score.value == 0  # nothing differs before the first token that does
    late = study_of(model, sites=sm.site("resid_post", model.n_layers - 1), positions="prompt[-2]")
    assert late.patches[0].score.value == pytest.approx(0, abs=1e-3)  # nothing reads it there


def test_patching_all_that_writes_the_stream_restores_everything() -> None:
    for family in ("gpt2", "mixtral", "gpt_neox"):
        model = steering_model(family)
        everything = {"everything": [sm.site("resid_pre", 0), sm.attention(), sm.mlp()]}
        assert study_of(model, sites=everything, positions="all").patches[0].score.value == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "metric", ["kl", sm.log_probability(" good"), lambda logits: logits[:, 7]], ids=["kl", "log", "function"]
)
def test_resumed_equals_one_by_one(metric: Any, monkeypatch: Any) -> None:
    model = steering_model("llama")
    settings = {"sites": ["resid_mid", sm.heads(1)], "positions": ["prompt[1]", "last"], "metric": metric}
    fast = study_of(model, *PAIRS, **settings)

    def refuse(self: Any, model: Any) -> None:
        raise UnsupportedError("not today")

    monkeypatch.setattr(resume.Resumable, "__init__", refuse)
    slow = study_of(model, *PAIRS, **settings)
    np.testing.assert_allclose(fast.values, slow.values, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose([fast.clean, fast.corrupt], [slow.clean, slow.corrupt], atol=1e-5, rtol=1e-4)


def test_a_divergence_is_from_the_clean_run() -> None:
    study = study_of(steering_model("gpt2"), metric="kl")
    assert study.clean[0] == 0
    assert study.corrupt[0] > 0


def test_scores_are_ratios_of_means_with_intervals_over_pairs() -> None:
    model = steering_model("gpt2")
    words = ("Paris", "London", "the movie", "a movie", "it", "of a", "the", "a", "and")
    clean, corrupt = ([f"{word} was {mood} and" for word in words] for mood in ("great", "awful"))
    study = sm.patching_study(model, clean, corrupt, metric=METRIC, sites=sm.block(1), positions=["last", "prompt[-2]"])
    gap = study.clean - study.corrupt
    for patch, values in zip(study.patches, study.values, strict=True):
        assert patch.score.value == pytest.approx((values - study.corrupt).mean() / gap.mean())
        assert patch.score.low < patch.score.value < patch.score.high
        assert patch.score.n == 9


def test_pairs_of_different_lengths_are_aligned_at_their_ends() -> None:
    model = steering_model("gpt2")
    clean, corrupt = ["the movie was great and", "great and"], ["the movie was awful and", "awful and"]
    both = study_of(model, clean, corrupt)
    lengths = [len(model.tokens.encode(text)) for text in clean]
    assert len(both.patches) == 3 * lengths[0]
    alone = [study_of(model, one, other) for one, other in zip(clean, corrupt, strict=True)]
    for layer in range(3):
        for place in range(-lengths[0], 0):
            row = both.values[layer * lengths[0] + lengths[0] + place]
            assert row[0] == pytest.approx(alone[0].values[layer * lengths[0] + lengths[0] + place, 0], abs=1e-4)
            if -place > lengths[1]:
                assert np.isnan(row[1])
            else:
                assert row[1] == pytest.approx(alone[1].values[layer * lengths[1] + lengths[1] + place, 0], abs=1e-4)
    assert both.patches[0].place.positions == f"prompt[{-lengths[0]}]"


# -- to first order ---------------------------------------------------------------------------------------------------


def linearised(model: sm.SteeringModel) -> sm.SteeringModel:
    """The same with its attention, MLPs and final norm replaced by linear maps of each token."""
    from copy import deepcopy

    found = sm.SteeringModel(deepcopy(model.hf), model.tokenizer)
    hf = found.hf  # what it is was proved with the parts that are now taken away
    draw = torch.Generator().manual_seed(5)

    class Linear(torch.nn.Module):
        def __init__(self, tuple_: bool) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(model.d_model, model.d_model, generator=draw) * 0.05)
            self.tuple_ = tuple_

        def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> Any:
            out = x @ self.weight
            return (out, None) if self.tuple_ else out

    for block in hf.transformer.h:
        block.ln_1, block.ln_2 = torch.nn.Identity(), torch.nn.Identity()
        block.attn.forward = Linear(True).forward
        block.mlp.forward = Linear(False).forward
    hf.transformer.ln_f = torch.nn.Identity()
    return found


def test_attribution_is_exact_on_a_linear_model() -> None:
    model = linearised(steering_model("gpt2"))
    for sites in ("resid_pre", "resid_post", "attn_out", "mlp_out"):
        study = study_of(model, CLEAN, "the movie was good bad", sites=sites, attribution=True)
        scores = [(patch.score.value, patch.attribution) for patch in study.patches]
        assert max(abs(exact - linear) for exact, linear in scores) < 2e-3
        assert max(abs(exact) for exact, _ in scores) > 0.05


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "granite", "falcon", "mixtral"])
def test_attribution_is_the_slope_towards_the_patch(family: str) -> None:
    """Held to a finite difference: a small step towards the clean activations, by plain steered passes."""
    model = steering_model(family)
    clean = sm.capture(model, CLEAN, site="mlp_out")
    study = study_of(model, sites="mlp_out", attribution=True, positions=["last"], screen=1)
    step, target, foil = 1e-2, *(model.tokens.continuation(text)[0] for text in (" good", " bad"))
    for patch in study.patches:
        layer = patch.component.layer
        replace = {
            s: sm.Replace(clean[layer][-1], layers=layer, site="mlp_out", positions="last", strength=s)
            for s in (step, -step)
        }
        up, down = (model.logits(CORRUPT, steer=plan)[0, -1].double() for plan in replace.values())
        slope = float((up - down)[target] - (up - down)[foil]) / (2 * step)
        expected = slope / (study.clean[0] - study.corrupt[0])
        assert patch.attribution == pytest.approx(expected, abs=2e-3, rel=2e-2)


def test_the_middle_of_a_block_and_heads_have_first_order_scores_too() -> None:
    model = steering_model("llama")
    for sites in ("resid_mid", "heads", "neurons"):
        study = study_of(model, sites=sites, attribution=True, screen=3)
        assert sum(patch.score is not None for patch in study.patches) == 3
        assert all(patch.attribution is not None for patch in study.patches)
    noised = study_of(model, sites="resid_post", direction="noising", attribution=True)
    assert noised.patches[0].attribution == pytest.approx(1)  # the first token is the same in both


def test_screening_measures_the_patches_with_the_largest_first_order_scores() -> None:
    model = steering_model("gpt2")
    whole = study_of(model, sites="heads", attribution=True)
    some = study_of(model, sites="heads", screen=4)
    order = sorted(range(12), key=lambda i: -abs(whole.patches[i].attribution))
    assert {i for i, patch in enumerate(some.patches) if patch.score} == set(order[:4])
    for i in order[:4]:
        assert some.patches[i].score.value == pytest.approx(whole.patches[i].score.value, abs=1e-3)


# -- what is said -----------------------------------------------------------------------------------------------------


def test_frame_and_map(tmp_path: Any) -> None:
    study = study_of(steering_model("gpt2"), attribution=True)
    frame = study.frame()
    assert list(frame.columns[:8]) == ["component", "site", "layer", "unit", "position", "token", "score", "low"]
    assert frame["token"].tolist()[:3] == [place.label for place in (p.place for p in study.patches[:3])]
    drawn = study.heatmap(tmp_path / "map.svg")
    assert (tmp_path / "map.svg").read_text() == drawn
    assert f'data-value="{study.patches[5].score.value!r}"' in drawn
    assert f'data-value="{study.patches[5].attribution!r}"' in study.heatmap(show="attribution")
    assert "L0H1" in study_of(steering_model("gpt2"), sites="heads").bars()
    with pytest.raises(DataError, match="bars"):
        study_of(steering_model("gpt2"), sites="heads", positions=["last", "prompt[1]"]).heatmap()


@pytest.mark.parametrize(
    ("clean", "corrupt", "settings", "error", "message"),
    [
        (CLEAN, "the movie was", {}, DataError, "tokens and the corrupt one"),
        ([CLEAN], [CORRUPT, CORRUPT], {}, DataError, "give them in pairs"),
        (CLEAN, CLEAN, {}, DataError, "nothing to patch"),
        (CLEAN, CORRUPT, {"direction": "sideways"}, InterventionError, "noising"),
        (CLEAN, CORRUPT, {"screen": 0}, InterventionError, "at least one"),
        (CLEAN, CORRUPT, {"positions": ["last", "last"]}, InterventionError, "twice"),
        (CLEAN, CORRUPT, {"positions": "prompt[99]"}, DataError, "no token"),
        (CLEAN, CORRUPT, {"sites": "soul"}, InterventionError, "unknown site"),
        (CLEAN, CORRUPT, {"metric": lambda logits: logits[:, 0] * 0}, DataError, "nothing to restore"),
    ],
)
def test_what_cannot_be_patched_is_refused_first(clean, corrupt, settings, error, message, monkeypatch) -> None:
    monkeypatch.setattr(patching_runs, "measure", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(error, match=message):
        study_of(steering_model("gpt2"), clean, corrupt, **settings)


def test_a_site_that_is_not_there_is_refused_with_the_reason() -> None:
    with pytest.raises(SiteUnavailableError, match="side by side"):
        study_of(steering_model("gpt_neox"), sites="resid_mid")
