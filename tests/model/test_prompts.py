"""Prompts: beginnings never doubled, chats by their template, position ids by the mask, texts decoded in place."""

from __future__ import annotations

import pytest
import torch
from tests.model import reference as by_hand
from tests.model.running import PROMPTS, assert_close, inputs, steering_model, trace, vector

import steersman as sm

USER = {"role": "user", "content": "Hi"}


def test_a_text_begins_with_one_beginning_of_sequence() -> None:
    tokens = steering_model("llama").tokens
    assert tokens.encode("Hi")[0] == 0
    assert tokens.encode("Hi").count(0) == 1
    assert tokens.encode("<s>Hi") == tokens.encode("Hi")
    assert tokens.encode("<s>") == [0]
    assert tokens.continuation("Hi") == tokens.encode("Hi")[1:]


def test_a_chat_is_rendered_by_its_template_which_brings_its_own_beginning() -> None:
    model = steering_model("llama")
    rendered = "<s><|user|>\nHi</s>\n<|assistant|>\n"
    ids = model.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert model.tokens.encode([USER]) == ids
    assert ids.count(0) == 1
    assert model.generate([USER], max_new_tokens=4) == model.generate(rendered, max_new_tokens=4)


def test_a_chat_that_ends_with_the_assistant_is_continued() -> None:
    tokens = steering_model("llama").tokens
    ids = tokens.encode([USER, {"role": "assistant", "content": "I think"}])
    assert tokens.decode(ids, special=True) == "<s><|user|>\nHi</s>\n<|assistant|>\nI think"


def test_chats_and_texts_may_stand_in_one_batch() -> None:
    model = steering_model("llama")
    plan = sm.Add(vector(model), layers=1)
    both = model.generate([[USER], PROMPTS[0]], steer=plan, max_new_tokens=4)
    assert both == [
        model.generate([USER], steer=plan, max_new_tokens=4),
        model.generate(PROMPTS[0], steer=plan, max_new_tokens=4),
    ]
    assert isinstance(model.generate([USER], max_new_tokens=1), str), "a chat is one prompt"


def test_positions_after_a_marker_begin_where_the_user_ends() -> None:
    model = steering_model("llama")
    v = vector(model)
    ids = model.tokens.encode([USER])
    first = len(model.tokenizer("<s><|user|>\nHi</s>\n<|assistant|>", add_special_tokens=False)["input_ids"])
    found = model.logits([USER], steer=sm.Add(v, layers=1, positions=sm.after("<|assistant|>")))[0]
    edits = [("resid_post", 1, by_hand.at(range(first, len(ids)), by_hand.add(v)))]
    assert_close(found, by_hand.logits(model.hf, "llama", ids, edits))


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "bloom", "gpt_neo"])
def test_position_ids_follow_the_mask_so_that_a_batch_is_its_rows(family: str) -> None:
    model = steering_model(family)
    plan = sm.Add(vector(model), layers=1)
    together = model.logits(PROMPTS, steer=plan)
    for row, prompt in enumerate(PROMPTS):
        alone = model.logits(prompt, steer=plan)[0]
        assert_close(together[row, -len(alone) :], alone, (family, prompt))
        found, single = trace(model, PROMPTS, plan, new=3), trace(model, prompt, plan, new=3)
        assert_close(found.logits[row, :1], single.logits[0, :1])


def test_the_last_prompt_token_produces_the_first_output_token() -> None:
    """Steering only generated tokens cannot change the first; steering the last prompt token does."""
    model = steering_model("gpt2")
    v = vector(model, scale=3.0)
    base = trace(model, PROMPTS, new=2).logits
    by_generation = trace(model, PROMPTS, sm.Add(v, layers=1, positions="generation"), new=2).logits
    assert torch.equal(by_generation[:, 0], base[:, 0])
    assert not torch.equal(by_generation[:, 1], base[:, 1])
    by_default = trace(model, PROMPTS, sm.Add(v, layers=1), new=2).logits
    assert not torch.equal(by_default[:, 0], base[:, 0])


def test_a_steered_last_token_is_what_editing_the_last_column_at_every_step_does() -> None:
    """``hidden[:, -1, :] += v`` in a decode loop with a cache, as tutorials write it."""
    model = steering_model("llama")
    v = vector(model)

    def last_column(module: object, args: object, out: torch.Tensor) -> torch.Tensor:
        return torch.cat([out[:, :-1], out[:, -1:] + v], 1)

    handle = model.architecture.blocks[1].register_forward_hook(last_column)
    try:
        expected = model.hf.generate(**inputs(model, PROMPTS), max_new_tokens=6, pad_token_id=1, do_sample=False)
    finally:
        handle.remove()
    with model.steer(sm.Add(v, layers=1)):
        found = model.hf.generate(**inputs(model, PROMPTS), max_new_tokens=6, pad_token_id=1, do_sample=False)
    assert torch.equal(found, expected)


def test_heads_are_query_heads_where_keys_are_shared() -> None:
    model = steering_model("llama")
    assert model.hf.config.num_key_value_heads < model.n_heads
    size = model.shape.d_head
    for head in range(model.n_heads):
        found = model.logits(PROMPTS[0], steer=sm.Zero(sm.heads(1, head)))[0]
        columns = range(head * size, (head + 1) * size)
        edits = [("z", 1, by_hand.put(list(columns), torch.zeros(size)))]
        assert_close(found, by_hand.logits(model.hf, "llama", model.tokens.encode(PROMPTS[0]), edits), head)
