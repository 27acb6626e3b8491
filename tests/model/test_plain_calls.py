"""Plain transformers calls inside a context: where the prompt ends is found out, or said, or asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.model.running import (
    LONG,
    PROMPTS,
    Trace,
    assert_close,
    assert_same_generation,
    hook_count,
    inputs,
    steering_model,
    trace,
    trace_hf,
    vector,
)
from torch import Tensor
from transformers import DynamicCache

import steersman as sm
from steersman.errors import BoundaryError, MismatchError, NotAppliedError

POSITIONS = [
    *("last", "generation", "last+generation", "prompt", "all", "prompt[1:4]", "prompt[-3]", "generation[0:3]"),
    'after("i")',
]
NEW = 5


def plan_at(model: sm.SteeringModel, positions: str) -> sm.Plan:
    return sm.Plan([sm.Add(vector(model), layers=[0, 1], positions=positions)])


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_every_way_to_generate_steers_the_same_tokens(family: str, positions: str) -> None:
    model = steering_model(family)
    plan = plan_at(model, positions)
    expected = trace(model, PROMPTS, plan, new=NEW, use_cache=False)
    for settings in ({}, {"cache_implementation": "static"}):
        assert_same_generation(trace(model, PROMPTS, plan, new=NEW, **settings), expected, settings)
    with model.steer(plan):
        for settings in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
            found = trace_hf(model.hf, inputs(model, PROMPTS), new=NEW, **settings)
            assert_same_generation(found, expected, settings)


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_continuation_is_steered_as_if_it_had_been_generated(positions: str) -> None:
    model = steering_model("llama")
    plan, text = plan_at(model, positions), " great"
    token = model.tokens.continuation(text)
    assert len(token) == 1
    with model.steer(plan), torch.no_grad():
        batch = inputs(model, PROMPTS)
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
        cache = model.hf(**batch, use_cache=True).past_key_values
        mask = torch.cat([batch["attention_mask"], torch.ones(3, 1, dtype=torch.long)], 1)
        fed = {"input_ids": torch.tensor([token] * 3), "position_ids": mask.sum(1, keepdim=True) - 1}
        expected = model.hf(**fed, attention_mask=mask, past_key_values=cache).logits[:, -1]
    assert_close(model.logits(PROMPTS, continuation=text, steer=plan)[:, -1], expected)


@pytest.mark.parametrize("positions", ["last", "generation", "prompt[1:4]", "last+generation"])
@pytest.mark.parametrize("cache", [True, False])
def test_beams_and_return_sequences_follow_their_row(positions: str, cache: bool) -> None:
    model = steering_model("gpt2")
    plan = plan_at(model, positions)
    settings: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5, "use_cache": cache}
    together = model.generate(PROMPTS, steer=[None, plan, plan], **settings)
    for row, own in enumerate((None, plan, plan)):
        assert together[row] == model.generate(PROMPTS[row], steer=own, **settings)
    with model.steer(plan):
        plain = model.hf.generate(**inputs(model, PROMPTS), pad_token_id=1, do_sample=False, **settings)
    texts = [model.tokenizer.decode(row[-5:], skip_special_tokens=True) for row in plain]
    assert texts == [text for row in model.generate(PROMPTS, steer=plan, **settings) for text in row]


def greedy_by_hand(hf: Any, batch: dict[str, Tensor], new: int, way: str) -> Trace:
    """A decode loop as people write it."""
    found, ids, mask, cache = Trace(), batch["input_ids"], batch["attention_mask"], None
    places = (mask.cumsum(1) - 1).clamp_min(0)
    fed, positions = ids, places
    with torch.no_grad():
        for _ in range(new):
            given: dict[str, Any] = {"input_ids": fed, "attention_mask": mask, "position_ids": positions}
            if way == "no cache":
                out = hf(**given, use_cache=False)
            elif way == "tuples":
                out = hf(**given, past_key_values=cache, use_cache=True, return_dict=False)
            else:
                out = hf(**given, past_key_values=cache, use_cache=True)
            logits, cache = (
                (out[0], out[1] if len(out) > 1 else None)
                if way == "tuples"
                else (out.logits, out.get("past_key_values"))
            )
            found(ids, logits[:, -1])
            token = logits[:, -1].argmax(-1, keepdim=True)
            ids, mask = torch.cat([ids, token], 1), torch.cat([mask, torch.ones_like(token)], 1)
            places = torch.cat([places, places[:, -1:] + 1], 1)
            fed, positions = (ids, places) if way == "no cache" else (token, places[:, -1:])
    return found


@pytest.mark.parametrize("way", ["no cache", "cache", "tuples"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_a_decode_loop_written_by_hand_is_steered_like_generate(way: str, positions: str) -> None:
    model = steering_model("llama")
    plan = plan_at(model, positions)
    with model.steer(plan):
        found = greedy_by_hand(model.hf, inputs(model, PROMPTS), NEW, way)
    assert_same_generation(found, trace(model, PROMPTS, plan, new=NEW), way)


def test_schedules_and_decisions_live_through_a_decode_loop_that_returns_tuples() -> None:
    model = steering_model("gpt2")
    plan = sm.Plan([
        sm.Add(vector(model), sm.schedule([2.0, 0.0, 1.0, 0.5]), layers=1),
        sm.Add(vector(model, 1), layers=2, when=sm.When(vector(model, 5), 1, above=-2.0)),
    ])  # fmt: skip
    expected = trace(model, PROMPTS, plan, new=NEW)
    for way in ("no cache", "cache", "tuples"):
        with model.steer(plan):
            assert_same_generation(greedy_by_hand(model.hf, inputs(model, PROMPTS), NEW, way), expected, way)


def test_a_decoder_called_on_its_own_remembers_its_prompt_whatever_it_returns() -> None:
    model = steering_model("llama")
    plan = sm.Plan([sm.Add(vector(model), sm.schedule([2.0, 0.0, 1.0]), layers=1)])
    ids = torch.tensor([model.tokens.encode(PROMPTS[0])])

    def run(as_tuple: bool) -> list[Tensor]:
        found, cache, fed = [], None, ids
        with model.steer(plan), torch.no_grad():
            for token in (7, 8, 9):
                out = model.architecture.decoder(
                    fed, past_key_values=cache, use_cache=True, **({"return_dict": False} if as_tuple else {})
                )
                assert isinstance(out, tuple) == as_tuple
                cache = out[1] if as_tuple else out.past_key_values
                found.append(out[0])
                fed = torch.tensor([[token]])
        return found

    assert all(torch.equal(a, b) for a, b in zip(run(True), run(False), strict=True))


def test_reordered_rows_without_a_cache_are_still_their_prompts() -> None:
    """What a beam search without a cache does: each step's rows continue rows of the last one, in another order."""
    model = steering_model("gpt2")
    plan = sm.Plan([sm.Add(vector(model), sm.schedule([1.0, 3.0]), layers=1)])
    ids = torch.tensor([model.tokens.encode(text) for text in ("abcd", "dcba")])
    grown = torch.cat([ids[[1, 0]], torch.tensor([[7], [9]])], 1)
    with model.steer(plan), torch.no_grad():
        model.hf(ids, use_cache=False)
        swapped = model.hf(grown, use_cache=False).logits
    with model.steer(plan), torch.no_grad():
        model.hf(ids[[1, 0]], use_cache=False)
        straight = model.hf(grown, use_cache=False).logits
    assert torch.equal(swapped, straight)
    with model.steer(plan), torch.no_grad():
        anew = model.hf(grown, use_cache=False).logits
    assert not torch.equal(anew, straight), "on their own the same ids are a prompt"


def test_a_call_with_a_cache_in_between_ends_what_went_on_without_one() -> None:
    model = steering_model("gpt2")
    plan = plan_at(model, "last")
    ids = torch.tensor([model.tokens.encode(LONG)])
    with model.steer(plan), torch.no_grad():
        expected = model.hf(ids, use_cache=False).logits
    with model.steer(plan), torch.no_grad():
        model.hf(ids[:, :-1], use_cache=False)
        model.hf(ids[:, :4], past_key_values=DynamicCache(config=model.hf.config), use_cache=True)
        assert torch.equal(model.hf(ids, use_cache=False).logits, expected)


def test_several_tokens_onto_a_filled_cache_are_refused_unless_it_is_said_what_they_are() -> None:
    model = steering_model("llama")
    ids = torch.tensor([model.tokens.encode(LONG)])
    whole = model.tokens.encode(LONG)

    def in_two(plan: sm.Plan, **said: Any) -> Tensor:
        with model.steer(plan, **said), torch.no_grad():
            cache = model.hf(ids[:, :10], use_cache=True).past_key_values
            return model.hf(ids[:, 10:], past_key_values=cache, use_cache=True).logits

    with pytest.raises(
        BoundaryError, match=r"prompt_length=\.\.\.\), feed one token at a time, or use positions='all'"
    ):
        in_two(plan_at(model, "last+generation"))
    assert hook_count(model.hf) == 0
    everywhere = plan_at(model, "all")
    assert_close(in_two(everywhere)[0], model.logits(LONG, steer=everywhere)[0, 10:])
    for positions in ("last", "last+generation", "prompt[2:5]", "generation"):
        plan = plan_at(model, positions)
        for length in (12, len(whole) - 1):
            with model.steer(plan, prompt_length=length), torch.no_grad():
                expected = model.hf(ids, use_cache=False).logits
            assert_close(in_two(plan, prompt_length=length), expected[:, 10:], (positions, length))
            assert_close(in_two(plan, prompt_length=[length]), expected[:, 10:], (positions, length))
    with pytest.raises(MismatchError, match="names 2 rows, but the batch has 1"):
        in_two(plan_at(model, "last"), prompt_length=[3, 4])


def test_two_caches_in_one_context_keep_their_prompts_apart() -> None:
    model = steering_model("gpt2")
    plan = sm.Plan([sm.Add(vector(model), sm.schedule([1.0, 2.0, 3.0]), layers=1)])
    texts = [PROMPTS[0], PROMPTS[1]]
    rows = [torch.tensor([model.tokens.encode(text)]) for text in texts]
    tokens = torch.tensor([[[7]], [[8]], [[9]]])
    with model.steer(plan), torch.no_grad():
        caches = [model.hf(row, use_cache=True).past_key_values for row in rows]
        together = [
            model.hf(token, past_key_values=cache, use_cache=True).logits for token in tokens for cache in caches
        ]
    for number, row in enumerate(rows):
        with model.steer(plan), torch.no_grad():
            cache = model.hf(row, use_cache=True).past_key_values
            for step, token in enumerate(tokens):
                alone = model.hf(token, past_key_values=cache, use_cache=True).logits
                assert torch.equal(together[2 * step + number], alone)


def test_prompts_given_as_embeddings_are_steered_too() -> None:
    model = steering_model("llama")
    plan = plan_at(model, "last+generation")
    batch = inputs(model, PROMPTS)
    embedded = model.hf.get_input_embeddings()(batch["input_ids"]).detach()
    with model.steer(plan):
        found = trace_hf(model.hf, {"inputs_embeds": embedded, "attention_mask": batch["attention_mask"]}, new=3)
    assert_same_generation(found, trace(model, PROMPTS, plan, new=3))
    with (
        pytest.raises(BoundaryError, match="the model was fed embeddings; give input_ids"),
        model.steer(plan_at(model, 'after("i")')),
    ):
        trace_hf(model.hf, {"inputs_embeds": embedded, "attention_mask": batch["attention_mask"]}, new=1)


def test_a_context_may_hold_batches_of_different_shape() -> None:
    model = steering_model("gpt2")
    seen: list[list[int]] = []

    def look(h: Tensor, where: Any) -> Tensor:
        seen.append(list(where.rows))
        return h * 2

    with model.steer(sm.Custom(look, layers=1, site="resid_post", positions="all")), torch.no_grad():
        model.hf(torch.arange(10, 16).reshape(2, 3), use_cache=False)
        model.hf(torch.arange(10, 16).reshape(3, 2), use_cache=False)
    assert seen == [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2]]


def test_a_context_that_meets_none_of_its_tokens_says_so_on_leaving() -> None:
    model = steering_model("gpt2")
    batch = inputs(model, PROMPTS)
    with (
        pytest.raises(NotAppliedError, match=r"Add\(tensor\): positions generation selected no token"),
        model.steer(plan_at(model, "generation")),
    ):
        model.hf(**batch)
    with model.steer(plan_at(model, "generation")):
        trace_hf(model.hf, batch, new=1)  # ended before anything was generated
    with model.steer(plan_at(model, "generation")):
        model.hf.generate(**batch, max_new_tokens=1, use_cache=False)  # the same, without a cache to tell it by
    with (
        pytest.raises(NotAppliedError, match="positions generation selected no token"),
        model.steer(plan_at(model, "generation")),
    ):
        model.hf(**batch, use_cache=False)
    with model.steer(plan_at(model, "generation")):
        pass  # nothing was run
    with (
        pytest.raises(NotAppliedError, match=r"prompt\[40\] select no token of row 0 of the batch"),
        model.steer(plan_at(model, "prompt[40]")),
    ):
        model.hf(**batch)
    with pytest.raises(KeyError), model.steer(plan_at(model, "generation")):  # noqa: PT012
        model.hf(**batch)
        raise KeyError("never hidden by the other")
    assert hook_count(model.hf) == 0


def test_hidden_states_asked_of_transformers_are_the_steered_ones_whenever_asked_first() -> None:
    model = steering_model("llama")
    v, batch = vector(model), inputs(model, PROMPTS[:1])
    with torch.no_grad():
        before = model.hf(**batch, output_hidden_states=True).hidden_states
        for _ in range(2):
            with model.steer(sm.Add(v, layers=1, positions="all")):
                after = model.hf(**batch, output_hidden_states=True).hidden_states
            assert torch.equal(after[1], before[1])
            assert_close(after[2], before[2] + v)


def test_blocks_keep_their_attributes_inside_a_context() -> None:
    model = steering_model("gemma2")
    block = model.architecture.blocks[0]
    with model.steer(sm.Add(vector(model), layers="all")):
        assert model.architecture.blocks[0] is block
        assert block.self_attn.layer_idx == 0
        assert type(block).__name__ == "Gemma2DecoderLayer"
        model.generate(PROMPTS[0], max_new_tokens=1)
