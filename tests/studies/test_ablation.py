"""Ablation studies, held to one plain forward pass per component and prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.model import reference as by_hand
from tests.model.running import hook_count, steering_model
from tests.models import FAMILIES
from tests.studies import oracle
from torch import Tensor

import steersman as sm
from steersman.errors import DataError, InterventionError, MismatchError, SiteUnavailableError, UnsupportedError
from steersman.model import resume
from steersman.studies import measuring

PROMPTS = ["the movie was great and", "Paris is", "a good movie in London is"]
CORPUS = [
    "the weather in Paris is good",
    "London",
    "a bad movie was awful of the",
    "it is a great movie in London and Paris",
]
TARGET, FOIL = " good", " bad"
REFERENCE = ["gpt2", "llama", "gpt_neox", "mixtral", "mistral"]


def ids_of(model: sm.SteeringModel, texts: list[str]) -> list[list[int]]:
    return [model.tokens.encode(text) for text in texts]


def difference(model: sm.SteeringModel, logits: Tensor) -> float:
    target, foil = (model.tokens.continuation(text)[0] for text in (TARGET, FOIL))
    return float(logits[target].detach() - logits[foil].detach())


def by_hand_values(
    model: sm.SteeringModel, family: str, site: str, unit: int | None, layer: int, put: Any
) -> list[float]:
    """The metric of every prompt with one component set to ``put(number of the prompt)``."""
    found = []
    for number, ids in enumerate(ids_of(model, PROMPTS)):
        edit = (site, layer, oracle.set_to(model.hf, site, unit, put(number)))
        found.append(difference(model, oracle.last(model.hf, family, ids, [edit])))
    return found


def study_of(model: sm.SteeringModel, sites: Any, **settings: Any) -> Any:
    metric = settings.pop("metric", sm.logit_difference(TARGET, FOIL))
    return sm.ablation_study(model, PROMPTS, sites=sites, metric=metric, **settings)


@pytest.mark.parametrize("family", REFERENCE)
def test_zero_and_mean_ablation_equal_plain_hooks(family: str) -> None:
    model = steering_model(family)
    corpus = ids_of(model, CORPUS)
    before = hook_count(model.hf)
    sites = [sm.heads([0, 2]), sm.attention(), sm.mlp(), sm.block(0), sm.site("resid_pre", [0, 1])]
    for mode in ("zero", "mean"):
        study = study_of(model, sites, mode=mode, reference=CORPUS if mode == "mean" else None)
        assert len(study) == 2 * 4 + 3 + 3 + 1 + 2
        for number in range(0, len(study), 3):
            component = study.effects[number].component
            part = component.parts[0]
            values = torch.zeros(model.shape.width(part.site, part.layer))
            if mode == "mean":
                values = oracle.mean_over(model.hf, family, part.site, part.layer, corpus)
            expected = by_hand_values(model, family, part.site, component.unit, part.layer, lambda _, v=values: v)
            np.testing.assert_allclose(study.values[number], expected, atol=2e-4, err_msg=component.label)
    assert hook_count(model.hf) == before


def test_neurons_and_the_middle_of_a_block_equal_plain_hooks() -> None:
    model = steering_model("llama")
    study = study_of(model, [sm.neurons(1, [0, 7, 40]), sm.site("resid_mid", [0, 2])], mode="zero")
    assert [one.component.label for one in study.effects] == ["L1N0", "L1N7", "L1N40", "resid_mid 0", "resid_mid 2"]
    for effect, values in zip(study.effects, study.values, strict=True):
        part, unit = effect.component.parts[0], effect.component.unit
        zeros = torch.zeros(model.shape.width(part.site, part.layer))
        np.testing.assert_allclose(
            values, by_hand_values(model, "llama", part.site, unit, part.layer, lambda _, z=zeros: z), atol=2e-4
        )


def test_means_by_position_equal_plain_hooks() -> None:
    model = steering_model("gpt2")
    study = study_of(model, sm.heads(1, [0, 3]), mode="mean", reference=CORPUS, by_position=True)
    means = oracle.mean_by_position(model.hf, "gpt2", "z", 1, ids_of(model, CORPUS))
    lengths = [len(ids) for ids in ids_of(model, PROMPTS)]
    for effect, values in zip(study.effects, study.values, strict=True):
        put = [means[:length] for length in lengths]
        expected = by_hand_values(model, "gpt2", "z", effect.component.unit, 1, lambda i, p=put: p[i])
        np.testing.assert_allclose(values, expected, atol=2e-4)


def test_resampling_puts_in_another_text_at_the_same_positions() -> None:
    model, long = steering_model("llama"), [CORPUS[3]]
    study = study_of(model, sm.mlp([0, 2]), mode="resample", reference=[*long, "London"], seed=3)
    drawn = ids_of(model, long)[0]  # the only text as long as each prompt
    for effect, values in zip(study.effects, study.values, strict=True):
        layer = effect.component.layer
        other = by_hand.read(model.hf, "llama", "mlp_out", layer, drawn)
        lengths = [len(ids) for ids in ids_of(model, PROMPTS)]
        expected = by_hand_values(model, "llama", "mlp_out", None, layer, lambda i, o=other, n=lengths: o[: n[i]])
        np.testing.assert_allclose(values, expected, atol=2e-4)


def test_resampling_is_seeded_and_leaves_random_state_alone() -> None:
    model, corpus = steering_model("gpt2"), [f"{word}{CORPUS[3]}" for word in ("a", "the", "of", "is", "was")]
    state = torch.get_rng_state()
    first, again, other = (
        study_of(model, sm.mlp(), mode="resample", reference=corpus, seed=seed).values for seed in (1, 1, 2)
    )
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_what_whole_steered_passes_give(family: str) -> None:
    model = steering_model(family)
    last = model.n_layers - 1
    sites = [sm.heads(1, [0, 3]), sm.attention(0), sm.mlp([1, last]), sm.block(1)]
    sites = [one for one in sites if (one.component, 0) not in model.shape.unavailable or one.component == "z"]
    study = study_of(model, sites, mode="mean", reference=CORPUS)
    target, foil = (model.tokens.continuation(text)[0] for text in (TARGET, FOIL))
    for effect, values in zip(study.effects, study.values, strict=True):
        part = effect.component.parts[0]
        mean = sm.mean_activations(model, CORPUS, sites=part.sites)
        logits = model.logits(PROMPTS, steer=sm.Mean(part.sites, mean))[:, -1].double()
        expected = (logits[:, target] - logits[:, foil]).numpy()
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=2e-4, err_msg=str(part))


@pytest.mark.parametrize("metric", ["kl", "loss", sm.probability(TARGET), sm.kl_divergence("all")], ids=str)
@pytest.mark.parametrize("positions", ["all", "last", "prompt[1:3]", 'after("movie")'])
def test_resumed_equals_one_by_one_for_every_metric_and_position(metric: Any, positions: str, monkeypatch: Any) -> None:
    model = steering_model("mistral")
    settings = {"mode": "mean", "reference": CORPUS, "metric": metric, "positions": positions}
    sites = {"both": [sm.heads(0, [1, 2]), sm.mlp(2)], "one": sm.heads(1, 3), "entry": sm.site("resid_pre", 2)}
    fast = study_of(model, sites, **settings)

    def refuse(self: Any, model: Any) -> None:
        raise UnsupportedError("not today")

    monkeypatch.setattr(resume.Resumable, "__init__", refuse)
    slow = study_of(model, sites, **settings)
    np.testing.assert_allclose(fast.base, slow.base, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(fast.values, slow.values, atol=1e-5, rtol=1e-4)
    untouched = "movie" in positions
    assert np.isnan(fast.values[:, 1]).all() == untouched  # "Paris is" has no such text
    assert fast["both"].effect.n == (2 if untouched else 3)


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_batches_and_padding_change_nothing(budget: int) -> None:
    model = steering_model("llama")
    alone = [sm.ablation_study(model, p, sites="heads", mode="zero", metric="kl").values[:, 0] for p in PROMPTS]
    together = sm.ablation_study(model, PROMPTS, sites="heads", mode="zero", metric="kl", token_budget=budget)
    np.testing.assert_allclose(together.values, np.stack(alone, axis=1), atol=1e-5, rtol=1e-4)


def test_an_edited_model_and_a_context_are_studied_as_they_are() -> None:
    model = steering_model("gpt2")
    plan = sm.Add(torch.randn(model.d_model, generator=torch.Generator().manual_seed(1)), layers=1, positions="all")
    edited = study_of(model.edit(plan), "heads", mode="zero")
    with model.steer(plan):
        inside = study_of(model, "heads", mode="zero")
    expected = model.logits(PROMPTS, steer=sm.Plan([plan, sm.Zero(sm.heads(2, 1))]))[:, -1].double()
    target, foil = (model.tokens.continuation(text)[0] for text in (TARGET, FOIL))
    np.testing.assert_allclose(edited.values[9], (expected[:, target] - expected[:, foil]).numpy(), atol=1e-4)
    np.testing.assert_allclose(edited.values, inside.values, atol=1e-5)
    assert np.abs(edited.base - study_of(model, sm.heads(0, 0), mode="zero").base).max() > 1e-2


# -- closed forms -----------------------------------------------------------------------------------------------------


def test_the_mean_of_one_text_by_position_changes_nothing_on_that_text() -> None:
    for family in ("gpt2", "mixtral", "qwen2"):
        model = steering_model(family)
        study = sm.ablation_study(
            model, PROMPTS[0], sites=["heads", "mlp"], mode="mean", reference=PROMPTS[0], by_position=True, metric="kl"
        )
        assert np.abs(study.values).max() < 1e-6


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "qwen2", "mixtral"])
def test_without_attention_and_mlps_the_embedding_is_unembedded(family: str) -> None:
    model = steering_model(family)
    everything = {"everything": [sm.attention(), sm.mlp()]}
    study = study_of(model, everything, mode="zero")
    architecture = model.architecture
    for number, ids in enumerate(ids_of(model, PROMPTS)):
        embedded = architecture.embedding.weight[ids[-1]]
        if architecture.position_embedding is not None:
            embedded = embedded + architecture.position_embedding.weight[len(ids) - 1]
        logits = architecture.unembedding(architecture.final_norm(embedded.detach()))
        assert study.values[0, number] == pytest.approx(difference(model, logits.double()), abs=2e-4)


def test_heads_and_the_bias_of_their_projection_sum_to_the_attention_output() -> None:
    """So zeroing all heads leaves the bias: the same as setting attention to it."""
    for family in ("gpt2", "llama", "gpt_neox"):
        model = steering_model(family)
        bias = model.architecture.attention_projection(1).bias.detach()
        study = study_of(model, {"heads": sm.heads(1)}, mode="zero")
        expected = by_hand_values(model, family, "attn_out", None, 1, lambda _, b=bias: b)
        np.testing.assert_allclose(study.values[0], expected, atol=2e-4)
        z = by_hand.read(model.hf, family, "z", 1, ids_of(model, PROMPTS)[0])
        out = by_hand.read(model.hf, family, "attn_out", 1, ids_of(model, PROMPTS)[0])
        project, size = model.architecture.attention_projection(1), model.shape.d_head
        parts = [project(z * (torch.arange(z.shape[1]) // size == head)) - bias for head in range(model.n_heads)]
        torch.testing.assert_close(sum(parts) + bias, out, atol=1e-5, rtol=1e-4)


def test_directions_are_projected_out_of_all_writers_beside_random_ones_of_the_models_own_covariance() -> None:
    model = steering_model("llama")
    draw = torch.Generator().manual_seed(0)
    named = {"one": torch.randn(model.d_model, generator=draw), "two": torch.randn(model.d_model, generator=draw)}
    study = study_of(model, named, mode="directional", controls=9)
    target, foil = (model.tokens.continuation(text)[0] for text in (TARGET, FOIL))
    for values, direction in zip(study.values, named.values(), strict=True):
        logits = model.logits(PROMPTS, steer=sm.Ablate(direction))[:, -1].double()
        np.testing.assert_allclose(values, (logits[:, target] - logits[:, foil]).numpy(), atol=1e-4)
    assert study.controls is not None
    low, high = np.quantile(study.controls, [0.025, 0.975])
    assert study["one"].others == (pytest.approx(low), pytest.approx(high))
    vector = sm.SteeringVector({1: named["one"], 2: named["two"]}, name="happy")
    by_layer = study_of(model, vector, mode="directional", controls=0)
    np.testing.assert_allclose(by_layer.values, study.values, atol=1e-6)
    assert [one.component.label for one in by_layer.effects] == ["happy of layer 1", "happy of layer 2"]


# -- what is said -----------------------------------------------------------------------------------------------------


def test_effects_are_paired_and_come_with_intervals_and_peers() -> None:
    model = steering_model("gpt2")
    texts = [f"{a} is {b} and" for a in ("Paris", "London", "a movie", "the movie") for b in ("good", "bad", "great")]
    study = sm.ablation_study(
        model, texts, sites=sm.heads("all"), mode="zero", metric=sm.logit_difference(TARGET, FOIL)
    )
    frame = study.frame().set_index("component")
    assert list(frame.index) == [f"L{layer}H{head}" for layer in range(3) for head in range(4)]
    row = frame.loc["L1H2"]
    differences = study.values[6] - study.base
    assert row["effect"] == pytest.approx(differences.mean())
    assert row["low"] < differences.mean() < row["high"]
    assert row["left"] == pytest.approx(study.values[6].mean() / study.base.mean())
    others = np.delete((study.values - study.base).mean(1), 6)
    assert (row["others_low"], row["others_high"]) == pytest.approx(tuple(np.quantile(others, [0.025, 0.975])))
    assert [abs(one.effect.value) for one in study.top(12)] == sorted(frame["effect"].abs(), reverse=True)


def test_too_few_prompts_for_an_interval_is_said() -> None:
    study = study_of(steering_model("gpt2"), sm.heads(0, [0, 1]), mode="zero")
    assert study.effects[0].effect.low is None
    assert study.effects[0].beyond is None
    assert study.frame()["others_low"].isna().all()


def test_the_heat_map_holds_the_effects(tmp_path: Any) -> None:
    study = study_of(steering_model("gpt2"), "heads", mode="zero")
    drawn = study.heatmap(tmp_path / "study.svg")
    assert (tmp_path / "study.svg").read_text() == drawn
    for effect in study.effects:
        where = f'data-row="{effect.component.layer}" data-column="{effect.component.unit}"'
        cell = f'{where} data-value="{effect.effect.value!r}"'
        assert cell in drawn
    assert "attention" in study_of(steering_model("gpt2"), ["attention", "mlp"], mode="zero").heatmap()
    assert 'data-label="L0H0"' in study.bars(k=12)
    with pytest.raises(DataError, match="bars"):
        study_of(steering_model("gpt2"), {"a": sm.heads(0, 1)}, mode="zero").heatmap()


def test_progress_counts_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    study_of(steering_model("gpt2"), "heads", mode="zero", token_budget=1, progress=lambda *at: seen.append(at))
    assert seen[-1] == (36, 36)
    assert sorted(seen) == seen


@pytest.mark.parametrize(
    ("sites", "settings", "error", "message"),
    [
        ("heads", {"mode": "median"}, InterventionError, "zero, mean, resample, directional"),
        ("heads", {"mode": "zero", "reference": CORPUS}, InterventionError, "needs no reference"),
        (sm.heads(9), {"mode": "zero"}, MismatchError, "has 3 layers"),
        ([sm.heads(0, 1), sm.heads(0)], {"mode": "zero"}, InterventionError, "names L0H1 twice"),
        ([], {"mode": "zero"}, InterventionError, "names no site"),
        ("soul", {"mode": "zero"}, InterventionError, "unknown site"),
        ("heads", {"mode": "zero", "positions": 'after("nowhere")'}, DataError, "no token of any prompt"),
        ("heads", {"reference": ["Paris"], "by_position": True}, MismatchError, "give longer reference texts"),
        ("heads", {"mode": "resample", "reference": ["Paris"]}, DataError, "no text of the reference is as long"),
        ("heads", {"mode": "zero", "metric": "beauty"}, InterventionError, "unknown metric"),
        ("heads", {"mode": "directional"}, InterventionError, "a mapping name -> tensor"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_runs(sites, settings, error, message, monkeypatch) -> None:
    model = steering_model("llama")
    monkeypatch.setattr(measuring, "measure", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(error, match=message):
        study_of(model, sites, **settings)


def test_a_mean_over_the_one_prompt_itself_is_refused() -> None:
    with pytest.raises(DataError, match="reference="):
        sm.ablation_study(steering_model("gpt2"), "Paris is", metric="kl")
    with pytest.raises(SiteUnavailableError, match="mixture of experts"):
        study_of(steering_model("mixtral"), "neurons", mode="zero")


class _Killed(Exception):
    pass


@pytest.mark.parametrize("mode", ["mean", "resample", "directional"])
def test_a_killed_study_goes_on_with_what_is_not_measured(mode: Any, tmp_path: Any) -> None:
    model = steering_model("llama")
    directions = {"a": torch.ones(model.d_model), "b": torch.arange(float(model.d_model))}
    sites: Any = directions if mode == "directional" else sm.heads("all")
    settings: dict[str, Any] = {"mode": mode, "token_budget": 12, "controls": 8, "positions": "prompt[1:]"}
    seen: list[int] = []
    whole = study_of(model, sites, progress=lambda done, of: seen.append(of), **settings)
    rows = tmp_path / "rows.jsonl"

    def killed(done: int, of: int) -> None:
        if done >= of // 2:
            raise _Killed

    with pytest.raises(_Killed):
        study_of(model, sites, rows=rows, progress=killed, **settings)
    with rows.open("ab") as opened:
        opened.write(b'{"key": "cut of')  # a line that was being written
    before = rows.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    assert 3 < before.count(b"\n") < seen[-1]
    counts: list[int] = []
    found = study_of(model, sites, rows=rows, progress=lambda done, of: counts.append(done), **settings)
    assert counts[-1] == seen[-1]
    np.testing.assert_allclose(found.values, whole.values, atol=1e-5)
    np.testing.assert_allclose(found.base, whole.base, atol=1e-5)
    assert rows.read_bytes().startswith(before)
    keys = rows.read_bytes().splitlines()[1:]
    assert len(keys) == len(set(keys)) == seen[-1] + len({key.split(b" trial")[0] for key in keys if b"trial" in key})
    again = study_of(model, sites, rows=rows, **settings)
    np.testing.assert_array_equal(again.values, found.values)
    for other in ({"seed": 1}, {"positions": "all"}, {"metric": sm.logit_difference(FOIL, TARGET)}):
        with pytest.raises(MismatchError, match=next(iter(other))):
            study_of(model, sites, rows=rows, **(settings | other))


def test_a_finished_study_runs_no_model(tmp_path: Any, monkeypatch: Any) -> None:
    model, rows = steering_model("gpt2"), tmp_path / "rows.jsonl"
    found = study_of(model, sm.heads("all"), mode="zero", rows=rows)
    monkeypatch.setattr(measuring.Resumed, "untouched", None)
    again = study_of(model, sm.heads("all"), mode="zero", rows=rows)
    np.testing.assert_array_equal(again.values, found.values)
    assert again.frame().equals(found.frame())
