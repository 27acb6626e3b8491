"""Where information moves: residuals of one prompt put into another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..extraction import capture
from ..model import SteeringModel
from ..operations import Replace
from .means import Mean, mean
from .steering import ROWS, first_tokens

CAPITAL_OF = "The capital of {} is"
#: Country and capital; each stands once as the prompt, once as the source and once as the control.
CAPITALS = (
    ("Germany", "Berlin"),
    ("France", "Paris"),
    ("Italy", "Rome"),
    ("Spain", "Madrid"),
    ("Japan", "Tokyo"),
    ("Greece", "Athens"),
    ("Egypt", "Cairo"),
    ("Norway", "Oslo"),
    ("Russia", "Moscow"),
    ("Ireland", "Dublin"),
)


@dataclass(frozen=True)
class Movement:
    """Where the answer can be exchanged: P(capital of the source country) when one token's residual is replaced.

    Attributes:
        subject, last: layer -> mean over the countries, replaced at the country's own token, or at the last token.
        control: the same at the country's token, with the residual of a third country.
        own, other: of the untouched prompt: P(its own capital), P(the source's capital).
        example: prompt, source, own and source's capital, and P(source's capital) by layer at either token.
    """

    subject: tuple[Mean, ...]
    last: tuple[Mean, ...]
    control: tuple[Mean, ...]
    own: Mean
    other: Mean
    example: Example


@dataclass(frozen=True)
class Example:
    """One of the exchanges that a :class:`Movement` averages over."""

    prompt: str
    source: str
    own: str
    answer: str
    before: float
    subject: tuple[float, ...]
    last: tuple[float, ...]


def move(model: SteeringModel, seed: int) -> Movement:
    """Residuals of "The capital of France is" put into "The capital of Germany is", layer by layer, and so on."""
    prompts = [CAPITAL_OF.format(country) for country, _ in CAPITALS]
    answers = first_tokens(model, [capital for _, capital in CAPITALS])
    hidden = capture(model, prompts)
    ids = [model.tokens.encode(prompt) for prompt in prompts]
    place = next(i for i, (a, b) in enumerate(zip(ids[0], ids[1], strict=True)) if a != b)
    count = len(CAPITALS)
    source, third = ([(i + step) % count for i in range(count)] for step in (1, 2))
    base = model.logits(prompts)[:, -1].double().softmax(-1)

    def chances(origin: Sequence[int], at: int) -> Tensor:
        """``[layers, countries]``: P(source's capital) after the residual of another prompt is put in."""
        positions = f"prompt[{at}]"
        rows = [
            (prompts[i], Replace(hidden[origin[i]][layer][at], layers=layer, positions=positions), i)
            for layer in range(model.n_layers)
            for i in range(count)
        ]
        found: list[float] = []
        for begin in range(0, len(rows), ROWS):
            part = rows[begin : begin + ROWS]
            logits = model.logits([row[0] for row in part], steer=[row[1] for row in part])[:, -1]
            spread = logits.double().softmax(-1)
            found += [float(spread[n, answers[source[row[2]]]]) for n, row in enumerate(part)]
        return torch.tensor(found, dtype=torch.float64).reshape(model.n_layers, count)

    last = len(ids[0]) - 1
    subject, final, control = chances(source, place), chances(source, last), chances(third, place)
    everyone = range(count)
    return Movement(
        subject=tuple(mean(row, seed) for row in subject),
        last=tuple(mean(row, seed) for row in final),
        control=tuple(mean(row, seed) for row in control),
        own=mean(base[everyone, answers], seed),
        other=mean(base[everyone, answers[source]], seed),
        example=Example(
            prompt=prompts[0],
            source=prompts[1],
            own=CAPITALS[0][1],
            answer=CAPITALS[1][1],
            before=float(base[0, answers[1]]),
            subject=tuple(subject[:, 0].tolist()),
            last=tuple(final[:, 0].tolist()),
        ),
    )
