"""The packaged pairs and words, which need no model."""

from __future__ import annotations

import re

import pytest

from steersman import demo
from steersman.demo.steering import PROMPTS
from steersman.demo.tour import COOKBOOK
from steersman.errors import DataError


@pytest.mark.parametrize("name", demo.PAIRS)
def test_a_set_has_enough_pairs_from_enough_frames(name) -> None:
    found = demo.pairs(name)
    assert len(found) >= 40
    assert found.paired
    assert found.name == name
    assert len(set(found.sources or ())) >= 8


@pytest.mark.parametrize("name", demo.PAIRS)
def test_no_text_stands_twice_or_on_both_sides(name) -> None:
    found = demo.pairs(name)
    texts = [*found.positive, *found.negative]
    assert len(set(texts)) == len(texts)


def test_the_three_well_known_pairs_are_not_among_them() -> None:
    ours = {text for name in demo.PAIRS for text in (*demo.pairs(name).positive, *demo.pairs(name).negative)}
    assert not ours & {*COOKBOOK.positive, *COOKBOOK.negative}


def test_no_pair_ends_in_a_prompt_of_the_tour() -> None:
    for text in (*demo.pairs("sentiment").positive, *demo.pairs("sentiment").negative):
        assert not any(str(text).endswith(prompt) for prompt in PROMPTS)


def test_both_sides_of_a_sentiment_pair_end_in_the_same_words_so_that_only_what_came_before_differs() -> None:
    found = demo.pairs("sentiment")
    for positive, negative in zip(found.positive, found.negative, strict=True):
        ends = [re.split(r"(?<=[.!]) ", str(text), maxsplit=1)[1] for text in (positive, negative)]
        assert ends[0] == ends[1]


def test_words_are_as_many_on_each_side_and_half_of_them_stand_in_no_pair() -> None:
    sides = {name: demo.words(name) for name in ("positive", "negative")}
    assert (
        len(sides["positive"]) == len(sides["negative"]) == len(set(sides["positive"])) == len(set(sides["negative"]))
    )
    text = " ".join(map(str, (*demo.pairs("sentiment").positive, *demo.pairs("sentiment").negative))).split()
    for words in sides.values():
        assert sum(word not in text for word in words) >= len(words) / 2


def test_every_vector_has_its_pairs() -> None:
    assert set(demo.VECTORS.values()) <= set(demo.PAIRS)


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(DataError, match="sentiment, formal"):
        demo.pairs("anger")
    with pytest.raises(DataError, match="happy, formal"):
        demo.vector("angry", None)  # type: ignore[arg-type]
