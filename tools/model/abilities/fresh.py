"""Frames and words that nobody had looked at when the recipe was made and the weights were chosen.

They lie in `tools/model/fresh`, were written before anything was measured on them, and were measured once. A frame is
made of words that the corpus uses, in an order in which it never does. The words (names, nouns, things to list) occur
nowhere in the corpus at all, so that each of them is several tokens the model has never seen together; every frame is
therefore also measured with words that the corpus does use in that role.
"""

from __future__ import annotations

import functools
import math
import random
from pathlib import Path

import torch

from tools.model.abilities import heads, movement, sentiment
from tools.model.abilities.recall import Edits, capital_prompts
from tools.model.abilities.subject import Subject
from tools.model.corpus import lexicon
from tools.model.corpus.stories import fix_articles

FRESH = Path(__file__).resolve().parents[1] / "fresh"
Task = tuple[str, str]
FORMS = (("is", "was"), ("are", "were"))


@functools.cache
def lines(name: str) -> tuple[str, ...]:
    """The lines of a file of `tools/model/fresh`."""
    return tuple((FRESH / f"{name}.txt").read_text().split("\n")[:-1])


@functools.cache
def columns(name: str) -> tuple[tuple[str, ...], ...]:
    """The same, split at tabs."""
    return tuple(tuple(line.split("\t")) for line in lines(name))


def capitals() -> list[Task]:
    """(prompt, capital) of every country in every frame; there are no capitals the corpus does not hold."""
    return capital_prompts(lines("capital_frames"))


def stories(words: bool, count: int = 300, seed: int = 11) -> list[tuple[str, str, str]]:
    """(prompt, indirect object, subject), with words the corpus never holds or with those of its stories."""
    rng = random.Random(seed)
    names, places, objects = (
        (lines("names"), lines("places"), lines("objects"))
        if words
        else (lexicon.names(), lexicon.places(), lexicon.objects())
    )
    found = []
    for _ in range(count):
        a, b = rng.sample(names, 2)
        giver, taker = rng.sample((a, b), 2)
        text = f"{rng.choice(lines('story_openings'))} {rng.choice(lines('story_gifts'))}"
        text = text.format(a=a, b=b, giver=giver, place=rng.choice(places), object=rng.choice(objects))
        found.append((fix_articles(text), taker, giver))
    return found


def subjects(words: bool, count: int = 300, seed: int = 12) -> list[tuple[str, int]]:
    """(prompt, 0 for a singular subject or 1 for a plural one); every attractor has the other number."""
    rng = random.Random(seed)
    nouns = columns("plurals") if words else lexicon.noun_pairs()
    found = []
    for _ in range(count):
        one, two = rng.sample(nouns, 2)
        number = rng.randrange(2)
        frame = rng.choice(lines("agreement_frames"))
        found.append((frame.format(subject=one[number], attractor=two[1 - number]), number))
    return found


def lists(words: bool, count: int = 100, seed: int = 13) -> list[Task]:
    """(a list and the beginning of its repetition, the next word)."""
    rng = random.Random(seed)
    known = lines("list_words") if words else lexicon.list_words()
    found = []
    for _ in range(count):
        listed = rng.sample(known, rng.choice((3, 4, 5)))
        first, again = rng.choice(columns("list_frames"))
        for so_far in range(len(listed)):
            said = "".join(f" {word}," for word in listed[:so_far])
            found.append((f"{first} {', '.join(listed)}. {again}{said}", listed[so_far]))
    return found


def written(subject: Subject, tasks: list[Task], z: Edits | None = None) -> torch.Tensor:
    """Whether greedy decoding writes the whole answer after the prompt, every token of it: [n], 0 or 1."""
    texts, spans = [], []
    for prompt, answer in tasks:
        start = len(subject.tokenizer(prompt)["input_ids"])
        whole = subject.tokenizer(f"{prompt} {answer}")["input_ids"]
        if whole[:start] != subject.tokenizer(prompt)["input_ids"]:
            raise ValueError(f"{prompt!r} is tokenised otherwise before {answer!r}")
        texts.append(f"{prompt} {answer}")
        spans.append((start, whole[start:]))
    best = subject.logits(texts, z=z, everywhere=True).argmax(-1)
    return torch.tensor(
        [
            float(best[row, start - 1 : start - 1 + len(answer)].tolist() == answer)
            for row, (start, answer) in enumerate(spans)
        ]
    )


def agrees(subject: Subject, tasks: list[tuple[str, int]]) -> torch.Tensor:
    """Whether `is`, `was` outweigh `are`, `were`, or the reverse, as the subject asks: [n], 0 or 1."""
    chances = subject.logits([prompt for prompt, _ in tasks]).softmax(-1)
    forms = torch.stack([chances[:, subject.tokens(pair)].sum(-1) for pair in FORMS], dim=1)
    return (forms.argmax(-1) == torch.tensor([number for _, number in tasks])).float()


def difference(subject: Subject, tasks: list[tuple[str, str, str]], z: Edits | None = None) -> float:
    """The mean logit of the indirect object's first token over that of the subject."""
    prompts, takers, givers = zip(*tasks, strict=True)
    logits, rows = subject.logits(list(prompts), z=z), torch.arange(len(prompts))
    right, wrong = (
        torch.tensor([subject.tokenizer(f" {name}", add_special_tokens=False)["input_ids"][0] for name in names])
        for names in (takers, givers)
    )
    return (logits[rows, right] - logits[rows, wrong]).mean().item()


def report(subject: Subject, layer: int, head: tuple[int, int], randoms: int = 100) -> dict[str, object]:
    """Everything measured here.

    Args:
        subject: the model.
        layer: where the sentiment vector acts, chosen elsewhere.
        head: (block, head) to go without, chosen elsewhere.
        randoms: random directions, others than elsewhere.
    """
    found: dict[str, object] = {"capitals": share(written(subject, capitals()))}
    for words in (False, True):
        kind = "fresh_words" if words else "known_words"
        told = stories(words)
        found[f"indirect_object_{kind}"] = share(written(subject, [(prompt, taker) for prompt, taker, _ in told]))
        found[f"agreement_{kind}"] = share(agrees(subject, subjects(words)))
        found[f"copying_{kind}"] = share(written(subject, lists(words)))
    flips = movement.flips(subject, lines("capital_frames"))
    found["flips"] = flips
    prompts = list(lines("sentiment_prompts"))
    vector = sentiment.vectors(subject, sentiment.POSITIVE, sentiment.NEGATIVE)[layer]
    found["sentiment_shift"] = sentiment.shift(subject, prompts, layer, vector)
    found["sentiment_random"] = sentiment.strongest_random(
        subject, prompts, layer, vector.norm().item(), randoms, seed=1
    )
    at, which = head
    without = {at: heads.without_head(subject, which)}
    told = stories(False)
    found["head_difference_left"] = difference(subject, told, without) / difference(subject, told)
    found["head_capitals_left"] = written(subject, capitals(), without).mean().item()
    return found


def share(right: torch.Tensor) -> tuple[float, float, float, int]:
    """The share of ones, its 95% interval by Wilson's formula, and how many there were."""
    n, p, z = len(right), right.mean().item(), 1.96
    middle, half = (p + z * z / (2 * n)), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n), n
