"""Sampling and settings: seeds are local, and what belongs to the user stays as it was."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from tests.model.running import PROMPTS, fresh_model, steering_model, trace, vector
from tests.models import tiny, tiny_tokenizer

import steersman as sm


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 1.3}, {"top_k": 20}, {"top_p": 0.9}, {"do_sample": True}, {"do_sample": True, "num_beams": 2}],
)
def test_a_seed_repeats_the_text_and_leaves_the_global_random_state_alone(settings: dict[str, Any]) -> None:
    model = steering_model("gpt2")
    plan = sm.Add(vector(model), 0.2, layers=1)
    torch.manual_seed(5)
    random.seed(5)
    state, other = torch.random.get_rng_state(), random.getstate()
    texts = [model.generate(PROMPTS, steer=plan, max_new_tokens=8, seed=3, **settings) for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0] != model.generate(PROMPTS, steer=plan, max_new_tokens=8, seed=4, **settings)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert random.getstate() == other


@pytest.mark.parametrize("cache", [True, False])
def test_sampling_is_the_same_with_and_without_a_cache_and_in_a_context(cache: bool) -> None:
    model = steering_model("llama")
    plan = sm.Add(vector(model), layers=1)
    settings: dict[str, Any] = {"max_new_tokens": 8, "seed": 3, "temperature": 1.2}
    expected = model.generate(PROMPTS, steer=plan, **settings)
    with model.steer(plan):
        assert model.generate(PROMPTS, use_cache=cache, **settings) == expected
    assert model.generate(PROMPTS[0], steer=plan, **settings) == expected[0], "the first row draws as it would alone"


def test_several_samples_of_each_prompt_follow_its_plan() -> None:
    model = steering_model("llama")
    far = sm.Replace(vector(model, scale=50.0), layers=2, positions="all")
    texts = model.generate(
        PROMPTS, steer=[None, far, None], do_sample=True, seed=1, num_return_sequences=3, max_new_tokens=6
    )
    assert [len(row) for row in texts] == [3, 3, 3]
    assert len(set(texts[0])) == 3
    plain = model.generate(PROMPTS, do_sample=True, seed=1, num_return_sequences=3, max_new_tokens=6)
    assert texts[0] == plain[0]
    assert texts[2] == plain[2]
    assert texts[1] != plain[1]


def test_sampling_without_a_seed_follows_the_global_seed() -> None:
    model = steering_model("gpt2")
    texts = []
    for _ in range(2):
        torch.manual_seed(11)
        texts.append(model.generate(PROMPTS, do_sample=True, max_new_tokens=8))
    assert texts[0] == texts[1]
    assert texts[0] != model.generate(PROMPTS, do_sample=True, max_new_tokens=8)


def test_draws_follow_the_distribution() -> None:
    from steersman.model.sampling import Sampling, row_seeds

    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(4000, -1)
    for settings, expected in (
        ((1.0, 0, 1.0), [0.5, 0.3, 0.15, 0.05]), ((1.0, 2, 1.0), [0.625, 0.375, 0, 0]),
        ((1.0, 0, 0.7), [0.625, 0.375, 0, 0]),
    ):  # fmt: skip
        processors = Sampling(*settings, row_seeds(0, 4000)).processors()
        drawn = processors(torch.zeros(4000, 1, dtype=torch.long), logits.clone()).argmax(-1)
        shares = torch.bincount(drawn, minlength=4) / 4000
        assert torch.allclose(shares, torch.tensor(expected), atol=0.03)


def test_generation_is_greedy_whatever_the_settings_of_the_model() -> None:
    model = fresh_model("llama")
    expected = model.generate(PROMPTS, max_new_tokens=6)
    config = model.hf.generation_config
    config.do_sample, config.temperature, config.top_k, config.max_length, config.num_return_sequences = (
        True,
        3.0,
        5,
        7,
        2,
    )
    assert model.generate(PROMPTS, max_new_tokens=6) == expected


def test_nothing_of_the_user_is_changed() -> None:
    hf, tokenizer = tiny("llama"), tiny_tokenizer()
    tokenizer.padding_side = "right"
    owned = [hf.config.to_dict(), hf.generation_config.to_dict(), copy.deepcopy(tokenizer.init_kwargs), hf.training]
    names = sorted(vars(hf))
    weights = {name: tensor.clone() for name, tensor in hf.state_dict().items()}
    model = sm.SteeringModel(hf, tokenizer)
    plan = sm.Plan([sm.Add(vector(model), layers=1), sm.Ablate(vector(model, 1))])
    model.logits(PROMPTS, steer=plan)
    model.generate(PROMPTS, steer=plan, max_new_tokens=4, do_sample=True, seed=1, stop=["x"])
    model.generate(PROMPTS, steer=plan, max_new_tokens=4, num_beams=2)
    _ = model.edit(plan).hf
    list(model.stream(PROMPTS[0], steer=plan, max_new_tokens=4))
    assert owned == [hf.config.to_dict(), hf.generation_config.to_dict(), tokenizer.init_kwargs, hf.training]
    assert (tokenizer.padding_side, tokenizer.pad_token, tokenizer.pad_token_id) == ("right", None, None)
    assert sorted(vars(hf)) == names
    assert all(torch.equal(tensor, weights[name]) for name, tensor in hf.state_dict().items())


def test_what_fills_a_finished_row_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer that knows of no end and no padding: rows that end early are filled with an ordinary token."""
    model = fresh_model("llama")
    filler = model.tokenizer("!", add_special_tokens=False)["input_ids"][0]
    monkeypatch.setattr(type(model.tokens), "pad_id", property(lambda tokens: filler))
    unended = trace(model, PROMPTS, new=12).generated
    model.hf.generation_config.eos_token_id = int(unended[0, 3])
    together = model.generate(PROMPTS, max_new_tokens=12)
    assert any(int(unended[0, 3]) not in row.tolist() for row in unended), "another row goes on"
    assert together == [model.generate(prompt, max_new_tokens=12) for prompt in PROMPTS]
    assert not together[0].endswith("!")


def test_other_settings_reach_transformers() -> None:
    model = steering_model("llama")
    token = model.tokenizer(" the")["input_ids"][-1]
    only = model.generate(PROMPTS[0], max_new_tokens=3, sequence_bias=[[[token], 1e4]])
    assert only == " the the the"
