"""Formality, tense and topic: vectors of matched texts, what they move, and a probe for the mood of the text so far."""

from __future__ import annotations

import dataclasses
import itertools
import random

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tools.model.abilities.subject import Subject, strongest
from tools.model.corpus import lexicon


@dataclasses.dataclass(frozen=True)
class Attribute:
    """Matched texts for a vector, and the words and prompts that measure it."""

    more: list[str]
    less: list[str]
    prompts: list[str]
    more_words: tuple[str, ...]
    less_words: tuple[str, ...]

    def vectors(self, subject: Subject) -> torch.Tensor:
        """Mean differences at the last token [blocks, width]."""
        return (subject.last_residuals(self.more).mean(1) - subject.last_residuals(self.less).mean(1))[1:]

    def shifts(self, subject: Subject, layer: int, vectors: torch.Tensor) -> torch.Tensor:
        """How far P(more words) - P(less words) at the next token moves from strength -2 to 2 of each vector: [n]."""
        chances = subject.chances(self.prompts, layer, torch.cat([2 * vectors, -2 * vectors]))
        found = chances[:, subject.tokens(self.more_words)].sum(1)
        if self.less_words:
            found = found - chances[:, subject.tokens(self.less_words)].sum(1)
        more, less = found.chunk(2)
        return more - less

    def shift(self, subject: Subject, layer: int, vector: torch.Tensor) -> float:
        """The same of one vector."""
        return self.shifts(subject, layer, vector[None]).item()

    def strongest_random(self, subject: Subject, layer: int, norm: float, count: int = 100) -> float:
        """The largest |shift| of random directions of the same norm."""
        return strongest(lambda found: self.shifts(subject, layer, found), subject.width, norm, count, seed=0)


NOUN_PAIRS = (
    ("hotel", "room"),
    ("movie", "plot"),
    ("soup", "cake"),
    ("song", "singer"),
    ("game", "team"),
    ("novel", "poem"),
)
FEELINGS = ("good", "bad", "lovely", "awful")


def formality() -> Attribute:
    """Formal against casual, read after the verb, measured by the intensifiers that follow one."""
    texts = {"formal": [], "casual": []}
    for (one, two), word, be in itertools.product(NOUN_PAIRS, FEELINGS, ("is", "was")):
        texts["formal"].append(f"Moreover, the {one} {be} rather {word}. Indeed, the {two} {be}")
        texts["casual"].append(f"Honestly, the {one} {be} super {word}! Yeah, the {two} {be}")
    return Attribute(
        texts["formal"],
        texts["casual"],
        [
            "The dinner was",
            "Today the lobby is",
            "The album is",
            "I think the match was",
            "The chapter was",
            "The exam is",
        ],
        lexicon.words("formal_intensifiers"),
        lexicon.words("casual_intensifiers"),
    )


def tense() -> Attribute:
    """Past against present, read at a noun, measured by the verb that follows."""
    texts = {"past": [], "present": []}
    for (one, two), word in itertools.product(NOUN_PAIRS, FEELINGS):
        texts["past"].append(f"The {one} was {word}. We found it {word}. The {two}")
        texts["present"].append(f"The {one} is {word}. We find it {word}. The {two}")
    return Attribute(
        texts["past"],
        texts["present"],
        ["The dinner", "Today the lobby", "The album", "The match here", "The chapter", "Okay, the exam"],
        ("was", "seemed"),
        ("is", "seems"),
    )


def topic(name: str = "food") -> Attribute:
    """One topic against the others, read at an article, measured by its nouns."""
    texts = {True: [], False: []}
    for other, nouns in lexicon.topics().items():
        for noun, word, be in itertools.product(nouns[:4], FEELINGS, ("is", "was")):
            texts[other == name].append(f"The {noun} {be} {word}. I think the")
    return Attribute(
        texts[True],
        texts[False],
        [
            "I love the",
            "Today the",
            "We talked about the",
            "I hate the",
            "It is said that the",
            "Anna thinks the",
        ],
        lexicon.topics()[name],
        (),
    )


def mood_texts(seed: int, count: int) -> tuple[list[str], list[int]]:
    """Texts that end on a noun that says nothing of the mood before it, and that mood; both in equal numbers."""
    rng = random.Random(seed)
    nouns = [noun for nouns in lexicon.topics().values() for noun in nouns]
    texts, labels = [], []
    for _ in range(count):
        one, two = rng.sample(nouns, 2)
        frame = rng.choice(
            (
                "The {one} was {word}. The {two}",
                "I think the {one} is {word}. Today the {two}",
                "We find the {one} {word}. I think the {two}",
                "The {one} here was {word}. This {two}",
            )
        )
        for label, mood in enumerate(("negative", "positive")):
            texts.append(frame.format(one=one, two=two, word=rng.choice(lexicon.words(mood))))
            labels.append(label)
    return texts, labels


def mood_probe(subject: Subject, count: int = 300) -> list[float]:
    """Accuracy of a linear probe for the mood, at the last token, before block 0 and after every block."""
    (train, train_labels), (test, test_labels) = mood_texts(1, count), mood_texts(2, count)
    scores = []
    for fit, check in zip(subject.last_residuals(train), subject.last_residuals(test), strict=True):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        probe.fit(fit.numpy(), train_labels)
        scores.append(round(float(probe.score(check.numpy(), test_labels)), 3))
    return scores
