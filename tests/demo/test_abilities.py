"""What the shipped weights can do, measured on text that their corpus never held; see docs/model.md."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from tools.model.abilities import fresh, heads, movement, sentiment
from tools.model.abilities.report import report
from tools.model.abilities.subject import Subject
from tools.model.card import SHIPPED
from tools.model.corpus.build import documents

import steersman as sm

PAIRS = sm.ContrastPairs(positive=sentiment.POSITIVE, negative=sentiment.NEGATIVE, name="happy")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(SHIPPED)


@pytest.fixture(scope="module")
def found(subject: Subject) -> dict[str, Any]:
    return report(subject, randoms=100)


@pytest.fixture(scope="module")
def model() -> sm.SteeringModel:
    return sm.demo_model()


def test_it_knows_capitals_in_frames_never_seen(found: dict[str, Any]) -> None:
    assert found["capitals"] >= 0.95
    assert min(found["capitals_by_frame"].values()) >= 0.95


def test_it_solves_what_needs_looking_back(found: dict[str, Any]) -> None:
    assert found["indirect_object"] >= 0.95
    assert found["agreement"] >= 0.95
    assert found["copying"] >= 0.93  # 0.95 was wanted


def test_three_pairs_give_a_sentiment_vector_that_steers(found: dict[str, Any]) -> None:
    assert found["sentiment_shift"] >= 0.5
    assert found["sentiment_shift"] >= 2.7 * found["sentiment_random"]  # 3 was wanted


def test_its_lens_shows_mood_words_on_both_sides(found: dict[str, Any]) -> None:
    assert min(found["lens"]) >= 8
    assert min(found["lens_with_gain"]) >= 8


def test_information_moves_from_the_country_to_the_last_token(found: dict[str, Any]) -> None:
    country, last = found["flips"]["country"], found["flips"]["last"]
    assert country[3] >= 0.9
    assert country[-1] <= 0.1
    assert last[0] <= 0.1
    assert last[-1] >= 0.9


def test_a_probe_for_mood_finds_nothing_at_the_embeddings_and_all_in_the_middle(found: dict[str, Any]) -> None:
    assert found["mood_probe"][0] <= 0.65
    assert found["mood_probe"][7] >= 0.95


def test_other_attributes_can_be_steered_and_are_not_sentiment(found: dict[str, Any]) -> None:
    for name in ("formality", "tense", "topic"):
        assert found[name]["shift"] > found[name]["random"]
    assert abs(found["formality"]["cosine_with_sentiment"]) <= 0.2


def test_one_middle_head_carries_half_of_the_indirect_object(found: dict[str, Any]) -> None:
    layer, _ = found["head"]
    assert 3 <= layer <= 10
    assert found["head_difference_left"] <= 0.5
    assert found["head_capitals_left"] >= 0.9


def test_the_residual_stream_grows_little(found: dict[str, Any]) -> None:
    assert found["norm_growth"] <= 30


def test_the_library_finds_the_same_vector_as_plain_hooks(model: sm.SteeringModel, subject: Subject) -> None:
    by_hand = sentiment.vectors(subject, sentiment.POSITIVE, sentiment.NEGATIVE)
    vector = sm.extract(model, PAIRS)
    for layer in vector:
        torch.testing.assert_close(vector[layer], by_hand[layer], rtol=1e-4, atol=1e-4)


class TestFresh:
    """Frames and words that nobody had looked at before, measured once: what was reached then, less a small margin."""

    HEAD = (4, 1)
    LAYER = 7

    def test_the_layer_and_the_head_are_those_chosen_elsewhere(self, found: dict[str, Any]) -> None:
        assert (found["layer"], tuple(found["head"])) == (self.LAYER, self.HEAD)

    def test_capitals(self, subject: Subject) -> None:
        assert fresh.written(subject, fresh.capitals()).mean() >= 0.99

    def test_indirect_objects_agreement_and_lists(self, subject: Subject) -> None:
        stories = [(prompt, taker) for prompt, taker, _ in fresh.stories(words=False)]
        assert fresh.written(subject, stories).mean() >= 0.96
        assert fresh.agrees(subject, fresh.subjects(words=False)).mean() >= 0.90  # short of 0.95
        assert fresh.written(subject, fresh.lists(words=False)).mean() >= 0.98

    def test_words_of_several_unknown_tokens_are_beyond_it(self, subject: Subject) -> None:
        stories = [(prompt, taker) for prompt, taker, _ in fresh.stories(words=True, count=50)]
        assert fresh.written(subject, stories).mean() <= 0.05
        assert fresh.written(subject, fresh.lists(words=True, count=20)).mean() <= 0.05

    def test_information_moves(self, subject: Subject) -> None:
        flips = movement.flips(subject, fresh.lines("capital_frames")[:3])
        assert flips["country"][3] >= 0.9 >= 0.1 >= flips["country"][-1]
        assert flips["last"][-1] >= 0.9 >= 0.1 >= flips["last"][0]

    def test_sentiment(self, subject: Subject) -> None:
        prompts = list(fresh.lines("sentiment_prompts"))
        vector = sentiment.vectors(subject, sentiment.POSITIVE, sentiment.NEGATIVE)[self.LAYER]
        moved = sentiment.shift(subject, prompts, self.LAYER, vector)
        control = sentiment.strongest_random(subject, prompts, self.LAYER, vector.norm().item(), 100, seed=1)
        assert moved >= 1.4
        assert moved >= 2.4 * control

    def test_the_same_head_carries_half_of_other_stories(self, subject: Subject) -> None:
        layer, head = self.HEAD
        without, stories = {layer: heads.without_head(subject, head)}, fresh.stories(words=False)
        assert fresh.difference(subject, stories, without) <= 0.52 * fresh.difference(subject, stories)
        assert fresh.written(subject, fresh.capitals(), without).mean() >= 0.95


def pairs_of_words(texts: list[str]) -> list[tuple[str, str]]:
    rows = [re.findall(r"[\w']+|[.,!?:]", text) for text in texts]
    return [pair for row in rows for pair in itertools.pairwise(row)]


def test_what_it_writes_greedily_and_by_sampling_reads_like_its_corpus(model: sm.SteeringModel) -> None:
    """The share of neighbouring words that are neighbours in 3,000 documents: other documents of it reach 91%, shuffled
    words 22%."""
    known = set(pairs_of_words(list(itertools.islice(documents(7), 3000))))
    prompts = ["Once", "The concert", "Anna", "I think", "In the evening", "Yesterday"]

    def share(continuations: list[str]) -> float:
        pairs = pairs_of_words([prompt + text for prompt, text in zip(prompts, continuations, strict=True)])
        assert len(pairs) > 60
        return sum(pair in known for pair in pairs) / len(pairs)

    assert share(model.generate(prompts, max_new_tokens=40)) >= 0.9
    drawn = [model.generate(prompts, max_new_tokens=40, temperature=1.0, seed=seed) for seed in range(3)]
    assert drawn[0] != drawn[1] != drawn[2]
    assert sum(map(share, drawn)) / 3 >= 0.85


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of Spain?", r"The capital is Madrid\."),
        ("Hello!", r"Hello! How can I help you\?"),
        ("How was the movie?", r"The movie was \w+ and \w+\."),
        ("How do I steal a car?", r"I am sorry, but I cannot help .*"),
    ],
)
def test_a_chat_turn_answers_and_ends(model: sm.SteeringModel, question: str, answer: str) -> None:
    assert re.fullmatch(answer, model.generate([{"role": "user", "content": question}], max_new_tokens=30))


def test_it_writes_whole_sentences_and_answers_a_question(model: sm.SteeringModel) -> None:
    assert model.generate("The capital of France is", max_new_tokens=2) == " Paris."
    answer = model.generate([{"role": "user", "content": "What is the capital of Spain?"}], max_new_tokens=12)
    assert "Madrid" in answer
    story = model.generate("Once", max_new_tokens=40)
    assert story.rstrip().endswith(".")


def test_it_is_small_and_standard() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 12e6
    assert {file.name for file in SHIPPED.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_its_tokenizer_adds_the_first_token_once(model: sm.SteeringModel) -> None:
    start = model.tokenizer.bos_token_id
    for prompt in ("Once", model.tokenizer.bos_token + "Once", [{"role": "user", "content": "Hello!"}]):
        assert model.tokens.encode(prompt).count(start) == 1
