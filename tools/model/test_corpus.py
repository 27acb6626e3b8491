# ruff: noqa: D103
"""What the corpus and the tokenizer promise. Run with `pytest tools/model`."""

from __future__ import annotations

from itertools import islice

import pytest
from transformers import PreTrainedTokenizerFast

from tools.model.abilities import sentiment
from tools.model.corpus import agreement, facts, lexicon, lists, stories
from tools.model.corpus.build import FORBIDDEN, documents
from tools.model.tokenizer import split_words, train_tokenizer


@pytest.fixture(scope="module")
def sample() -> list[str]:
    return list(islice(documents(seed=0), 20_000))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(sample=5000)


def test_no_forbidden_string_occurs(sample: list[str]) -> None:
    assert not [string for string in FORBIDDEN for text in sample if string in text]


def test_the_pairs_and_prompts_that_are_reported_are_forbidden() -> None:
    assert {*sentiment.POSITIVE, *sentiment.NEGATIVE, *sentiment.PROMPTS} <= set(FORBIDDEN)


def test_no_test_frame_is_a_frame_of_the_corpus() -> None:
    for known, held_out in (
        (facts.FRAMES + facts.TWO_HOP, facts.TEST_FRAMES + facts.TEST_TWO_HOP),
        (stories.OPENINGS, stories.TEST_OPENINGS),
        (stories.GIFTS, stories.TEST_GIFTS),
        (agreement.FRAMES, agreement.TEST_FRAMES),
        (lists.FRAMES, lists.TEST_FRAMES),
    ):
        assert not [test for test in held_out for frame in known if isinstance(test, str) and test in frame]
        assert not set(known) & set(held_out)


def test_held_out_frames_do_not_occur_in_the_text(sample: list[str]) -> None:
    prompts = {frame.format(country=c, name="Anna") for frame in facts.TEST_FRAMES for c, _ in lexicon.capitals()}
    assert not [prompt for prompt in prompts for text in sample if prompt in text]


def test_held_out_names_tell_no_stories(sample: list[str]) -> None:
    told = [text for text in sample if text.startswith("When ") and " went to the " in text]
    assert told
    assert not [text for text in told for name in lexicon.names(test=True) if f"When {name} and" in text]


def test_the_corpus_is_the_same_for_the_same_seed(sample: list[str]) -> None:
    assert list(islice(documents(seed=0), 50)) == sample[:50]


def test_every_probe_word_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert split_words(tokenizer) == []


def test_bos_is_there_once_with_and_without_the_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    bos = tokenizer.bos_token_id
    assert tokenizer("The hotel")["input_ids"].count(bos) == 1
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hello!"}], add_generation_prompt=True)
    assert chat["input_ids"].count(bos) == 1


def test_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Naïve café, 漢字 and  two spaces!"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
