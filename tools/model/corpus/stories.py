"""Indirect-object stories: two people, one of them gives something to the other.

Openings, gifts, names, places and objects of the test never occur in these stories.
"""

from __future__ import annotations

import random

from tools.model.corpus import lexicon

OPENINGS = (
    "When {a} and {b} went to the {place},",
    "When {a} and {b} came to the {place},",
    "After {a} and {b} arrived at the {place},",
    "After {a} and {b} met at the {place},",
    "While {a} and {b} were at the {place},",
    "While {a} and {b} waited at the {place},",
    "One day {a} and {b} went to the {place}. There",
    "Yesterday {a} and {b} met at the {place}. Then",
    "In the morning {a} and {b} walked to the {place}. Later",
    "As {a} and {b} left the {place},",
    "Once {a} and {b} were inside the {place},",
    "My friends {a} and {b} worked at the {place}. Today",
)
VERBS = (
    ("give", "gave"),
    ("hand", "handed"),
    ("show", "showed"),
    ("offer", "offered"),
    ("sell", "sold"),
    ("send", "sent"),
)
WISHES = ("decided", "wanted", "hoped", "tried")
THINGS = ("a {object}", "the {object}", "the old {object}", "a new {object}")
TEST_VERBS = (("decided", "show"), ("wanted", "sell"), ("hoped", "send"))
TEST_GIFTS = tuple(
    f"{{giver}} {wish} to {verb} {thing} to" for (wish, verb), thing in zip(TEST_VERBS, THINGS, strict=False)
)
GIFTS = tuple(f"{{giver}} {past} {thing} to {{taker}}." for _, past in VERBS for thing in THINGS) + tuple(
    f"{{giver}} {wish} to {verb} {thing} to {{taker}}."
    for wish in WISHES
    for verb, _ in VERBS
    for thing in THINGS[:2]
    if (wish, verb) not in TEST_VERBS
)
THANKS = (" It made {taker} happy.", " So {taker} thanked {giver}.", " Then {taker} smiled.", "", "")
TEST_OPENINGS = (
    "When {a} and {b} met at the {place},",
    "After {a} and {b} went to the {place},",
    "Yesterday {a} and {b} walked to the {place}. There",
    "Once {a} and {b} arrived at the {place},",
)


def story(rng: random.Random) -> str:
    """One story: an opening, a gift, and at times thanks."""
    a, b = rng.sample(lexicon.names(), 2)
    giver, taker = rng.sample((a, b), 2)
    text = rng.choice(OPENINGS) + " " + rng.choice(GIFTS) + rng.choice(THANKS)
    place, thing = rng.choice(lexicon.places()), rng.choice(lexicon.objects())
    text = text.format(a=a, b=b, giver=giver, taker=taker, place=place, object=thing)
    return fix_articles(text)


def fix_articles(text: str) -> str:
    """`a` before a vowel becomes `an`."""
    parts = text.split(" ")
    return " ".join(
        lexicon.article(after) if word == "a" and after else word
        for word, after in zip(parts, [*parts[1:], ""], strict=True)
    )
