"""What the shipped weights can do, measured on text that their corpus never held; see docs/model.md."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tools.model.abilities import sentiment
from tools.model.abilities.report import report
from tools.model.abilities.subject import Subject
from tools.model.card import SHIPPED

import steersman as sm

PAIRS = sm.ContrastPairs(positive=sentiment.POSITIVE, negative=sentiment.NEGATIVE, name="happy")


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return report(Subject(SHIPPED), randoms=100)


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


def test_the_library_finds_the_same_vector_as_plain_hooks(model: sm.SteeringModel) -> None:
    by_hand = sentiment.vectors(Subject(SHIPPED), sentiment.POSITIVE, sentiment.NEGATIVE)
    vector = sm.extract(model, PAIRS)
    for layer in vector:
        torch.testing.assert_close(vector[layer], by_hand[layer], rtol=1e-4, atol=1e-4)


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
