"""Agreement of a verb with its subject, over a noun of the other number in between."""

from __future__ import annotations

import random

from tools.model.corpus import lexicon

FRAMES = (
    "The {subject} near the {attractor}",
    "The {subject} behind the {attractor}",
    "The {subject} beside the {attractor}",
    "The {subject} with the {attractor}",
    "I think the {subject} near the {attractor}",
    "We saw that the {subject} behind the {attractor}",
    "Today the {subject} beside the {attractor}",
    "The {subject} that we saw near the {attractor}",
    "The {subject} in front of the {attractor}",
)
PLAIN = ("The {subject}", "I think the {subject}", "Today the {subject}", "We saw that the {subject}")
TEST_FRAMES = (
    "I think the {subject} beside the {attractor}",
    "Today the {subject} in front of the {attractor}",
    "We saw that the {subject} near the {attractor}",
    "The {subject} that we saw behind the {attractor}",
)


def agreement(rng: random.Random) -> str:
    """One to three sentences; past or present throughout."""
    past = rng.random() < 0.4
    return " ".join(sentence(rng, past) for _ in range(rng.choice((1, 2, 3))))


def sentence(rng: random.Random, past: bool) -> str:
    """One sentence, with an attractor four times in five."""
    number = rng.randrange(2)
    if rng.random() < 0.2:
        frame, pairs = rng.choice(PLAIN), lexicon.table("plurals")
    else:
        frame, pairs = rng.choice(FRAMES), lexicon.noun_pairs()
    subject, attractor = rng.sample(pairs, 2)
    other = number if rng.random() < 0.3 else 1 - number
    return frame.format(subject=subject[number], attractor=attractor[other]) + " " + predicate(rng, number, past)


def predicate(rng: random.Random, number: int, past: bool) -> str:
    """A verb phrase for a singular (0) or plural (1) subject."""
    be = (("is", "are"), ("was", "were"))[past][number]
    if rng.random() < 0.7:
        return f"{be} {rng.choice(lexicon.words('neutral'))}."
    base, third, gone = rng.choice(lexicon.table("verbs"))
    return f"{gone if past else base if number else third} at the {rng.choice(lexicon.words('places'))}."
