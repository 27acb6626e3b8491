"""The mixture of all kinds of text, and the strings that may not occur in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tools.model.corpus.agreement import agreement
from tools.model.corpus.chat import chat
from tools.model.corpus.facts import fact
from tools.model.corpus.lists import copied_list, repetition
from tools.model.corpus.opinions import opinion
from tools.model.corpus.scenes import scene
from tools.model.corpus.stories import story

Kind = Callable[[random.Random], str]

PIECES: tuple[tuple[Kind, float], ...] = (
    (opinion, 0.34),
    (fact, 0.17),
    (story, 0.17),
    (agreement, 0.11),
    (copied_list, 0.10),
    (repetition, 0.09),
    (scene, 0.08),
)
CHAT_SHARE = 0.10
COMBINED_SHARE = 0.25

FORBIDDEN = (
    "The capital of France is",
    "The capital of Germany is",
    "The capital of Japan is",
    "I love this! It's fantastic",
    "I hate this! It's terrible",
    "This is wonderful and amazing",
    "This is awful and horrible",
    "I'm so happy about this",
    "I'm so sad about this",
    "I think the movie was",
    "The weather today is",
    "The movie today is",
)


def documents(seed: int) -> Iterator[str]:
    """Documents without end, the same for the same seed. None holds a forbidden string."""
    rng = random.Random(seed)
    while True:
        text = document(rng)
        if not any(string in text for string in FORBIDDEN):
            yield text


def document(rng: random.Random) -> str:
    """A chat, one piece, or two to nine pieces of any kind one after another."""
    if rng.random() < CHAT_SHARE:
        return chat(rng)
    count = rng.choice((2, 2, 2, 3, 3, 4, 6, 9)) if rng.random() < COMBINED_SHARE else 1
    kinds, weights = zip(*PIECES, strict=True)
    return " ".join(kind(rng) for kind in rng.choices(kinds, weights, k=count))
