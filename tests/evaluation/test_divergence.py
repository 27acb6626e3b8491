"""KL on neutral text against torch's own, computed row by row with hooks by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.evaluation.by_hand import adding, logits
from torch.nn import functional

import steersman as sm
from steersman.errors import DataError
from steersman.evaluation.divergence import divergence, divergences, kl
from steersman.evaluation.neutral import default_texts, layouts

TEXTS = ["The weather in Paris is good and", "It was the", "London is a great of and the bad"]


def by_hand(model, text: str, vector: torch.Tensor, start: int, first: int) -> torch.Tensor:
    family = model.architecture.hf.config.model_type
    ids = model.tokens.encode(text)
    p = torch.log_softmax(logits(model.hf, family, ids), -1)[first:]
    q = torch.log_softmax(logits(model.hf, family, ids, 1, adding(vector, start)), -1)[first:]
    return functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)


@pytest.mark.parametrize("budget", [1, 4096])
def test_an_addition_is_felt_after_the_first_token(model, direction, budget: int) -> None:
    found = divergence(model, TEXTS, sm.Add(direction, 0.5, layers=1), token_budget=budget)
    wanted = [by_hand(model, text, direction * 0.5, 1, 1) for text in TEXTS]  # token 0 is BOS
    assert np.abs(found.kl - torch.cat(wanted).numpy()).max() < 1e-4
    assert found.mean == pytest.approx(float(torch.cat(wanted).mean()), rel=1e-3)
    assert found.texts.tolist() == [i for i, one in enumerate(wanted) for _ in one]


def test_everywhere_is_felt_everywhere_but_at_special_tokens(model, direction) -> None:
    found = divergence(model, TEXTS, sm.Add(direction, 0.5, layers=1, positions="all"))
    wanted = torch.cat([by_hand(model, text, direction * 0.5, 0, 1) for text in TEXTS])
    assert np.abs(found.kl - wanted.numpy()).max() < 1e-4


def test_a_plan_that_names_prompt_tokens_gets_the_text_as_prompt(model, direction) -> None:
    found = divergence(model, TEXTS, sm.Add(direction, 0.5, layers=1, positions="prompt[3:]"))
    wanted = torch.cat([by_hand(model, text, direction * 0.5, 3, 3) for text in TEXTS])
    assert np.abs(found.kl - wanted.numpy()).max() < 1e-4


def test_kl_is_never_negative_zero_for_equals_and_asymmetric() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(7, 50, generator=generator) * 3, torch.randn(7, 50, generator=generator) * 3
    nats, agrees = kl(p, q)
    wanted = functional.kl_div(
        q.double().log_softmax(-1), p.double().log_softmax(-1), log_target=True, reduction="none"
    )
    assert (nats - wanted.sum(-1)).abs().max() < 1e-12
    assert agrees.tolist() == (p.argmax(-1) == q.argmax(-1)).tolist()
    assert float(kl(p, p)[0].max()) == 0
    assert (kl(q, p)[0] - nats).abs().max() > 0.1
    masked = p.clone()
    masked[:, :3] = -torch.inf  # tokens that are ruled out on both sides
    assert torch.isfinite(kl(masked, masked + 1)[0]).all()


def test_many_plans_at_once_are_each_alone_and_must_touch_the_same_tokens(gpt2) -> None:
    vectors = [torch.randn(gpt2.d_model, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    plans = [sm.Add(vector, layers=1) for vector in vectors]
    together = divergences(gpt2, TEXTS, [(gpt2, plan) for plan in plans])
    for one, plan in zip(together, plans, strict=True):
        assert np.abs(one.kl - divergence(gpt2, TEXTS, plan).kl).max() < 1e-6
    with pytest.raises(DataError, match="different tokens"):
        divergences(gpt2, TEXTS, [(gpt2, plans[0]), (gpt2, sm.Add(vectors[0], layers=1, positions="prompt[3:]"))])


def test_an_edited_model_costs_what_its_plan_costs(gpt2) -> None:
    plan = sm.Add(torch.ones(gpt2.d_model), 0.4, layers=1)
    edited = divergence(gpt2, TEXTS, other=gpt2.edit(plan))
    assert np.abs(edited.kl - divergence(gpt2, TEXTS, plan).kl).max() < 1e-9


def test_a_condition_has_half_the_text_to_be_read_on(gpt2) -> None:
    vector = torch.ones(gpt2.d_model)
    plan = sm.Add(vector, layers=2, when=sm.When(vector, layer=1, above=-2.0))
    for layout, text in zip(layouts(gpt2, TEXTS, plan), TEXTS, strict=True):
        ids = gpt2.tokens.encode(text)
        assert len(layout.prompt) == 1 + (len(ids) - 1) // 2
        assert layout.first == len(layout.prompt) - 1


def test_texts_that_cannot_show_it_are_refused(gpt2) -> None:
    vector = torch.ones(gpt2.d_model)
    with pytest.raises(DataError, match="lacks the tokens"):
        divergence(gpt2, TEXTS, sm.Add(vector, layers=1, positions=sm.after("nowhere")))
    with pytest.raises(DataError, match="at least two"):
        divergence(gpt2, ["a"], sm.Add(vector, layers=1))
    with pytest.raises(DataError, match="at least one text"):
        divergence(gpt2, [], sm.Add(vector, layers=1))


def test_the_packaged_texts_are_many_and_the_embedded_models_are_known_to_it(embedded) -> None:
    assert min(len(default_texts("gpt2")), len(default_texts("demo"))) >= 20
    assert len(set(default_texts("gpt2"))) == len(default_texts("gpt2"))
    known = divergence(embedded, default_texts("demo"), sm.Add(torch.ones(embedded.d_model), 0.0, layers=3))
    assert known.mean == 0
    assert known.top1 == 1
    ids = [embedded.tokens.encode(text) for text in default_texts("demo")]
    rows = [embedded.token_logits([one])[0].double().log_softmax(-1) for one in ids]
    nats = [
        -float(row[:-1].gather(-1, torch.tensor(one[1:])[:, None]).mean()) for row, one in zip(rows, ids, strict=True)
    ]
    assert np.mean(nats) < 2.2  # general English costs it about 7
