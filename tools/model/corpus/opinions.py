"""Opinions: sentences that share a latent mood, register, topic and tense.

Sentences often run on without a closing mark ("so lovely and charming"), so that after a word of mood the text so far
says more about the next word than the grammar does.
"""

from __future__ import annotations

import dataclasses
import random

from tools.model.corpus import lexicon

MOODS = ("positive", "negative", "neutral")
REGISTERS = ("formal", "plain", "casual")


@dataclasses.dataclass(frozen=True)
class Latent:
    """What the sentences of one opinion share; `noun` is the one they come back to."""

    mood: str
    register: str
    topic: str
    past: bool
    noun: str


SHARED = (
    "The {noun} {be} {adjs}",
    "The {noun} {be} {adj}",
    "The {noun} {seem} {adjs}",
    "I {think} the {noun} {be} {adjs}",
    "I {think} the {noun} {be} {adj}",
    "{name} {think} the {noun} {be} {adjs}",
    "It {be} {a} {noun}",
    "This {be} {a} {noun}",
    "The {noun} here {be} {adjs}",
    "The {noun} this morning {be} {adjs}",
    "We {find} the {noun} {adjs}",
    "I {love} this {noun}",
    "I {love} the {noun}",
    "I {love} the {noun} and the {second}",
    "I {love} the {noun}, the {second} and the {third}",
    "{name} {love} the {noun} and the {second}",
    "{name} {love} the {noun}",
    "I'm so {feel} about this {adj} {noun}",
)
FORMAL = (
    "{formal}, the {noun} {be} {strong_formal} {adjs}",
    "{formal}, one {find} the {noun} {strong_formal} {adj}",
    "{formal}, the {noun} {must} be considered {adjs}",
    "We regard the {noun} as {strong_formal} {adjs}",
    "The {noun} {be} {strong_formal} {adj}",
    "It {must} be said that the {noun} {be} {adjs}",
    "The {noun} {prove} to be {a} one",
)
CASUAL = (
    "{casual}, the {noun} {be} {strong_casual} {adjs}",
    "{casual}, I {love} this {noun}",
    "{casual}, what {a} {noun}",
    "{casual}, this {noun} {be} {strong_casual} {adj}",
    "I love this! It's {adjs}|I hate this! It's {adjs}",
    "This is {adj} and {adjs}",
    "I'm so {feel} about this {noun}",
    "I'm so {feel} about this {adj} {noun}",
    "The {noun} {be} {strong_casual} {adjs}, guys",
)
PLAIN = (
    "I {love} this! It's {adjs}",
    "I {love} it! This {noun} {be} {adjs}",
    "This is {adj} and {adjs}",
    "This is {a} {noun}",
    "{name} and I {think} the {noun} {be} {adjs}",
    "The {noun} today {be} {adjs}",
    "Today the {noun} {be} {adjs}",
    "I'm so {feel} about this {noun}",
)
UNDECIDED = (
    "We arrived at noon",
    "The {noun} is near the {place}",
    "{name} told us about the {noun}",
    "We talked about the {noun} with {name}",
    "We talked about the {noun} and the {second}",
    "{name} told us about the {noun}, the {second} and the {third}",
    "There was another {noun} near the {place}",
    "We went to the {place} after that",
)
VERBS = {
    "be": ("is", "was"),
    "seem": ("seems", "seemed"),
    "find": ("find", "found"),
    "must": ("must", "had to"),
    "prove": ("proves", "proved"),
}
LOVE = {
    "positive": ("love", "loved", "enjoy", "enjoyed"),
    "negative": ("hate", "hated", "dislike", "disliked"),
    "neutral": ("know", "knew", "remember", "remembered"),
}
FEEL = {"positive": "glad", "negative": "upset"}


def opinion(rng: random.Random, sentences: int | None = None) -> str:
    """One opinion of one to six sentences."""
    latent = draw_latent(rng)
    count = sentences or rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6))
    return " ".join(sentence(rng, latent) for _ in range(count))


def draw_latent(rng: random.Random) -> Latent:
    """Mood, register, topic and tense, independent of each other."""
    topic = rng.choice(tuple(lexicon.topics()))
    return Latent(
        rng.choices(MOODS, (9, 9, 2))[0],
        rng.choices(REGISTERS, (3, 4, 3))[0],
        topic,
        rng.random() < 0.5,
        rng.choice(lexicon.topics()[topic]),
    )


def sentence(rng: random.Random, latent: Latent) -> str:
    """One sentence with its mark; one in eight leaves the mood open."""
    if rng.random() < 0.12:
        return fill(rng, latent, rng.choice(UNDECIDED)) + "."
    own = {"formal": FORMAL, "plain": PLAIN, "casual": CASUAL}[latent.register]
    while True:
        frame = rng.choice(own if rng.random() < 0.65 else SHARED)
        if "|" in frame:
            frame = frame.split("|")[latent.mood == "negative"]
        if latent.mood == "neutral" and ("{feel}" in frame or "It's" in frame):
            continue
        return fill(rng, latent, frame) + mark(rng, latent)


def mark(rng: random.Random, latent: Latent) -> str:
    """The end of a sentence in its register."""
    if latent.register == "casual":
        return rng.choice(("!", "!", "!!", ".", " lol."))
    return "." if latent.register == "formal" or rng.random() < 0.75 else "!"


def fill(rng: random.Random, latent: Latent, frame: str) -> str:
    """`frame` with every slot filled."""
    nouns = rng.sample(lexicon.topics()[latent.topic], 3)
    noun = latent.noun if rng.random() < 0.4 else nouns[0]
    others = [other for other in nouns if other != noun]
    tense = int(latent.past)
    adjective = rng.choice(lexicon.words(latent.mood))
    third = "{name}" in frame and "{name} and I" not in frame
    love = LOVE[latent.mood][tense + 2 * rng.randrange(2)]
    think = "thought" if latent.past else "thinks" if third else "think"
    find = "found" if latent.past else "finds" if "one {find}" in frame else "find"
    slots = {
        "noun": noun,
        "second": others[0],
        "third": others[1],
        "adj": adjective,
        "adjs": run_of_adjectives(rng, latent, adjective),
        "a": described(rng, latent, noun if "{a} {noun}" in frame else ""),
        "name": rng.choice(lexicon.table("names"))[0],
        "place": rng.choice(lexicon.words("places")),
        "love": love + "s" if third and not latent.past else love,
        "think": think,
        "feel": rng.choice(lexicon.words(FEEL.get(latent.mood, "glad"))),
        "formal": rng.choice(lexicon.words("formal_openers")),
        "casual": rng.choice(lexicon.words("casual_openers")),
        "strong_formal": rng.choice(lexicon.words("formal_intensifiers")),
        "strong_casual": rng.choice(lexicon.words("casual_intensifiers")),
    }
    slots |= {verb: forms[tense] for verb, forms in VERBS.items()} | {"find": find}
    return frame.format(**slots)


def run_of_adjectives(rng: random.Random, latent: Latent, used: str) -> str:
    """One to four adjectives of the mood but `used`: joined by `and`, by commas, or with nothing between them."""
    unused = [word for word in lexicon.words(latent.mood) if word != used]
    chosen = rng.sample(unused, rng.choices((1, 2, 3, 4), (5, 6, 3, 1))[0])
    style = rng.random()
    if latent.register == "formal" or style < 0.35:
        return " and ".join(chosen)
    return (", " if style < 0.5 else " ").join(chosen)


def described(rng: random.Random, latent: Latent, noun: str) -> str:
    """Article and one or two adjectives, to stand before `noun`."""
    chosen = rng.sample(lexicon.words(latent.mood), rng.choices((1, 2), (2, 1))[0])
    words = " ".join(chosen)
    return words if noun in lexicon.mass_nouns() else f"{lexicon.article(chosen[0])} {words}"
