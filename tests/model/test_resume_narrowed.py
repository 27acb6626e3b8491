"""The last block is run at the scored tokens alone where that is exact, and at all of them where it is not."""

from __future__ import annotations

from functools import wraps

import pytest
import torch
from tests.model.running import LONG, fresh_model, steering_model, vector

import steersman as sm
from steersman.model.resume import Resumable
from steersman.plan import Plan

TEXTS = [LONG, "The weather in London is bad and the movie was great"]


def resumed(model: sm.SteeringModel, plans: list[Plan], few: int | None):
    ids = [model.tokens.encode(text) for text in TEXTS]
    way = Resumable(model)
    base = way.record(ids, [len(row) for row in ids], keep=range(model.n_layers + 1))
    return way.logits(way.run(base, plans, few=few)), ids


#: Of every kind: no cache of keys, keys beside the block, a recurrence as last block, windows, experts, biases.
KINDS = ("gpt2", "llama", "bloom", "gpt_neo", "gemma3", "qwen3_next", "falcon", "olmoe")


@pytest.mark.parametrize("family", KINDS)
def test_the_columns_wanted_are_those_of_whole_passes(family: str) -> None:
    model = steering_model(family)
    v = vector(model)
    plans = [Plan(sm.Add(v, s, layers=layer, positions="all")) for s in (-1.0, 2.0) for layer in (0, 1)]
    few, ids = resumed(model, plans, 3)
    assert few.shape[1] == 3
    for number, plan in enumerate(plans):
        expected = model.token_logits(ids, steer=plan, keep=3)
        assert torch.allclose(few[number * len(ids) : (number + 1) * len(ids)], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_last_block_sees_only_these(family: str) -> None:
    model = fresh_model(family)
    plans = [Plan(sm.Add(vector(model), layers=0, positions="all"))]
    resumed(model, plans, 2)  # what has to be proved is proved
    ids = [model.tokens.encode(text) for text in TEXTS]
    way = Resumable(model)
    base = way.record(ids, [len(row) for row in ids], keep=range(model.n_layers + 1))
    tokens = base.columns
    acting = [Plan(sm.Add(vector(model), layers=model.n_layers - 1, site="mlp_out", positions="all"))]
    cases = [(plans, 2, 2), (plans, None, tokens), (plans, tokens - 1, tokens), (acting, 2, tokens)]
    for given, few, expected in cases:
        seen: list[int] = []
        block = model.architecture.blocks[-1]
        plain = block.forward

        @wraps(plain)  # its arguments are looked up by name
        def watched(hidden_states, *args, plain=plain, seen=seen, **kwargs):
            seen.append(hidden_states.shape[1])
            return plain(hidden_states, *args, **kwargs)

        block.forward = watched
        try:
            way.run(base, given, few=few)
        finally:
            del block.forward
        assert seen[-1] == expected
