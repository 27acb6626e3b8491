"""Where the country is, layer by layer: patching one position's residual from one prompt into another."""

from __future__ import annotations

import random

import torch

from tools.model.abilities.subject import Edit, Subject
from tools.model.corpus import facts, lexicon


def flips(subject: Subject, frames: tuple[str, ...] = facts.TEST_FRAMES, pairs: int = 30) -> dict[str, list[float]]:
    """Share of the patched prompts that answer with the patched-in country's capital, by position and block."""
    rng = random.Random(4)
    chosen = [rng.sample(lexicon.capitals(), 2) for _ in range(pairs)]
    result = {"country": torch.zeros(len(subject.blocks)), "last": torch.zeros(len(subject.blocks))}
    for frame in frames:
        clean = [frame.format(country=one[0], name="Anna") for one, _ in chosen]
        corrupt = [frame.format(country=two[0], name="Anna") for _, two in chosen]
        answers = subject.tokens([one[1] for one, _ in chosen])
        countries = subject.tokens([two[0] for _, two in chosen])
        tokens, last = subject.encode(corrupt)
        source = subject.residuals(clean)[1:]
        for position, index in (("country", (tokens == countries[:, None]).int().argmax(1)), ("last", last)):
            for layer in range(len(subject.blocks)):
                patch = patched(source[layer], index)
                best = subject.logits(corrupt, {layer: patch}).argmax(-1)
                result[position][layer] += (best == answers).float().mean() / len(frames)
    return {position: [round(x, 3) for x in shares.tolist()] for position, shares in result.items()}


def patched(source: torch.Tensor, index: torch.Tensor) -> Edit:
    """The edit that takes the residual [n, time, width] at `index` [n] from `source`."""
    rows = torch.arange(len(index))

    def patch(resid: torch.Tensor) -> torch.Tensor:
        resid = resid.clone()
        resid[rows, index] = source[rows, index]
        return resid

    return patch
