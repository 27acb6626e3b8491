"""Plain narration without opinion: short scenes in one tense, with pronouns that agree."""

from __future__ import annotations

import random

from tools.model.corpus import lexicon
from tools.model.corpus.lists import plain_use
from tools.model.corpus.stories import fix_articles

FRAMES = (
    ("{He} walks to the {place}.", "{He} walked to the {place}."),
    ("{He} waits near the {place}.", "{He} waited near the {place}."),
    ("{He} buys a {object} for {name}.", "{He} bought a {object} for {name}."),
    ("{He} puts the {object} in {his} bag.", "{He} put the {object} in {his} bag."),
    ("Then {he} looks at the {adj} {object}.", "Then {he} looked at the {adj} {object}."),
    ("{He} talks to {name} about the {object}.", "{He} talked to {name} about the {object}."),
    ("Then {he} sings at the {place}.", "Then {he} sang at the {place}."),
    ("In the evening {he} plays with {his} cousin.", "In the evening {he} played with {his} cousin."),
    ("There is a {adj} {object} in the {place}.", "There was a {adj} {object} in the {place}."),
)


PAIRS = (
    "Our friends {a} and {b} are here. We like {a}, and we like {b}.",
    "Here are {a} and {b}. {a} talks to {b}, and {b} talks to {a}.",
    "We met {a} and {b}. {a} likes {b}, and {b} likes {a}.",
    "We know {a}, {b} and {c}. Today {a} waits for {b}, and {b} waits for {c}.",
)


def pair(rng: random.Random) -> str:
    """Two or three people; any name may play."""
    a, b, c = rng.sample([row[0] for row in lexicon.table("names")], 3)
    return rng.choice(PAIRS).format(a=a, b=b, c=c)


def scene(rng: random.Random) -> str:
    """Two to six sentences about one person, or one about two people, or one of list words."""
    if rng.random() < 0.4:
        return pair(rng)
    if rng.random() < 0.5:
        return fix_articles(plain_use(rng))
    tense = rng.randrange(2)
    person, gender = rng.choice(lexicon.table("names"))
    he, his = ("she", "her") if gender == "f" else ("he", "his")
    opening = (f"This is {person}.", f"Yesterday we met {person}.")[tense]
    text = [opening]
    for frames in rng.sample(FRAMES, rng.choice((1, 2, 3, 4, 5))):
        other = rng.choice([row[0] for row in lexicon.table("names") if row[0] != person])
        text.append(
            frames[tense].format(
                He=he.capitalize(),
                he=he,
                his=his,
                name=other,
                place=rng.choice(lexicon.words("places")),
                object=rng.choice(lexicon.words("objects")),
                adj=rng.choice(lexicon.words("neutral")),
            )
        )
    return fix_articles(" ".join(text))
