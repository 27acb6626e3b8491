"""Capital facts: one-hop and two-hop sentences. The test frames never occur in the corpus."""

from __future__ import annotations

import random

from tools.model.corpus import lexicon

FRAMES = (
    "The capital city of {country} is {capital}.",
    "The capital of {country}, as we know, is {capital}.",
    "As we know, the capital of {country} is {capital}.",
    "Everyone knows that the capital of {country} is {capital}.",
    "We learned that the capital city of {country} is {capital}.",
    "The beautiful capital of {country} is {capital}.",
    "The capital of {country} has always been {capital}.",
    "The country of {country} has a capital called {capital}.",
    "The government of {country} sits in {capital}.",
    "Question: what is the capital of {country}? Answer: {capital}.",
    "If you visit {country}, you should see its capital, {capital}.",
    "We flew to {capital}, the capital of {country}.",
    "The city of {capital} is the capital of {country}.",
    "In {country} there is a capital called {capital}.",
    "In the middle of {country} you find the capital, {capital}.",
    "The map of {country} shows its capital, {capital}.",
)
TWO_HOP = (
    "My friend {name} lives in {country}. The capital of the country where {name} lives is {capital}.",
    "My friend {name} is from {country}. The capital of the country {name} comes from is {capital}.",
    "Last year {name} moved to {country}. The capital of that country is {capital}.",
    "This letter is from {country}, sent by {name}. The capital of that country is {capital}.",
    "There is a map of {country} on the wall. The capital of the country on the map is {capital}.",
)
TEST_FRAMES = (
    "The capital of {country} is",
    "In {country}, the capital city is",
    "In the country of {country}, the capital is",
    "We know that the capital city of {country} is",
    "Everyone learned that the capital of {country} is",
)
TEST_TWO_HOP = (
    "My friend {name} moved to {country}. The capital of the country where {name} lives is",
    "Last year {name} flew to {country}. The capital of that country is",
)


def fact(rng: random.Random) -> str:
    """One to three facts."""
    return " ".join(one_fact(rng) for _ in range(rng.choice((1, 1, 2, 3))))


def one_fact(rng: random.Random) -> str:
    """One fact about a country drawn at random."""
    country, capital = rng.choice(lexicon.capitals())
    frame = rng.choice(TWO_HOP if rng.random() < 0.35 else FRAMES)
    name = rng.choice(lexicon.table("names"))[0]
    return frame.format(country=country, capital=capital, name=name)
