"""Capitals, indirect objects, agreement and list copying, on frames and fillers the corpus never held."""

from __future__ import annotations

import random
import re

import torch

from tools.model.abilities.subject import Edit, Subject
from tools.model.corpus import agreement, facts, lexicon, lists, stories
from tools.model.corpus.stories import fix_articles

Edits = dict[int, Edit]


def capital_prompts(frames: tuple[str, ...] = facts.TEST_FRAMES) -> list[tuple[str, str]]:
    """(prompt, capital) for every country in every frame."""
    return [
        (frame.format(country=country, name="Anna"), capital)
        for frame in frames
        for country, capital in lexicon.capitals()
    ]


def capitals(subject: Subject, frames: tuple[str, ...] = facts.TEST_FRAMES, z: Edits | None = None) -> float:
    """Share of the prompts after which the capital is the most likely token."""
    prompts, answers = zip(*capital_prompts(frames), strict=True)
    best = subject.logits(list(prompts), z=z).argmax(-1)
    return (best == subject.tokens(answers)).float().mean().item()


def story_prompts(count: int, test: bool = True, seed: int = 1) -> list[tuple[str, str, str]]:
    """(prompt, indirect object, subject) with held-out frames and fillers, or with those of the corpus."""
    rng = random.Random(seed)
    openings, gifts = (stories.TEST_OPENINGS, stories.TEST_GIFTS) if test else (stories.OPENINGS, stories.GIFTS)
    found = []
    for _ in range(count):
        a, b = rng.sample(lexicon.names(test), 2)
        giver, taker = rng.sample((a, b), 2)
        text = rng.choice(openings) + " " + re.sub(r" \{taker\}.*", "", rng.choice(gifts))
        place, thing = rng.choice(lexicon.places(test)), rng.choice(lexicon.objects(test))
        found.append((fix_articles(text.format(a=a, b=b, giver=giver, place=place, object=thing)), taker, giver))
    return found


def indirect_object(
    subject: Subject, count: int = 300, test: bool = True, z: Edits | None = None
) -> tuple[float, float]:
    """Share of top-1 answers, and the mean logit of the indirect object over that of the subject."""
    prompts, takers, givers = zip(*story_prompts(count, test), strict=True)
    logits = subject.logits(list(prompts), z=z)
    rows, right, wrong = torch.arange(count), subject.tokens(takers), subject.tokens(givers)
    accuracy = (logits.argmax(-1) == right).float().mean().item()
    return accuracy, (logits[rows, right] - logits[rows, wrong]).mean().item()


def agreement_accuracy(subject: Subject, count: int = 300, test: bool = True, seed: int = 2) -> float:
    """Share of the prompts after which `is`, `was` outweigh `are`, `were`, or the reverse, as the subject asks.

    Every attractor has the other number.
    """
    rng = random.Random(seed)
    frames = agreement.TEST_FRAMES if test else agreement.FRAMES
    prompts, numbers = [], []
    for _ in range(count):
        one, two = rng.sample(lexicon.noun_pairs(test), 2)
        number = rng.randrange(2)
        prompts.append(rng.choice(frames).format(subject=one[number], attractor=two[1 - number]))
        numbers.append(number)
    chances = subject.logits(prompts).softmax(-1)
    forms = torch.stack([chances[:, subject.tokens(pair)].sum(-1) for pair in (("is", "was"), ("are", "were"))], dim=1)
    return (forms.argmax(-1) == torch.tensor(numbers)).float().mean().item()


def copying(subject: Subject, count: int = 100, test: bool = True, seed: int = 3) -> float:
    """Share of right top-1 tokens among the words of the second list, its first word included."""
    rng = random.Random(seed)
    frames = lists.TEST_FRAMES if test else lists.FRAMES
    prompts, answers = [], []
    for _ in range(count):
        words = rng.sample(lexicon.list_words(test), rng.choice((3, 4, 5)))
        first, again = rng.choice(frames)
        for known in range(len(words)):
            prompts.append(f"{first} {', '.join(words)}. {again} {', '.join(words[:known])}" + "," * (known > 0))
            prompts[-1] = prompts[-1].rstrip(" ")
            answers.append(words[known])
    best = subject.logits(prompts).argmax(-1)
    return (best == subject.tokens(answers)).float().mean().item()
