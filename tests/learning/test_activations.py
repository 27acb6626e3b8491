"""What is read, against plain hooks, whatever the batches."""

from __future__ import annotations

import pytest
import torch
from tests.models import tiny, tiny_tokenizer
from torch import Tensor

import steersman as sm
from steersman.errors import DataError, MismatchError, PromptError

TEXTS = ["hello there you", "a", "the quick brown fox jumps", "no", "one two three"]


@pytest.fixture(scope="module", params=["gpt2", "llama", "gpt_neox", "mixtral"])
def model(request: pytest.FixtureRequest) -> sm.SteeringModel:
    family = {"gpt_neox": "gpt_neox"}.get(request.param, request.param)
    return sm.SteeringModel(tiny(family), tiny_tokenizer())


def by_hand(model: sm.SteeringModel, text: str, layer: int) -> Tensor:
    """The output of a block for one text alone, ``[seq, d_model]``."""
    seen: list[Tensor] = []
    block = model.architecture.blocks[layer]
    handle = block.register_forward_hook(lambda m, a, out: seen.append(out if isinstance(out, Tensor) else out[0]))
    with torch.no_grad():
        model.hf(torch.tensor([model.tokens.encode(text)]))
    handle.remove()
    return seen[0][0]


@pytest.mark.parametrize("budget", [1, 16, 10_000])
def test_the_last_token_of_each_text_equals_a_hook_on_it_alone(model: sm.SteeringModel, budget: int) -> None:
    acts = sm.activations(model, TEXTS, layers=[0, 2], token_budget=budget)
    assert acts.layers == (0, 2)
    for layer in acts:
        assert acts[layer].shape == (len(TEXTS), model.d_model)
        for row, text in zip(acts[layer], TEXTS, strict=True):
            torch.testing.assert_close(row, by_hand(model, text, layer)[-1], rtol=1e-5, atol=1e-5)


def test_the_mean_leaves_special_tokens_out(model: sm.SteeringModel) -> None:
    acts = sm.activations(model, TEXTS, layers=1, read="mean")
    for row, text in zip(acts[1], TEXTS, strict=True):
        torch.testing.assert_close(row, by_hand(model, text, 1)[1:].mean(0), rtol=1e-5, atol=1e-5)


def test_a_token_by_its_index(model: sm.SteeringModel) -> None:
    acts = sm.activations(model, TEXTS, layers=1, read=-2)
    for row, text in zip(acts[1], TEXTS, strict=True):
        torch.testing.assert_close(row, by_hand(model, text, 1)[-2], rtol=1e-5, atol=1e-5)


def test_a_capture_is_every_token_of_a_prompt(model: sm.SteeringModel) -> None:
    hidden = sm.capture(model, TEXTS[2])
    assert hidden.layers == tuple(range(model.n_layers))
    for layer in hidden:
        torch.testing.assert_close(hidden[layer], by_hand(model, TEXTS[2], layer), rtol=1e-5, atol=1e-5)
    several = sm.capture(model, TEXTS[:2], layers=1)
    assert [len(one[1]) for one in several] == [len(model.tokens.encode(text)) for text in TEXTS[:2]]


def test_a_capture_under_a_plan_sees_the_steered_values(model: sm.SteeringModel) -> None:
    vector = torch.randn(model.d_model)
    plain = sm.capture(model, TEXTS[0])
    steered = sm.capture(model, TEXTS[0], steer=sm.Add(vector, layers=1, positions="last"))
    assert torch.equal(steered[0], plain[0])
    assert torch.equal(steered[1][:-1], plain[1][:-1])
    assert torch.equal(steered[1][-1], plain[1][-1] + vector)
    edited = model.edit(sm.Add(vector, layers=1, positions="last"))
    assert torch.equal(sm.capture(edited, TEXTS[0])[2], steered[2])


def test_putting_a_capture_back_changes_nothing(model: sm.SteeringModel) -> None:
    hidden = sm.capture(model, TEXTS[2])
    patch = sm.Replace(hidden[1][-1], layers=1, positions="last")
    torch.testing.assert_close(model.logits(TEXTS[2], steer=patch), model.logits(TEXTS[2]), rtol=1e-5, atol=1e-5)


def test_heads_keep_their_shape_and_sum_to_what_the_projection_reads(model: sm.SteeringModel) -> None:
    heads = sm.capture(model, TEXTS[2], site="z", layers=1)[1]
    assert heads.shape[1:] == (model.n_heads, model.shape.d_head)
    out = model.architecture.attention_projection(1)(heads.flatten(1))
    torch.testing.assert_close(out, sm.capture(model, TEXTS[2], site="attn_out", layers=1)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("budget", [1, 10_000])
def test_means_never_average_padding(model: sm.SteeringModel, by_position: bool, budget: int) -> None:
    means = sm.mean_activations(model, TEXTS, sites="resid_post", by_position=by_position, token_budget=budget)
    alone = [by_hand(model, text, 1) for text in TEXTS]
    if by_position:
        longest = max(len(rows) for rows in alone)
        expected = torch.stack([torch.stack([r[i] for r in alone if len(r) > i]).mean(0) for i in range(longest)])
    else:
        expected = torch.cat([rows[1:] for rows in alone]).mean(0)
    torch.testing.assert_close(means[1], expected, rtol=1e-5, atol=1e-5)


def test_the_mean_of_one_text_by_position_changes_nothing_there(model: sm.SteeringModel) -> None:
    means = sm.mean_activations(model, [TEXTS[2]], sites=sm.heads("all"), by_position=True)
    patched = model.logits(TEXTS[2], steer=sm.Mean(sm.heads("all"), means))
    torch.testing.assert_close(patched, model.logits(TEXTS[2]), rtol=1e-5, atol=1e-5)


def test_nothing_is_left_hooked_when_a_pass_is_cut_short(model: sm.SteeringModel) -> None:
    before = model.logits(TEXTS[0])
    sm.activations(model, TEXTS, layers=0)
    assert torch.equal(model.logits(TEXTS[0]), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.hf.modules())


def test_blocks_above_the_deepest_layer_needed_do_not_run(model: sm.SteeringModel) -> None:
    ran: list[int] = []
    handles = [b.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(model.architecture.blocks)]
    sm.activations(model, TEXTS[:1], layers=1)
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: sm.activations(m, []), PromptError, "no prompt given"),
        (lambda m: sm.activations(m, ["a", ""]), PromptError, "prompt 1 is empty"),
        (lambda m: sm.activations(m, ["a", 3]), PromptError, "prompt 1 is a int"),
        (lambda m: sm.activations(m, ["a"], read="first"), DataError, 'use "last", "mean"'),
        (lambda m: sm.activations(m, ["a"], read=40), DataError, "text 0 has 2 tokens, so none at index 40"),
        (lambda m: sm.activations(m, ["a"], layers=9), MismatchError, "0 to "),
        (lambda m: sm.activations(m, ["a"], token_budget=0), PromptError, "token_budget"),
    ],
)
def test_bad_requests_are_refused_before_any_pass(
    model: sm.SteeringModel, call: object, error: type[Exception], message: str
) -> None:
    ran: list[int] = []
    handle = model.architecture.decoder.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(error, match=message):
        call(model)  # type: ignore[operator]
    handle.remove()
    assert not ran
