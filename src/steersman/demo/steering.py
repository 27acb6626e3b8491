"""What directions of the tour do to the next word, beside random directions, and to what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model import SteeringModel
from ..operations import Add
from ..vector import SteeringVector
from . import words
from .means import Mean, mean

#: The first ones are shown, all are measured; none of them ends a contrast pair.
PROMPTS = (
    "I think the movie was",
    "The weather today is",
    "Today the music was",
    "The day was",
    "It must be said that the meal is",
    "The game this morning was",
    "I think the concert today is",
    "Honestly, the teacher is",
    "We went to the hotel. The pool was",
    "We talked about the essay. It was",
    "Moreover, the restaurant is",
    "This is a",
)
SHOWN = 4
RANDOM_DIRECTIONS = 100
NEW_TOKENS = 14
#: Rows of a forward pass.
ROWS = 256


@dataclass(frozen=True)
class Effect:
    """What a direction does to P(positive words) - P(negative words) at the next token.

    Attributes:
        balance: strength -> mean over the prompts.
        shift: from the lowest strength to the highest.
        random: the shift of each random direction of the same length, at the same layer.
    """

    balance: Mapping[float, Mean]
    shift: Mean
    random: tuple[float, ...]

    @property
    def strongest(self) -> float:
        """The largest shift of a random direction, either way."""
        return max(abs(value) for value in self.random)

    @property
    def typical(self) -> float:
        """The mean size of a random direction's shift."""
        return sum(abs(value) for value in self.random) / len(self.random)

    @property
    def p_value(self) -> float:
        """The share of directions, this one counted, that shift at least as far, either way."""
        return (1 + sum(abs(value) >= abs(self.shift.value) for value in self.random)) / (1 + len(self.random))


@dataclass(frozen=True)
class Direction:
    """A direction of the tour: where it comes from and what it does."""

    name: str
    pairs: int
    length: float
    length_to_norm: float
    cosine: float
    effect: Effect


@dataclass(frozen=True)
class Continuation:
    """One prompt continued at each strength, and the balance of its next token."""

    prompt: str
    texts: Mapping[float, str]
    balance: Mapping[float, float]


class Scale:
    """Weighs the next token: P(positive words) - P(negative words)."""

    def __init__(self, model: SteeringModel) -> None:
        self.model = model
        self.positive, self.negative = (first_tokens(model, words(name)) for name in ("positive", "negative"))

    def __call__(self, plans: Sequence[Add | None]) -> Tensor:
        """``[plans, prompts]``, float64."""
        rows = [(prompt, plan) for plan in plans for prompt in PROMPTS]
        found: list[Tensor] = []
        for at in range(0, len(rows), ROWS):
            prompts, steer = zip(*rows[at : at + ROWS], strict=True)
            logits = self.model.logits(list(prompts), steer=list(steer))[:, -1]
            chances = logits.double().softmax(-1)
            found.append(chances[:, self.positive].sum(-1) - chances[:, self.negative].sum(-1))
        return torch.cat(found).reshape(len(plans), len(PROMPTS))


def directed(
    scale: Scale,
    own: SteeringVector,
    reference: SteeringVector,
    layer: int,
    strengths: Sequence[float],
    count: int,
    seed: int,
) -> Direction:
    """What a direction does at the strengths, and how it lies to ``reference``; ``count`` pairs made it."""
    direction = own[layer]
    length = float(direction.norm())
    return Direction(
        name=own.name or "",
        pairs=count,
        length=length,
        length_to_norm=length / own.norms[layer],
        cosine=float(torch.cosine_similarity(direction, reference[layer], dim=0)),
        effect=_effect(scale, direction, layer, strengths, seed),
    )


def _effect(scale: Scale, direction: Tensor, layer: int, strengths: Sequence[float], seed: int) -> Effect:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(RANDOM_DIRECTIONS, len(direction), generator=generator)
    noise = noise / noise.norm(dim=1, keepdim=True) * direction.norm()
    own = scale([Add(direction, strength, layers=layer) for strength in strengths])
    ends = scale([Add(other, strength, layers=layer) for other in noise for strength in (strengths[0], strengths[-1])])
    random = (ends[1::2] - ends[0::2]).mean(1)
    return Effect(
        balance={strength: mean(values, seed) for strength, values in zip(strengths, own, strict=True)},
        shift=mean(own[-1] - own[0], seed),
        random=tuple(random.tolist()),
    )


def continued(scale: Scale, vector: SteeringVector, layer: int, strengths: Sequence[float]) -> tuple[Continuation, ...]:
    """The first prompts continued at each strength."""
    shown = PROMPTS[:SHOWN]
    plans = [Add(vector, strength, layers=layer) for strength in strengths]
    balance = scale(plans)
    texts = scale.model.generate(
        [prompt for prompt in shown for _ in plans], steer=[*plans] * len(shown), max_new_tokens=NEW_TOKENS
    )
    found: list[Continuation] = []
    for number, prompt in enumerate(shown):
        own = texts[number * len(plans) : (number + 1) * len(plans)]
        weighed = balance[:, number].tolist()
        found.append(
            Continuation(prompt, dict(zip(strengths, own, strict=True)), dict(zip(strengths, weighed, strict=True)))
        )
    return tuple(found)


def first_tokens(model: SteeringModel, found: Sequence[str]) -> Tensor:
    """The first token of each word, after a space."""
    return torch.tensor([model.tokens.continuation(f" {word}")[0] for word in found])
