"""Every ability of one model folder, as a dictionary of plain numbers."""

from __future__ import annotations

import dataclasses

import torch

from tools.model.abilities import attributes, heads, movement, recall, sentiment
from tools.model.abilities.subject import Subject
from tools.model.corpus import facts

Numbers = dict[str, object]


@dataclasses.dataclass(frozen=True)
class Choice:
    """The layer of each vector, chosen where no reported number is measured."""

    layer: int
    dev_scores: list[float]


def report(subject: Subject, randoms: int = 100) -> Numbers:
    """All measurements, in the order of the module names."""
    found: Numbers = {"parameters": sum(p.numel() for p in subject.model.parameters())}
    found |= recall_numbers(subject)
    choice = choose_layer(subject)
    found |= sentiment_numbers(subject, choice, randoms)
    found |= attribute_numbers(subject, choice.layer, randoms)
    found["flips"] = movement.flips(subject)
    found |= head_numbers(subject)
    found |= norm_numbers(subject)
    return found


def recall_numbers(subject: Subject) -> Numbers:
    """Accuracies on held-out frames and fillers."""
    accuracy, difference = recall.indirect_object(subject)
    return {
        "capitals": recall.capitals(subject),
        "capitals_by_frame": {frame: round(recall.capitals(subject, (frame,)), 3) for frame in facts.TEST_FRAMES},
        "capitals_two_hop": recall.capitals(subject, facts.TEST_TWO_HOP),
        "indirect_object": accuracy,
        "indirect_object_logit_difference": difference,
        "agreement": recall.agreement_accuracy(subject),
        "copying": recall.copying(subject),
    }


def choose_layer(subject: Subject, randoms: int = 20) -> Choice:
    """The block whose sentiment vector best beats random directions on the development prompts.

    The score is the shift over the strongest random shift, counted as no less than 0.05. Blocks of the first third,
    and blocks whose vector's logit lens does not show the words, count for a hundredth.
    """
    vectors = sentiment.vectors(subject, sentiment.POSITIVE, sentiment.NEGATIVE)
    scores = []
    for layer, vector in enumerate(vectors):
        moved = sentiment.shift(subject, sentiment.DEV_PROMPTS, layer, vector)
        control = sentiment.strongest_random(subject, sentiment.DEV_PROMPTS, layer, vector.norm().item(), randoms)
        seen = min(sentiment.lens(subject, vector)[:2]) >= 8
        allowed = layer >= len(subject.blocks) // 3 and seen
        scores.append(moved / max(control, 0.05) * (1.0 if allowed else 0.01))
    return Choice(int(torch.tensor(scores).argmax()), [round(score, 2) for score in scores])


def sentiment_numbers(subject: Subject, choice: Choice, randoms: int) -> Numbers:
    """The shift at the chosen layer, its control and the logit lens; the shift and lens of every layer besides."""
    vectors = sentiment.vectors(subject, sentiment.POSITIVE, sentiment.NEGATIVE)
    vector = vectors[choice.layer]
    plus, minus, boosted, suppressed = sentiment.lens(subject, vector)
    strengths = torch.arange(-2.0, 3.0)
    found = sentiment.balances(subject, sentiment.PROMPTS, choice.layer, strengths[:, None] * vector)
    balances = {int(strength): value for strength, value in zip(strengths.tolist(), found.tolist(), strict=True)}
    return {
        "layer": choice.layer,
        "layer_scores": choice.dev_scores,
        "sentiment_balance": balances,
        "sentiment_shift": balances[2] - balances[-2],
        "sentiment_random": sentiment.strongest_random(
            subject, sentiment.PROMPTS, choice.layer, vector.norm().item(), randoms
        ),
        "lens": (plus, minus),
        "lens_with_gain": sentiment.lens(subject, vector, gain=True)[:2],
        "lens_boosted": boosted,
        "lens_suppressed": suppressed,
        "sentiment_shift_by_layer": [
            round(sentiment.shift(subject, sentiment.PROMPTS, layer, v), 3) for layer, v in enumerate(vectors)
        ],
        "lens_by_layer": [sentiment.lens(subject, v)[:2] for v in vectors],
    }


def attribute_numbers(subject: Subject, layer: int, randoms: int) -> Numbers:
    """The mood probe, and what the vectors of formality, tense and topic move."""
    mood = sentiment.vectors(subject, sentiment.POSITIVE, sentiment.NEGATIVE)[layer]
    found: Numbers = {"mood_probe": attributes.mood_probe(subject)}
    for name, attribute in (
        ("formality", attributes.formality()),
        ("tense", attributes.tense()),
        ("topic", attributes.topic()),
    ):
        vectors = attribute.vectors(subject)
        vector = vectors[layer]
        found[name] = {
            "shift": attribute.shift(subject, layer, vector),
            "random": attribute.strongest_random(subject, layer, vector.norm().item(), randoms),
            "cosine_with_sentiment": torch.nn.functional.cosine_similarity(vector, mood, dim=0).item(),
            "shift_by_layer": [round(attribute.shift(subject, at, v), 3) for at, v in enumerate(vectors)],
        }
    return found


def head_numbers(subject: Subject) -> Numbers:
    """The head that the indirect object needs most."""
    whole, left = heads.head_map(subject)
    layer, head, share, capitals = heads.best_head(subject, left)
    return {
        "head": (layer, head),
        "head_difference_left": share,
        "head_capitals_left": capitals,
        "head_map_difference": whole,
        "head_map": [[round(x, 2) for x in row] for row in left.tolist()],
    }


def norm_numbers(subject: Subject) -> Numbers:
    """Median residual norms by block, BOS excluded."""
    norms = [
        subject.residuals([prompt])[1:, :, 1:].norm(dim=-1).squeeze(1)
        for prompt in sentiment.PROMPTS + sentiment.DEV_PROMPTS + [text for text, _ in recall.capital_prompts()[:50]]
    ]
    medians = torch.cat(norms, dim=1).median(dim=1).values
    return {
        "norms": [round(x, 2) for x in medians.tolist()],
        "norm_growth": (medians[-1] / medians[0]).item(),
    }
