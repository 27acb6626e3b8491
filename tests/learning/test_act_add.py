"""Activation addition as published."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.models import tiny, tiny_tokenizer

import steersman as sm
from steersman.errors import DataError, MismatchError, NotAppliedError, PromptError
from steersman.model.tokens import Tokens


@pytest.fixture(scope="module", params=["gpt2", "llama", "gpt_neox"])
def model(request: pytest.FixtureRequest) -> sm.SteeringModel:
    return sm.SteeringModel(tiny(request.param), tiny_tokenizer())


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_added_once_to_the_negative_prompt_it_gives_the_logits_of_the_positive_one(
    model: sm.SteeringModel, layer: int
) -> None:
    plan = sm.act_add(model, "I love it", "I hate it", layer, 1)
    steered, positive = model.logits("I hate it", steer=plan), model.logits("I love it")
    torch.testing.assert_close(steered, positive, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model.logits("I hate it"), positive, atol=1e-2)


def test_the_shorter_prompt_is_padded_with_spaces(model: sm.SteeringModel) -> None:
    missing = len(model.tokens.encode("I hate it")) - len(model.tokens.encode("love"))
    padded = model.logits("love" + " " * missing)
    plan = sm.act_add(model, "love", "I hate it", 1, 1)
    torch.testing.assert_close(model.logits("I hate it", steer=plan), padded, rtol=1e-5, atol=1e-5)
    back = sm.act_add(model, "I hate it", "love", 1, 1)
    steered = model.logits("love" + " " * missing, steer=back)
    torch.testing.assert_close(steered, model.logits("I hate it"), rtol=1e-5, atol=1e-5)


def test_of_several_tokens_that_a_space_is_the_last_one_pads(
    model: sm.SteeringModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As sentencepiece's do, which put a mark of their own before it."""
    space, mark = model.tokens.continuation(" ")[0], model.tokens.continuation("#")[0]
    expected = sm.act_add(model, "love", "I hate it", 1)
    plain = Tokens.continuation
    monkeypatch.setattr(Tokens, "continuation", lambda self, text: [mark, space] if text == " " else plain(self, text))
    assert sm.act_add(model, "love", "I hate it", 1) == expected


def test_blocks_above_do_not_run(model: sm.SteeringModel) -> None:
    seen: list[int] = []
    hooks = [
        block.register_forward_hook(lambda m, args, out, layer=layer: seen.append(layer))
        for layer, block in enumerate(model.architecture.blocks)
    ]
    try:
        sm.act_add(model, "love", "hate", 1)
    finally:
        for hook in hooks:
            hook.remove()
    assert 2 not in seen


def test_each_token_gets_c_times_its_own_difference_and_the_rest_nothing(model: sm.SteeringModel) -> None:
    plan = sm.act_add(model, "love", "hate", layer=1, coefficient=5)
    read = [sm.capture(model, text, site="resid_pre", layers=1)[1] for text in ("love", "hate")]
    host = "so it goes on and on"
    plain, steered = (sm.capture(model, host, site="resid_pre", layers=1, steer=steer)[1] for steer in (None, plan))
    torch.testing.assert_close(steered[:5] - plain[:5], 5 * (read[0] - read[1]), rtol=1e-4, atol=1e-4)
    assert torch.equal(steered[5:], plain[5:])
    assert torch.equal(steered[0], plain[0])  # both prompts begin with the same token
    assert len(plan) == 4


def test_generated_tokens_are_not_touched(model: sm.SteeringModel) -> None:
    """A continuation is as long as one likes: what is added stays at the prompt's first tokens."""
    plan = sm.act_add(model, "love", "hate", layer=1, coefficient=2)
    kinds = {str(item.positions) for item in plan}
    assert kinds == {f"prompt[{i}]" for i in range(1, 5)}
    tokens = [model.generate("so it goes", steer=plan, max_new_tokens=6, use_cache=cache) for cache in (True, False)]
    assert tokens[0] == tokens[1]


def test_a_negative_coefficient_and_exchanged_prompts_are_the_same(model: sm.SteeringModel) -> None:
    ways = sm.act_add(model, "love", "hate", 1, 3), sm.act_add(model, "hate", "love", 1, -3)
    first, second = (model.logits("so it goes", steer=plan) for plan in ways)
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_the_plan_is_data(model: sm.SteeringModel, tmp_path: Path) -> None:
    plan = sm.act_add(model, "love", "hate", layer=-1, coefficient=5)
    loaded = sm.Plan.load(plan.save(tmp_path / "plan.safetensors"))
    assert loaded == plan
    assert {item.site or item.vector.site for item in plan} == {"resid_pre"}
    other = sm.SteeringModel(tiny("qwen2"), tiny_tokenizer())
    with pytest.raises(MismatchError, match="love"):
        other.logits("so it goes", steer=plan)


def test_what_cannot_be_added_is_refused(model: sm.SteeringModel) -> None:
    with pytest.raises(DataError, match="same tokens"):
        sm.act_add(model, "love", "love", 1)
    with pytest.raises(DataError, match="same tokens"):
        sm.act_add(model, "love", "love ", 1)
    with pytest.raises(MismatchError, match="names layer 9"):
        sm.act_add(model, "love", "hate", 9)
    if model.architecture.max_positions is not None:
        with pytest.raises(PromptError, match="256 positions"):
            sm.act_add(model, "love" * 100, "hate", 1)
    with pytest.raises(NotAppliedError, match=r"prompt\[3\]"):
        model.logits("so", steer=sm.act_add(model, "love", "hate", 1))
