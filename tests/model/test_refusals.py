"""What cannot work is said before any forward pass, with the reason, and leaves nothing hooked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.model.running import LONG, PROMPTS, counting_passes, hook_count, inputs, steering_model, vector
from tests.models import tiny

import steersman as sm
from steersman.errors import (
    BoundaryError,
    InterventionError,
    MismatchError,
    NotAppliedError,
    PromptError,
    SiteUnavailableError,
    UnsupportedError,
)

WIDE = torch.ones(32)


def foreign() -> sm.SteeringVector:
    from steersman.vector import Origin

    return sm.SteeringVector({1: WIDE}, name="happy", origin=Origin("Qwen/Qwen3-1.7B", "qwen3", 3, 32, "0" * 64))


#: what is wrong -> (family, plan, error, words of the message)
PLANS: dict[str, tuple[str, Callable[[], Any], type[Exception], str]] = {
    "width": ("gpt2", lambda: sm.Add(torch.ones(31), layers=1), MismatchError, r"shape \(31,\).*it must be \[32\]"),
    "width of a vector": (
        "gpt2", lambda: sm.Add(sm.SteeringVector({1: torch.ones(31)}, name="happy"), layers=1),
        MismatchError, "vector 'happy' has d_model 31, but gpt2 has 32",
    ),
    "a column, which would broadcast": (
        "gpt2", lambda: sm.Add(torch.ones(13, 1), layers=1), MismatchError, r"\(13, 1\)",
    ),
    "one number, which would broadcast": (
        "gpt2", lambda: sm.Add(torch.ones(1), layers=1), MismatchError, r"\(1,\)",
    ),
    "layer": ("gpt2", lambda: sm.Add(WIDE, layers=3), MismatchError, "names layer 3, but gpt2 has 3 layers: 0 to 2"),
    "layer of a condition": (
        "gpt2", lambda: sm.Add(WIDE, layers=1, when=sm.When(WIDE, 7, above=0)), MismatchError, "names layer 7",
    ),
    "width of a condition": (
        "gpt2", lambda: sm.Add(WIDE, layers=1, when=sm.When(torch.ones(5), 1, above=0)), MismatchError, "width 5",
    ),
    "NaN": ("gpt2", lambda: sm.Add(WIDE * torch.nan, layers=1), InterventionError, "NaN or infinite"),
    "an infinite strength": ("gpt2", lambda: sm.Add(WIDE, float("inf"), layers=1), InterventionError, "finite"),
    "the meta device": ("gpt2", lambda: sm.Add(WIDE.to("meta"), layers=1), InterventionError, "meta device"),
    "a vector without a chosen layer": (
        "gpt2", lambda: sm.Add(sm.SteeringVector({1: WIDE}, name="happy")), InterventionError, "has no chosen layer",
    ),
    "another model": (
        "gpt2", lambda: sm.Add(foreign(), layers=1), MismatchError, "was made for Qwen/Qwen3-1.7B",
    ),
    "head": ("gpt2", lambda: sm.Zero(sm.heads(1, 4)), MismatchError, "names head 4 of layer 1, but gpt2 has 4 heads"),
    "neuron": ("gpt2", lambda: sm.Zero(sm.neurons(1, 999)), MismatchError, "names neuron 999"),
    "the middle of a parallel block": (
        "gpt_neox", lambda: sm.Add(WIDE, layers=1, site="resid_mid"), SiteUnavailableError, "run side by side",
    ),
    "the neurons of experts": (
        "mixtral", lambda: sm.Zero(sm.neurons(1, 2)), SiteUnavailableError, "a mixture of experts",
    ),
    "a position beyond the prompt": (
        "gpt2", lambda: sm.Add(WIDE, layers=1, positions="prompt[40]"), NotAppliedError, "select no token of prompt 0",
    ),
    "a slice beyond the prompt": (
        "gpt2", lambda: sm.Add(WIDE, layers=1, positions="prompt[50:60]"), NotAppliedError, "select no token",
    ),
    "a marker that is not there": (
        "gpt2", lambda: sm.Add(WIDE, layers=1, positions='after("?!")'), NotAppliedError, "does not contain the text",
    ),
    "too many rows of values": (
        "gpt2", lambda: sm.Replace(torch.ones(3, 32), layers=1, positions="prompt[0:2]"),
        MismatchError, "3 rows of values for positions .*which select 2 tokens",
    ),
    "rows of values for tokens nobody can count": (
        "gpt2", lambda: sm.Replace(torch.ones(3, 32), layers=1, positions="all"), MismatchError, "an unknown number",
    ),
    "means that end before the prompt does": (
        "gpt2", lambda: sm.Mean(sm.attention(1), torch.ones(4, 32)), MismatchError, "means for 4 positions",
    ),
    "no plan at all": ("gpt2", lambda: "happy", InterventionError, "steer= takes a Plan|a plan holds interventions"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", PLANS)
@pytest.mark.parametrize("way", ["logits", "generate", "stream", "context"])
def test_a_plan_that_cannot_work_is_refused_before_any_forward_pass(wrong: str, way: str) -> None:
    family, make, error, words = PLANS[wrong]
    model = steering_model(family)
    with counting_passes(model.hf) as passes, pytest.raises(error, match=words):  # noqa: PT012
        plan = make()
        if way == "logits":
            model.logits(PROMPTS[:1], steer=plan)
        elif way == "generate":
            model.generate(PROMPTS[:1], steer=plan)
        elif way == "stream":
            model.stream(PROMPTS[0], steer=plan)
        else:
            with model.steer(plan):
                if error is NotAppliedError or "values" in wrong or "means" in wrong:
                    raise error("select no token of prompt 0 does not contain the text " + words.replace(".*", ""))
    assert passes == []
    assert hook_count(model.hf) == 0


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ("", "prompt 0 is empty"), ([], "no prompt given"), (["a", ""], "prompt 1 is empty"), (3, "must be a string"),
        ([3], "prompt 0 is a int"), (None, "must be a string"), (b"bytes", "must be a string"),
        ([[]], "prompt 0 is a list"), ([[{"role": "user"}]], "prompt 0 is a list"),
    ],
)  # fmt: skip
def test_prompts_that_are_none_are_refused(prompts: Any, words: str) -> None:
    model = steering_model("gpt2")
    with counting_passes(model.hf) as passes:
        for run in (model.logits, model.generate):
            with pytest.raises(PromptError, match=words):
                run(prompts)
    assert passes == []


def test_settings_that_cannot_be_are_refused() -> None:
    model = steering_model("gpt2")
    for settings, words in (
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_p": 1.5}, r"top_p in \(0, 1\]"),
        ({"do_sample": False, "top_k": 3}, "do_sample=False"),
        ({"num_return_sequences": 2}, "the same greedy text each time"),
    ):
        with pytest.raises(PromptError, match=words):
            model.generate(PROMPTS[0], **settings)
    with pytest.raises(PromptError, match="2 continuations for 3 prompts"):
        model.logits(PROMPTS, continuation=["a", "b"])
    for empty in ("", ["a", "", "c"]):
        with pytest.raises(PromptError, match="the continuation is empty"):
            model.logits(PROMPTS, continuation=empty)


def test_the_number_of_plans_is_the_number_of_prompts() -> None:
    model = steering_model("gpt2")
    with pytest.raises(MismatchError, match="steer= lists 2 plans for 3 prompts"):
        model.generate(PROMPTS, steer=[None, sm.Add(WIDE, layers=1)])


@pytest.mark.parametrize("family", ["gpt2", "opt", "gptj"])
def test_more_tokens_than_learned_positions_are_refused(family: str) -> None:
    model = steering_model(family)
    with counting_passes(model.hf) as passes:
        with pytest.raises(PromptError, match="has 256 positions; shorten it"):
            model.logits("a" * 256)
        with pytest.raises(PromptError, match=r"tokens and 230 new ones"):
            model.generate(LONG, max_new_tokens=230)
    assert passes == []
    steering_model("llama").logits("a" * 256)


def test_assisted_generation_is_refused_called_or_configured() -> None:
    model = steering_model("gpt2")
    for settings in ({"assistant_model": tiny("gpt2")}, {"prompt_lookup_num_tokens": 3}):
        with pytest.raises(UnsupportedError, match="cannot be steered exactly"):
            model.generate(PROMPTS[0], **settings)
    with (
        pytest.raises(BoundaryError, match="prompt_length="),
        model.steer(sm.Add(WIDE, layers=1)),
    ):
        model.hf.generate(
            **inputs(model, ["abcabcabcabc"]), prompt_lookup_num_tokens=3, max_new_tokens=20, pad_token_id=1
        )
    assert hook_count(model.hf) == 0


def test_a_selector_that_meets_nothing_within_the_generation_says_so_only_if_it_never_could() -> None:
    model = steering_model("gpt2")

    def add(positions: str, **more: Any) -> sm.Add:
        return sm.Add(WIDE, layers=1, positions=positions, **more)

    with pytest.raises(
        NotAppliedError, match="begin at generated token 4, but with max_new_tokens=4 only 3 are fed back"
    ):
        model.generate(PROMPTS[0], steer=add("generation[4:]"), max_new_tokens=4)
    with pytest.raises(NotAppliedError, match="select no token of prompt 0"):
        model.logits(PROMPTS[0], steer=add("generation"))
    model.generate(PROMPTS[0], steer=add("generation"), max_new_tokens=1)
    model.generate(PROMPTS[0], steer=add("last+generation[9:]"), max_new_tokens=2)
    model.logits(PROMPTS[0], steer=sm.Add(WIDE, 0.0, layers=1, positions="prompt[40]"))
    with pytest.raises(NotAppliedError, match="select no token of prompt 1"):
        model.logits(PROMPTS, steer=add("prompt[8]"))
    model.logits(PROMPTS, steer=[add("prompt[8]"), None, add("prompt[8]")])


def test_means_for_some_positions_are_enough_if_only_those_are_named() -> None:
    model = steering_model("gpt2")
    means = torch.randn(3, 32)
    some = sm.Mean(sm.attention(1), means, positions="prompt[0:2]")
    model.generate(LONG, steer=some, max_new_tokens=2)
    with pytest.raises(MismatchError, match="means for 3 positions, but prompt 0 is touched at position 4"):
        model.logits(LONG, steer=sm.Mean(sm.attention(1), means, positions="prompt[0:5]"))
    prompt = len(model.tokens.encode(PROMPTS[0]))
    reaching = sm.Mean(sm.attention(1), torch.randn(prompt, 32))
    model.logits(PROMPTS[0], steer=reaching)
    model.generate(PROMPTS[0], steer=reaching, max_new_tokens=1)
    with counting_passes(model.hf) as passes:
        with pytest.raises(MismatchError, match=f"touched at position {prompt}"):
            model.logits(PROMPTS[0], continuation=" great", steer=reaching)
        with pytest.raises(MismatchError, match=f"touched at position {prompt + 1}"):
            model.generate(PROMPTS[0], steer=reaching, max_new_tokens=3)
    assert passes == []
    with pytest.raises(MismatchError, match="rows of values were given"), model.steer(reaching):
        model.hf.generate(**inputs(model, PROMPTS[:1]), max_new_tokens=3, pad_token_id=1)
    assert hook_count(model.hf) == 0


def test_a_function_must_return_what_it_was_given_in_shape() -> None:
    model = steering_model("gpt2")
    with pytest.raises(MismatchError, match=r"must return a tensor of shape .*got NoneType"):
        model.logits(PROMPTS, steer=sm.Custom(lambda h, where: None, layers=1, site="resid_post", positions="all"))  # pyright: ignore
    with pytest.raises(MismatchError, match="must return a tensor of shape"):
        model.logits(PROMPTS, steer=sm.Custom(lambda h, where: h[:1], layers=1, site="resid_post", positions="all"))
    assert hook_count(model.hf) == 0


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_gradient_checkpointing_which_would_run_blocks_again_unsteered_is_refused() -> None:
    hf = tiny("llama")
    from tests.models import tiny_tokenizer

    model = sm.SteeringModel(hf, tiny_tokenizer())
    hf.gradient_checkpointing_enable()
    hf.train()
    with (
        pytest.raises(UnsupportedError, match="gradient_checkpointing_disable"),
        model.steer(sm.Add(vector(model), layers=1)),
    ):
        hf(**inputs(model, PROMPTS))
    hf.eval()
    model.logits(PROMPTS, steer=sm.Add(vector(model), layers=1), grad=True)
