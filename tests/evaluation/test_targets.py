"""Multiple choice, generated text, activations: each measures what it says."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from tests.evaluation.by_hand import adding, log_probability, logits

import steersman as sm
from steersman.errors import DataError
from steersman.evaluation import ActivationTarget, Classifier, RegexRate, Sampling
from steersman.evaluation.targets.multiple_choice import Question

PROMPTS = ["The weather is", "Paris was", "I think that the movie is"]
TEXT = "Which is good?\n\nChoices:\n (A) the bad one\n (B) the great one"
ROWS = [
    {"question": TEXT, "answer_matching_behavior": " (B)", "answer_not_matching_behavior": " (A)", "source": "s"},
    {"question": "Is it good?", "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"},
]


def test_reversing_a_question_moves_texts_and_letters_together() -> None:
    turned = Question(TEXT, (" (B)",), (" (A)",), "s").reversed()
    assert turned == Question(
        "Which is good?\n\nChoices:\n (A) the great one\n (B) the bad one", (" (A)",), (" (B)",), "s"
    )
    assert turned.reversed() == Question(TEXT, (" (B)",), (" (A)",), "s")
    three = Question("Pick:\n(A) x\n(B) y\n(C) z", ("(A)",), ("(B)", "(C)"), "s").reversed()
    assert three == Question("Pick:\n(A) z\n(B) y\n(C) x", ("(C)",), ("(B)", "(A)"), "s")
    assert Question("Yes or no?", (" Yes",), (" No",), "s").reversed() is None
    assert Question(TEXT, (" Yes",), (" No",), "s").reversed() is None  # its answers are no letters


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_both_orders_are_scored_and_averaged(model, form: str, tmp_path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    target = sm.multiple_choice(path, form=form)
    family = model.architecture.hf.config.model_type

    def by_hand(text: str, right: str, wrong: str) -> float:
        prompt = f"{text}\n\nAnswer:" if form == "plain" else [{"role": "user", "content": text}]
        start = model.tokens.encode(prompt)
        found = []
        for answer in (right, wrong):
            rest = model.tokens.continuation(answer if form == "plain" else answer.strip())
            found.append(log_probability(logits(model.hf, family, [*start, *rest]), len(start), rest))
        return found[0] - found[1]

    swapped = "Which is good?\n\nChoices:\n (A) the great one\n (B) the bad one"
    first = (by_hand(TEXT, " (B)", " (A)") + by_hand(swapped, " (A)", " (B)")) / 2
    found = target.measure(model)
    assert found.values.tolist() == pytest.approx([first, by_hand("Is it good?", " Yes", " No")], abs=1e-4)
    assert found.sources == ("s", "1")


def test_a_letter_that_is_liked_for_itself_cancels(gpt2, monkeypatch) -> None:
    """A model that always says A, whatever stands there, has no propensity."""
    target = sm.multiple_choice([ROWS[0]], form="plain")
    items = target.items(gpt2)
    from steersman.evaluation.items import scores

    liked = [
        -0.1 if gpt2.tokens.decode(ids).strip() == "(A)" else -5.0
        for item in items
        for ids in (*item.positive, *item.negative)
    ]
    assert target.values(scores(items, np.array(liked))) == pytest.approx([0.0])


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"question": "x", "answer_matching_behavior": " A"},
        {"question": "x", "answer_matching_behavior": " A", "answer_not_matching_behavior": " A"},
        {"question": " ", "answer_matching_behavior": " A", "answer_not_matching_behavior": " B"},
        {"question": "x", "answer_matching_behavior": [], "answer_not_matching_behavior": 3},
    ],
)
def test_what_is_no_question_is_named(row) -> None:
    with pytest.raises(DataError, match="item 1 is no question"):
        sm.multiple_choice([ROWS[0], row])


def test_multiple_choice_takes_no_prompts(gpt2) -> None:
    with pytest.raises(DataError, match="own questions"):
        sm.multiple_choice(ROWS).measure(gpt2, PROMPTS)
    with pytest.raises(DataError, match="no question"):
        sm.multiple_choice([])


def test_a_classifier_sees_the_texts_that_steering_gives(model, direction) -> None:
    plan = sm.Add(direction * 2, layers=1)
    seen: list[list[str]] = []

    def length(texts: list[str]) -> list[int]:
        seen.append(texts)
        return [len(text) for text in texts]

    target = Classifier(length, sampling=Sampling(texts=1, max_new_tokens=6, temperature=None))
    found = target.measure(model, PROMPTS, steer=plan)
    wanted = [model.generate(prompt, steer=plan, max_new_tokens=6) for prompt in PROMPTS]
    assert seen == [wanted]
    assert found.values.tolist() == [len(text) for text in wanted]
    assert list(found.texts) == wanted


def test_samples_of_a_prompt_are_averaged_and_do_not_depend_on_the_others(model) -> None:
    target = Classifier(lambda texts: [len(t) for t in texts], sampling=Sampling(texts=9, max_new_tokens=5), seed=4)
    found = target.measure(model, PROMPTS)
    assert found.values == pytest.approx([np.mean([len(t) for t in found.texts[i * 3 : i * 3 + 3]]) for i in range(3)])
    again = target.measure(model, PROMPTS)
    assert again.texts == found.texts
    assert len(set(found.texts[:3])) > 1


def test_a_pattern_is_counted(model) -> None:
    drawn = RegexRate("x", sampling=Sampling(texts=30, max_new_tokens=8)).measure(model, PROMPTS).texts
    letter = max("".join(drawn), key=lambda c: -abs(sum(c in text for text in drawn) - 15))  # in about half of them
    target = RegexRate(re.escape(letter), sampling=Sampling(texts=30, max_new_tokens=8))
    found = target.measure(model, PROMPTS)
    hits = [letter in text for text in found.texts]
    assert 0 < sum(hits) < len(hits)
    assert found.values == pytest.approx(np.reshape(hits, (3, 10)).mean(1))
    with pytest.raises(DataError, match="no regular expression"):
        RegexRate("(")


@pytest.mark.parametrize("answer", [[1.0], [1.0, float("nan"), 2.0], ["a", "b", "c"], None])
def test_a_classifier_that_returns_nonsense_is_refused(gpt2, answer) -> None:
    with pytest.raises(DataError):
        Classifier(lambda texts: answer, sampling=Sampling(1, 2, None)).measure(gpt2, PROMPTS)


def test_a_direction_is_read_off_steered_activations(gpt2) -> None:
    direction = torch.randn(gpt2.d_model, generator=torch.Generator().manual_seed(1))
    vector = sm.SteeringVector({1: direction}, layer=1)
    target = ActivationTarget(vector)
    base, steered = target.measure(gpt2, PROMPTS), target.measure(gpt2, PROMPTS, steer=sm.Add(direction, 2.0, layers=1))
    wanted = [
        float(sm.capture(gpt2, prompt)[1][-1].double() @ (direction / direction.norm()).double()) for prompt in PROMPTS
    ]
    assert base.values.tolist() == pytest.approx(wanted, abs=1e-4)
    assert steered.values - base.values == pytest.approx([2 * float(direction.norm())] * 3, rel=1e-4)


def test_a_probe_gives_its_log_odds(gpt2) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    acts = torch.randn(40, gpt2.d_model, generator=generator)
    acts[:, 0] += labels * 6.0
    probe = sm.LinearProbe(cv=2, c=1.0, shuffles=0).fit({1: acts}, labels.tolist())
    target = ActivationTarget(probe, layer=1)
    read = sm.activations(gpt2, PROMPTS, layers=[1])[1]
    chances = probe.probabilities(read, layer=1).numpy()
    assert target.measure(gpt2, PROMPTS).values == pytest.approx(np.log(chances[:, 1] / chances[:, 0]))
    other = ActivationTarget(probe, layer=1, positive=0)
    assert other.measure(gpt2, PROMPTS).values == pytest.approx(np.log(chances[:, 0] / chances[:, 1]))
    with pytest.raises(DataError, match="name the layer="):
        ActivationTarget(probe, layer=2)


@pytest.mark.parametrize("words", [[" great"], [" great", " good the"]])
def test_log_odds_weigh_continuations_against_everything_else(model, words: list[str], direction) -> None:
    target = sm.log_odds(words)
    plan = sm.Add(direction, layers=1)
    found = target.measure(model, PROMPTS, steer=plan, sources=["a", "a", "b"])
    assert found.sources == ("a", "a", "b")
    for value, prompt in zip(found.values, PROMPTS, strict=True):
        ids, likely = model.tokens.encode(prompt), 0.0
        for word in words:
            more = model.tokens.continuation(word)
            change = adding(direction, len(ids) - 1)
            rows = logits(model.hf, model.hf.config.model_type, [*ids, *more], 1, change)
            likely += float(np.exp(log_probability(rows, len(ids), more)))
        assert value == pytest.approx(np.log(likely) - np.log(1 - likely), abs=1e-4)
    assert json.loads(json.dumps(target.describe())) == {"kind": "log_odds", "unit": "nats", "positive": words}
    assert target.in_words() is None
    assert sm.log_odds(" great", instruction="Be kind.").in_words() == "Be kind."


def test_log_odds_stay_finite_where_all_is_certain_and_refuse_what_is_no_text() -> None:
    from steersman.evaluation.items import Scores

    sure = Scores(np.array([0.0, 1e-9, -40.0]), np.zeros(3), np.arange(3), ("a", "b", "c"))
    assert np.isfinite(sm.log_odds(" a").values(sure)).all()
    assert sm.log_odds(" a").values(sure)[2] == pytest.approx(-40)
    for bad in ([], [""], [3]):
        with pytest.raises(DataError, match="at least one text"):
            sm.log_odds(bad)
