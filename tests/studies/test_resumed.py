"""What is not run again gives the same numbers: layers below, beginnings before, the last block's other tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.model.running import hook_count, steering_model
from tests.models import FAMILIES

import steersman as sm
from steersman.errors import UnsupportedError
from steersman.model import resume
from steersman.studies import resumed

PROMPTS = ["the movie was great and", "Paris is", "a good movie in London is"]
CORPUS = ["the weather in Paris is good", "it is a great movie in London and a bad movie in Paris"]


def whole_passes(monkeypatch: Any) -> None:
    def refuse(self: Any, model: Any) -> None:
        raise UnsupportedError("not today")

    monkeypatch.setattr(resume.Resumable, "__init__", refuse)


@pytest.fixture
def late(monkeypatch: Any) -> list[tuple[int, ...]]:
    """Where the beginnings ended that were computed once."""
    seen: list[tuple[int, ...]] = []
    original = resumed.Resumed._late

    def noted(self: Any, group: Any, starts: tuple[int, ...], *rest: Any) -> Any:
        seen.append(starts)
        return original(self, group, starts, *rest)

    monkeypatch.setattr(resumed.Resumed, "_late", noted)
    return seen


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "mixtral", "qwen2", "opt", "granite", "falcon"])
def test_beginnings_before_the_first_token_touched_are_computed_once(family: str, late: Any, monkeypatch: Any) -> None:
    model = steering_model(family)
    before = hook_count(model.hf)
    settings: dict[str, Any] = {"sites": ["heads", "mlp"], "metric": "kl", "reference": CORPUS}
    fast = sm.ablation_study(model, PROMPTS, positions="last", **settings)
    lengths = sorted(len(model.tokens.encode(text)) for text in PROMPTS)
    assert late == [tuple(length - 1 for length in lengths)]
    two = sm.ablation_study(model, PROMPTS[:1], positions="prompt[-2:]", by_position=True, **settings)
    assert len(late) == 2
    assert hook_count(model.hf) == before
    whole_passes(monkeypatch)
    slow = sm.ablation_study(model, PROMPTS, positions="last", **settings)
    np.testing.assert_allclose(fast.values, slow.values, atol=2e-5, rtol=2e-4)
    other = sm.ablation_study(model, PROMPTS[:1], positions="prompt[-2:]", by_position=True, **settings)
    np.testing.assert_allclose(two.values, other.values, atol=2e-5, rtol=2e-4)
    assert np.abs(slow.values).max() > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral"])
@pytest.mark.parametrize("sites", ["resid_post", "resid_pre", "mlp_out"])
def test_every_position_of_a_map_equals_whole_passes(family: str, sites: str, late: Any, monkeypatch: Any) -> None:
    model = steering_model(family)
    clean, corrupt = "the great movie was awful and a movie is", "the awful movie was awful and a movie is"
    settings: dict[str, Any] = {"sites": sites, "metric": sm.logit_difference(" good", " bad")}
    monkeypatch.setattr(resumed.Resumed, "_branches", lambda self, group, starts, count: _when_possible(self, starts))
    fast = sm.patching_study(model, clean, corrupt, **settings)
    assert len(late) > 4
    whole_passes(monkeypatch)
    slow = sm.patching_study(model, clean, corrupt, **settings)
    np.testing.assert_allclose(fast.values, slow.values, atol=1e-4, rtol=1e-4)


def _when_possible(run: Any, starts: tuple[int, ...]) -> bool:
    if run._branching is None:
        run._branching = resumed.Branching(run.resumable)
    return min(starts) >= 1


@pytest.mark.parametrize("family", ["bloom", "gemma2"])
def test_distance_along_the_row_and_short_windows_are_run_whole(family: str, late: Any) -> None:
    model = steering_model(family)
    found = sm.ablation_study(model, PROMPTS, positions="last", sites="heads", metric="kl", mode="zero")
    assert not late
    assert np.isfinite(found.values).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_block_is_thinned_only_where_that_is_exact(family: str) -> None:
    model = steering_model(family)
    run = resumed.Resumed(model, lambda x: x[..., -1, :], 2048, last_only=True)
    group = next(iter(sm.studies.groups.grouped(model, [model.tokens.encode(text) for text in PROMPTS], 2048)))
    found = run.untouched(group)
    expected = model.token_logits(group.ids, keep=1)[:, -1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert run._thin or family in ("bloom", "bloom_post_norm", "falcon", "falcon_new", "falcon_sequential")


def test_fewer_tokens_reach_the_last_mlp() -> None:
    model, seen = steering_model("llama"), []
    hook = model.architecture.mlp(2).act_fn.register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
    try:
        sm.ablation_study(model, PROMPTS[0], sites=sm.heads(0), mode="zero", metric="kl")
    finally:
        hook.remove()
    assert seen[-1] == 1


def test_the_layers_below_are_not_run_again() -> None:
    model, seen = steering_model("gpt2"), []
    hooks = [
        block.register_forward_hook(lambda m, args, out, layer=layer: seen.append(layer))
        for layer, block in enumerate(model.architecture.blocks)
    ]
    try:
        resume.Resumable(model)
        proof = len(seen)
        seen.clear()
        sm.ablation_study(model, PROMPTS[0], sites=sm.heads("all"), mode="zero", metric="kl", token_budget=1)
    finally:
        for hook in hooks:
            hook.remove()
    counts = [seen.count(layer) for layer in range(3)]
    assert sum(counts) - proof == 3 + 1 + 4 * (3 + 2 + 1)  # the base pass, the last block thinned, four heads a layer
