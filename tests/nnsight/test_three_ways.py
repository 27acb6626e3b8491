"""Steersman, today's nnsight tracing and forward hooks written by hand do the same, in a padded batch and alone.

One test per way of steering, on two families; the hooks know neither the package nor nnsight, and run each prompt
alone, unpadded. The traces use the notation of nnsight 0.8 itself: ``.output[:, ...]``, ``iter``, one row per prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from tests.model import reference as by_hand
from tests.model.running import PROMPTS, assert_close, steering_model, vector
from torch import Tensor

import steersman as sm
from steersman.nnsight import LanguageModel

LAYER = 1


@dataclass
class Ways:
    """One model, opened three times."""

    family: str
    model: sm.SteeringModel
    traced: LanguageModel
    prompts: list[str]

    @property
    def blocks(self) -> Any:
        return self.traced.transformer.h if self.family == "gpt2" else self.traced.model.layers

    @property
    def projection(self) -> Any:
        return self.blocks[LAYER].attn.c_proj if self.family == "gpt2" else self.blocks[LAYER].self_attn.o_proj

    def ids(self, prompt: str) -> list[int]:
        return self.model.tokens.encode(prompt)

    def by_hand(self, prompt: str, *edits: tuple[str, int, by_hand.Change]) -> Tensor:
        return by_hand.logits(self.model.hf, self.family, self.ids(prompt), edits)

    def read(self, prompt: str, layer: int = LAYER, site: str = "resid_post") -> Tensor:
        return by_hand.read(self.model.hf, self.family, site, layer, self.ids(prompt))

    def agree(self, steered: Tensor, traced: Tensor, edits: Any) -> None:
        """Both batches, row by row, beside hooks on each row alone; and the edits do something."""
        for row, prompt in enumerate(self.prompts):
            length = len(self.ids(prompt))
            wanted = self.by_hand(prompt, *edits(prompt))
            assert_close(steered[row, -length:], wanted, prompt)
            assert_close(traced[row, -length:].detach(), wanted, prompt)
            assert (wanted - self.by_hand(prompt)).abs().max() > 1e-2


@cache
def opened(family: str, rows: str) -> Ways:
    model = steering_model(family)
    return Ways(family, model, LanguageModel(model), PROMPTS if rows == "batch" else PROMPTS[:1])


@pytest.fixture(params=[(family, rows) for family in ("gpt2", "llama") for rows in ("batch", "single")], ids="-".join)
def ways(request: pytest.FixtureRequest) -> Ways:
    return opened(*request.param)


def last(v: Tensor) -> by_hand.Change:
    return lambda h: torch.cat([h[:-1], h[-1:] + v])


def test_basic_intervention(ways: Ways) -> None:
    v = vector(ways.model, 1)
    with ways.traced.trace(ways.prompts):
        ways.blocks[LAYER].output[:, -1, :] += v
        logits = ways.traced.lm_head.output.save()
    steered = ways.model.logits(ways.prompts, steer=sm.Add(v, layers=LAYER))
    ways.agree(steered, logits, lambda _: [("resid_post", LAYER, last(v))])


def test_contrastive_difference(ways: Ways) -> None:
    positive, negative = ways.prompts, [f"{prompt} bad" for prompt in ways.prompts]
    own = sm.extract(ways.model, sm.ContrastPairs(positive, negative), read="last", quality=False)[LAYER]
    found: list[Tensor] = []
    for side in (positive, negative):
        with ways.traced.trace(side):
            found.append(ways.blocks[LAYER].output[:, -1, :].mean(0).save())
    wanted = [torch.stack([ways.read(prompt)[-1] for prompt in side]).mean(0) for side in (positive, negative)]
    assert_close(own, wanted[0] - wanted[1])
    assert_close((found[0] - found[1]).detach(), wanted[0] - wanted[1])


def test_applying_to_every_token(ways: Ways) -> None:
    v = vector(ways.model, 2)
    with ways.traced.trace(ways.prompts):
        ways.blocks[LAYER].output[:] += 1.5 * v
        logits = ways.traced.lm_head.output.save()
    steered = ways.model.logits(ways.prompts, steer=sm.Add(v, 1.5, layers=LAYER, positions="all"))
    ways.agree(steered, logits, lambda _: [("resid_post", LAYER, by_hand.add(1.5 * v))])


@pytest.mark.parametrize("layers", [{LAYER: 1.0}, {0: 0.5, 1: 1.0, 2: 1.5}], ids=["one layer", "several"])
def test_generation_and_several_layers(ways: Ways, layers: dict[int, float]) -> None:
    v, new = vector(ways.model, 3), 5
    texts = ways.model.generate(ways.prompts, steer=sm.Add(v, layers=layers), max_new_tokens=new)
    with ways.traced.generate(max_new_tokens=new, do_sample=False) as tracer:
        with tracer.invoke(ways.prompts):
            for _ in tracer.iter[:new]:
                for layer, weight in layers.items():
                    ways.blocks[layer].output[:, -1, :] += weight * v
        with tracer.invoke():
            ids = ways.traced.generator.output.save()
    for row, prompt in enumerate(ways.prompts):
        own = ways.ids(prompt)
        first = len(own) - 1
        wanted = list(own)
        for _ in range(new):
            steps = range(first, len(wanted))
            edits = [("resid_post", at, by_hand.at(steps, by_hand.add(w * v))) for at, w in layers.items()]
            wanted.append(int(by_hand.logits(ways.model.hf, ways.family, wanted, edits)[-1].argmax()))
        assert ids[row, -new:].tolist() == wanted[-new:]
        assert texts[row] == ways.model.tokens.decode_after(own, wanted[-new:])


def test_persistent_editing(ways: Ways) -> None:
    source = ways.read(ways.prompts[0], 2)[-1] + vector(ways.model, 4)
    edited = ways.model.edit(sm.Replace(source, layers=2, positions="last"))
    with ways.traced.edit() as (_, edited_trace):
        ways.blocks[2].output[:, -1, :] = source
    with edited_trace.trace(ways.prompts):
        logits = ways.traced.lm_head.output.save()
    edits = [("resid_post", 2, lambda h: torch.cat([h[:-1], source[None]]))]
    ways.agree(edited.logits(ways.prompts), logits, lambda _: edits)


def test_zero_ablation_of_a_head(ways: Ways) -> None:
    width = ways.model.d_model // ways.model.n_heads
    with ways.traced.trace(ways.prompts):
        ways.projection.input[:, :, width : 2 * width] = 0
        logits = ways.traced.lm_head.output.save()
    steered = ways.model.logits(ways.prompts, steer=sm.Zero(sm.heads(LAYER, 1)))
    change = by_hand.put(range(width, 2 * width), torch.zeros(()))
    ways.agree(steered, logits, lambda _: [("z", LAYER, change)])


def test_mean_ablation(ways: Ways) -> None:
    means = sm.mean_activations(ways.model, PROMPTS[::2], sites=sm.block(LAYER))
    wanted = torch.cat([ways.read(prompt)[1:] for prompt in PROMPTS[::2]]).mean(0)
    assert_close(means[LAYER], wanted)
    with ways.traced.trace(ways.prompts):
        ways.blocks[LAYER].output[:] = wanted
        logits = ways.traced.lm_head.output.save()
    steered = ways.model.logits(ways.prompts, steer=sm.Mean(sm.block(LAYER), means))
    ways.agree(steered, logits, lambda _: [("resid_post", LAYER, lambda h: wanted.expand_as(h))])


def test_activation_addition_as_published(ways: Ways) -> None:
    pair = ("Paris", "I")
    plan = sm.act_add(ways.model, *pair, layer=LAYER, coefficient=3)
    both = [ways.ids(text) for text in pair]
    space = ways.model.tokens.continuation(" ")[-1]
    both = [ids + [space] * (max(map(len, both)) - len(ids)) for ids in both]
    found = [by_hand.read(ways.model.hf, ways.family, "resid_pre", LAYER, ids) for ids in both]
    difference = 3 * (found[0] - found[1])
    size = len(difference)

    def change(h: Tensor) -> Tensor:
        return torch.cat([h[:size] + difference, h[size:]])

    lengths = [len(ways.ids(prompt)) for prompt in ways.prompts]
    starts = [max(lengths) - length for length in lengths]  # padding is on the left
    with ways.traced.trace(ways.prompts):
        for row, start in enumerate(starts):
            ways.blocks[LAYER].input[row, start : start + size, :] += difference
        logits = ways.traced.lm_head.output.save()
    ways.agree(ways.model.logits(ways.prompts, steer=plan), logits, lambda _: [("resid_pre", LAYER, change)])


def test_probing_reads_the_same(ways: Ways) -> None:
    acts = sm.activations(ways.model, ways.prompts, layers=[LAYER], read="last")[LAYER]
    with ways.traced.trace(ways.prompts):
        rows = ways.blocks[LAYER].output[:, -1, :].save()
    wanted = torch.stack([ways.read(prompt)[-1] for prompt in ways.prompts])
    assert_close(acts, wanted)
    assert_close(rows.detach(), wanted)


def test_vector_analysis(ways: Ways) -> None:
    v = vector(ways.model, 5)
    wanted = ways.model.hf.get_output_embeddings().weight.detach() @ v
    found = sm.lens(ways.model, v, k=10, norm="none")
    assert_close(found.logits, wanted)
    assert found.boosted_ids == wanted.topk(10).indices.tolist()
    assert_close((ways.traced.lm_head.weight @ v).detach(), wanted)
