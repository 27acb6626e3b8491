"""Texts that begin alike are computed together, and nothing changes."""

from __future__ import annotations

import random
from importlib import import_module

import pytest
import torch
from tests.models import FAMILIES, tiny, tiny_tokenizer

import steersman as sm
from steersman.extraction.packing import distinct_tokens, pack, packed_tokens
from steersman.model.own_mask import why_not

TEXTS = [f"it is {end}" for end in ("a", "ab", "b", "cd", "c", "", "a", "xyz")]


def rows(count: int = 12) -> list[list[int]]:
    rng = random.Random(0)
    start = [0] + [rng.randrange(2, 300) for _ in range(5)]
    return [start + [rng.randrange(2, 300) for _ in range(rng.randrange(3))] for _ in range(count)] + [[0, 5], start]


@pytest.mark.parametrize("limit", [1, 16, 1000])
def test_a_path_spells_its_text_and_sees_no_other(limit: int) -> None:
    texts = rows()
    packs = pack(texts, limit)
    assert sorted(number for one in packs for number, _ in one.paths) == list(range(len(texts)))
    for one in packs:
        for number, path in one.paths:
            assert one.ids[path].tolist() == texts[number]
            assert one.positions[path].tolist() == list(range(len(path)))
            for depth, node in enumerate(path.tolist()):
                assert one.visible[node].nonzero().flatten().tolist() == sorted(path[: depth + 1].tolist())


def test_shared_tokens_are_counted_once() -> None:
    texts = rows()
    distinct = {tuple(row[: i + 1]) for row in texts for i in range(len(row))}
    assert packed_tokens(pack(texts)) == distinct_tokens(texts) == len(distinct)
    assert distinct_tokens([]) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_that_can_be_packed_gives_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sm.SteeringModel(tiny(family), tiny_tokenizer())
    batches: list[int] = []
    decoder = model.architecture.decoder
    handle = decoder.register_forward_pre_hook(
        lambda module, args, given: batches.append(len(given["input_ids"])), with_kwargs=True
    )
    packed = sm.activations(model, TEXTS, read="mean")
    handle.remove()
    longest = max(len(model.tokens.encode(text)) for text in TEXTS)
    assert batches == [1 if why_not(model.architecture, longest) is None else len(TEXTS)]
    monkeypatch.setattr(import_module("steersman.extraction.passes"), "WORTH", 0.0)
    plain = sm.activations(model, TEXTS, read="mean", token_budget=1)
    for layer in plain:
        torch.testing.assert_close(packed[layer], plain[layer], rtol=1e-4, atol=1e-4)


def test_a_plan_in_force_keeps_texts_apart() -> None:
    model = sm.SteeringModel(tiny("llama"), tiny_tokenizer())
    plan = sm.Add(torch.randn(model.d_model), layers=0, positions="last")
    steered = sm.activations(model, TEXTS, layers=1, steer=plan)
    with model.steer(plan):
        inside = sm.activations(model, TEXTS, layers=1)
    alone = torch.stack([sm.activations(model, [text], layers=1, steer=plan)[1][0] for text in TEXTS])
    torch.testing.assert_close(steered[1], alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(inside[1], alone, rtol=1e-5, atol=1e-5)
