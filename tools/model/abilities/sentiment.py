"""Sentiment: the vector of three contrast pairs, what it moves, against random directions, and its logit lens."""

from __future__ import annotations

import torch

from tools.model.abilities.subject import Subject, strongest
from tools.model.corpus import lexicon

POSITIVE = ["I love this! It's fantastic", "This is wonderful and amazing", "I'm so happy about this"]
NEGATIVE = ["I hate this! It's terrible", "This is awful and horrible", "I'm so sad about this"]
PROMPTS = ["I think the movie was", "The weather today is", "The movie today is"]
DEV_PROMPTS = [
    "The hotel was",
    "I think the soup is",
    "Today the music was",
    "We found the book",
    "I think the teacher was",
    "The room is",
    "The game today was",
    "It is said that the band is",
]


def vectors(subject: Subject, positive: list[str], negative: list[str]) -> torch.Tensor:
    """Mean differences at the last token [blocks, width], of `resid_post`."""
    return (subject.last_residuals(positive).mean(1) - subject.last_residuals(negative).mean(1))[1:]


def balances(subject: Subject, prompts: list[str], layer: int, vectors: torch.Tensor) -> torch.Tensor:
    """P(positive words) - P(negative words) at the next token, mean over `prompts`, of each vector at the last: [n]."""
    chances = subject.chances(prompts, layer, vectors)
    plus, minus = (chances[:, subject.tokens(lexicon.words(name))].sum(1) for name in ("positive", "negative"))
    return plus - minus


def shifts(
    subject: Subject, prompts: list[str], layer: int, vectors: torch.Tensor, strength: float = 2.0
) -> torch.Tensor:
    """How far the balance moves from -strength to +strength of each vector: [n]."""
    more, less = balances(subject, prompts, layer, torch.cat([strength * vectors, -strength * vectors])).chunk(2)
    return more - less


def shift(subject: Subject, prompts: list[str], layer: int, vector: torch.Tensor) -> float:
    """How far the balance moves from -2 to +2."""
    return shifts(subject, prompts, layer, vector[None]).item()


def strongest_random(
    subject: Subject, prompts: list[str], layer: int, norm: float, count: int = 100, seed: int = 0
) -> float:
    """The largest |shift| of `count` random directions of the same norm."""
    return strongest(lambda found: shifts(subject, prompts, layer, found), subject.width, norm, count, seed)


def lens(
    subject: Subject, vector: torch.Tensor, top: int = 20, gain: bool = False
) -> tuple[int, int, list[str], list[str]]:
    """Positive adjectives among the `top` boosted tokens, negative among the suppressed ones, and the tokens."""
    if gain:
        vector = vector * subject.model.transformer.ln_f.weight.detach()
    order = (subject.model.lm_head.weight.detach() @ vector).argsort(descending=True)
    boosted, suppressed = order[:top], order.flip(0)[:top]
    found = [
        len(set(chosen.tolist()) & set(subject.tokens(lexicon.words(name)).tolist()))
        for chosen, name in ((boosted, "positive"), (suppressed, "negative"))
    ]
    decode = subject.tokenizer.decode
    return *found, [decode([i]) for i in boosted], [decode([i]) for i in suppressed]
