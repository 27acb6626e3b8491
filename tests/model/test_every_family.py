"""Every family of models generates steered text, and cache and batch change nothing."""

from __future__ import annotations

import pytest
import torch
from tests.model.running import PROMPTS, Trace, steering_model, trace, vector
from tests.models import FAMILIES

import steersman as sm
from steersman.errors import SiteUnavailableError


def plan_for(model: sm.SteeringModel) -> sm.Plan:
    """An addition, and one direction ablated from all that writes the stream where that can be told."""
    added = sm.Plan([sm.Add(vector(model), layers=1)])
    try:
        model.shape.writers()
    except SiteUnavailableError:
        return added
    return added + sm.Ablate(vector(model, 1))


def difference(found: Trace, expected: Trace) -> float:
    """The largest relative difference of logits up to where the texts part at a near tie."""
    worst = 0.0
    for row in range(len(expected.generated)):
        parted = (found.generated[row] != expected.generated[row]).nonzero()
        steps = int(parted[0]) + 1 if len(parted) else len(expected.generated[row])
        a, b = found.logits[row, :steps], expected.logits[row, :steps]
        worst = max(worst, ((a - b).abs() / b.abs().clamp_min(1)).max().item())
    return worst


@pytest.mark.parametrize("family", FAMILIES)
def test_cache_and_batch_change_nothing(family: str) -> None:
    model = steering_model(family)
    plan = plan_for(model)
    batched = trace(model, PROMPTS, plan, new=4)
    assert not torch.equal(batched.logits[:, 0], trace(model, PROMPTS, new=1).logits[:, 0])
    assert difference(trace(model, PROMPTS, plan, new=4, use_cache=False), batched) < 1e-4
    alone = trace(model, PROMPTS[1], plan, new=4)
    row = Trace([scores[1:2] for scores in batched.scores], batched.ids)
    assert difference(alone, row) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_added_to_a_contribution_is_added_to_the_stream(family: str) -> None:
    """Also where the block scales or norms what its parts give before it adds them."""
    model = steering_model(family)
    v = vector(model)

    def added(site: str) -> torch.Tensor:
        return model.logits(PROMPTS[0], steer=sm.Add(v, layers=1, site=site, positions="all"))[0]

    def available(site: str) -> bool:
        return (site, 1) not in model.shape.unavailable

    pairs = [("mlp_out", "resid_post"), ("attn_out", "resid_mid" if available("resid_mid") else "resid_post")]
    for contribution, stream in pairs:
        if available(contribution):
            found, expected = added(contribution), added(stream)
            assert ((found - expected).abs() / expected.abs().clamp_min(1)).max() < 1e-4, contribution
