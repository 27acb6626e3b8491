"""Today's spellings of nnsight beside the old ones, each held to hooks or to the other spelling."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from tests.model import reference as by_hand
from tests.model.running import PROMPTS, assert_close, steering_model, vector

import steersman as sm
from steersman.nnsight import LanguageModel


@cache
def opened(family: str = "gpt2") -> LanguageModel:
    return LanguageModel(steering_model(family))


def ids_of(prompt: str, family: str = "gpt2") -> list[int]:
    return steering_model(family).tokens.encode(prompt)


def by_hooks(prompt: str, *edits: tuple[str, int, by_hand.Change], family: str = "gpt2") -> torch.Tensor:
    return by_hand.logits(steering_model(family).hf, family, ids_of(prompt, family), edits)


def last(v: torch.Tensor) -> by_hand.Change:
    return lambda h: torch.cat([h[:-1], h[-1:] + v])


def test_five_ways_to_write_one_edit() -> None:
    model, v = opened("llama"), torch.ones(32)
    results = []
    with model.trace("a b"):
        model.model.layers[1].output[0][:, -1, :] += v
        results.append(model.lm_head.output.save())
    with model.trace("a b"):
        model.model.layers[1].output[:, -1, :] += v
        results.append(model.lm_head.output.save())
    with model.trace("a b"):
        old = model.model.layers[1].output[0].clone()
        old[:, -1] += v
        model.model.layers[1].output = (old, *model.model.layers[1].output[1:])
        results.append(model.lm_head.output.save())
    with model.trace("a b"):
        model.blocks[1].resid_post[:, -1] += v
        results.append(model.lm_head.output.save())
    with model.trace("a b"):
        model.blocks[2].input[0][0][:, -1] += v
        results.append(model.lm_head.output.save())
    wanted = by_hooks("a b", ("resid_post", 1, last(v)), family="llama")
    for found in results:
        assert_close(found.value.detach()[0], wanted)


def test_source_reads_and_edits_what_happens_inside_a_module() -> None:
    model = opened()
    with model.trace("a b"):
        inside = model.transformer.h[1].mlp.source.self_act_0.output.clone().save()
        model.transformer.h[1].mlp.source.self_act_0.output[:] = 0
        logits = model.lm_head.output.save()
    wanted = by_hand.read(steering_model("gpt2").hf, "gpt2", "mlp_post", 1, ids_of("a b"))
    assert_close(inside.detach()[0], wanted)
    change = by_hand.put(None, torch.zeros(()))
    assert_close(logits.detach().value[0], by_hooks("a b", ("mlp_post", 1, change)))


def test_skip_leaves_a_block_out() -> None:
    model = opened("llama")
    with model.trace("a b"):
        model.blocks[1].skip(model.blocks[1].input)
        skipped = model.blocks[1].output.save()
        before = model.blocks[2].input.save()
        logits = model.lm_head.output.save()
    assert torch.equal(skipped, before)
    into = by_hand.read(steering_model("llama").hf, "llama", "resid_pre", 1, ids_of("a b", "llama"))
    assert_close(logits.detach().value[0], by_hooks("a b", ("resid_post", 1, lambda _: into), family="llama"))


def test_scan_gives_shapes_and_needs_no_weights() -> None:
    model = LanguageModel("demo", dispatch=False)
    with model.scan("I think"):
        inner = model.blocks[1].mlp.input[0][0].shape.save()
        shape = model.blocks[1].output[0].shape.save()
    assert tuple(shape) == tuple(inner) == (1, 3, 128)
    assert not model.dispatched


def test_a_session_shares_values_between_traces() -> None:
    model = opened()
    with model.session():
        with model.trace("a b"):
            kept = model.blocks[0].output
        with model.trace("b a"):
            model.blocks[0].output[0][:] = kept[0]
            logits = model.lm_head.output.save()
    source = by_hand.read(steering_model("gpt2").hf, "gpt2", "resid_post", 0, ids_of("a b"))
    assert_close(logits.detach().value[0], by_hooks("b a", ("resid_post", 0, lambda _: source)))


def test_gradients_are_those_of_the_models_own_tensors() -> None:
    hooks, model = steering_model("gpt2"), opened()
    with model.trace("a b"):
        hidden = model.transformer.h[1].output
        with model.lm_head.output[0, -1, 3].backward():
            gradient = hidden.grad.save()
    kept: list[Any] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)
        kept[0].retain_grad()

    handle = hooks.hf.transformer.h[1].register_forward_hook(keep)
    try:
        hooks.hf(torch.tensor([ids_of("a b")])).logits[0, -1, 3].backward()
    finally:
        handle.remove()
        hooks.hf.zero_grad(set_to_none=True)
    assert_close(gradient.value, kept[0].grad)
    assert gradient.abs().max() > 0


def test_an_invoke_edits_its_own_rows() -> None:
    model, v = opened(), vector(steering_model("gpt2"), 2)
    with model.trace() as tracer:
        with tracer.invoke(PROMPTS[0]):
            model.blocks[1].output[:, -1, :] += v
            first = model.lm_head.output.save()
        with tracer.invoke(PROMPTS[1:]):
            others = model.lm_head.output.save()
    assert_close(first.detach().value[0, -len(ids_of(PROMPTS[0])) :], by_hooks(PROMPTS[0], ("resid_post", 1, last(v))))
    for row, prompt in zip(others, PROMPTS[1:], strict=True):
        assert_close(row[-len(ids_of(prompt)) :].detach(), by_hooks(prompt))


@pytest.mark.parametrize("loop", [True, False], ids=["for", "with"])
@pytest.mark.parametrize(("chosen", "steps"), [(slice(1, 3), {1, 2}), (2, {2}), ([0, 3], {0, 3})], ids=str)
def test_iter_chooses_steps(chosen: Any, steps: set[int], loop: bool) -> None:
    hooks, model = steering_model("gpt2"), opened()
    v, new = 3 * vector(hooks, 3), 5
    if loop:
        with model.generate(PROMPTS[0], max_new_tokens=new) as tracer:
            for _ in tracer.iter[chosen]:
                model.blocks[1].output[:, -1, :] += v
            ids = tracer.result.save()
    else:
        with model.generate(PROMPTS[0], max_new_tokens=new) as tracer:
            with tracer.iter[chosen]:
                model.blocks[1].output[:, -1, :] += v
            ids = tracer.result.save()
    own = ids_of(PROMPTS[0])
    wanted = list(own)
    for _ in range(new):
        touched = [len(own) - 1 + step for step in steps if len(own) - 1 + step < len(wanted)]
        change = by_hand.at(touched, by_hand.add(v))
        wanted.append(int(by_hooks_of(wanted, change)[-1].argmax()))
    assert ids[0].tolist() == wanted


def by_hooks_of(ids: list[int], change: by_hand.Change) -> torch.Tensor:
    return by_hand.logits(steering_model("gpt2").hf, "gpt2", ids, [("resid_post", 1, change)])


def test_heads_by_name() -> None:
    for family in ("gpt2", "llama"):
        hooks, model = steering_model(family), opened(family)
        with model.trace("a b"):
            model.blocks[1].heads[:, :, 2] = 0
            logits = model.lm_head.output.save()
        torch.testing.assert_close(logits.detach().value, hooks.logits("a b", steer=sm.Zero(sm.heads(1, 2))))


def test_scaled_sites_are_written_back() -> None:
    hooks, model = steering_model("granite"), opened("granite")
    v = torch.ones(32)
    with model.trace("a b"):
        model.blocks[1].attn_out[:] += v
        logits = model.output.logits.save()
    wanted = hooks.logits("a b", steer=sm.Add(v, layers=1, site="attn_out", positions="all"))
    torch.testing.assert_close(logits.detach(), wanted)
