# ruff: noqa: D103
"""What `tools/model/fresh` promises: frames and words that the corpus never holds. Run with `pytest tools/model`."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from steersman.demo.steering import PROMPTS
from tools.model.abilities import fresh, sentiment
from tools.model.corpus import agreement, facts, lexicon, lists, stories
from tools.model.corpus.build import documents

FRAMES = ("capital_frames", "story_openings", "story_gifts", "agreement_frames", "sentiment_prompts")
WORDS = ("names", "places", "objects", "list_words")


@pytest.fixture(scope="module")
def text() -> str:
    return "\n".join(islice(documents(seed=0), 20_000))


@pytest.fixture(scope="module")
def vocabulary(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z']+", text))


def pattern(frame: str) -> str:
    """A frame as a regular expression: any words in its slots."""
    return r"[\w ,]+".join(map(re.escape, re.split(r"\{\w+\}", frame)))


def test_no_fresh_frame_occurs_whatever_stands_in_its_slots(text: str) -> None:
    frames = [frame for name in FRAMES for frame in fresh.lines(name)]
    frames += [f"{first} {{words}}. {again}" for first, again in fresh.columns("list_frames")]
    assert [frame for frame in frames if re.search(pattern(frame), text)] == []


def test_the_search_finds_the_frames_that_do_occur(text: str) -> None:
    known = [frame.split(" {capital}")[0] for frame in facts.FRAMES if "{capital}" in frame.split("{country}")[1]]
    assert len(known) >= 10
    assert all(re.search(pattern(frame), text) for frame in (*known, *stories.OPENINGS, *agreement.FRAMES))


def test_a_fresh_frame_is_made_of_words_that_the_corpus_uses(vocabulary: set[str]) -> None:
    frames = " ".join(frame for name in (*FRAMES, "list_frames") for frame in fresh.lines(name))
    assert set(re.findall(r"[A-Za-z']+", re.sub(r"\{\w+\}", "", frames))) <= vocabulary


def test_fresh_words_occur_nowhere(vocabulary: set[str]) -> None:
    words = {word for name in WORDS for word in fresh.lines(name)} | {
        word for pair in fresh.columns("plurals") for word in pair
    }
    assert len(words) >= 60
    assert words & vocabulary == set()


def test_nothing_fresh_was_looked_at_before() -> None:
    before = {
        *facts.TEST_FRAMES, *facts.TEST_TWO_HOP, *stories.TEST_OPENINGS, *stories.TEST_GIFTS, *agreement.TEST_FRAMES,
        *sentiment.PROMPTS, *sentiment.DEV_PROMPTS, *PROMPTS, *(f"{a}\t{b}" for a, b in lists.TEST_FRAMES),
    }  # fmt: skip
    now = {frame for name in (*FRAMES, "list_frames") for frame in fresh.lines(name)}
    assert not [(old, new) for old in before for new in now if old in new or new in old]
    nouns = {noun for nouns in lexicon.topics().values() for noun in nouns}
    known = {noun for prompt in (*sentiment.PROMPTS, *sentiment.DEV_PROMPTS) for noun in nouns & set(prompt.split())}
    assert not [prompt for prompt in fresh.lines("sentiment_prompts") if known & set(prompt.split())]


def test_a_story_asks_for_the_one_who_does_not_give() -> None:
    for prompt, taker, giver in (*fresh.stories(True, 50), *fresh.stories(False, 50)):
        assert prompt.count(giver) == 2
        assert prompt.count(taker) == 1
        assert prompt.endswith(" to")


def test_attractors_have_the_other_number() -> None:
    for words, nouns in ((True, fresh.columns("plurals")), (False, lexicon.noun_pairs())):
        numbers = {noun: number for pair in nouns for number, noun in enumerate(pair)}
        for prompt, number in fresh.subjects(words, 50):
            found = [numbers[word] for word in prompt.split() if word in numbers]
            assert found == [number, 1 - number]


def test_a_list_asks_for_its_next_word() -> None:
    for prompt, answer in fresh.lists(True, 20):
        listed, again = re.split(r"\. ", prompt, maxsplit=1)
        words = listed.split(": ")[1].split(", ")
        said = [word.strip() for word in again.split(":")[1].split(",") if word.strip()]
        assert [*said, answer] == words[: len(said) + 1]
