"""The tour: what steering is, measured on the embedded model in under a minute.

Everything here is computed in the run that shows it, with fixed seeds. No effect of a direction stands without that of
random directions of the same length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data import ContrastPairs
from ..extraction import capture, extract
from ..model import SteeringModel
from ..operations import Add, Replace
from ..vector import SteeringVector
from . import pairs, words

#: The three pairs with which steering is usually introduced.
COOKBOOK = ContrastPairs(
    ["I love this! It's fantastic", "This is wonderful and amazing", "I'm so happy about this"],
    ["I hate this! It's terrible", "This is awful and horrible", "I'm so sad about this"],
    name="three pairs",
)
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
STRENGTHS = (-2.0, 0.0, 2.0)
RANDOM_DIRECTIONS = 100
NEW_TOKENS = 14
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
_ROWS = 256
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Mean:
    """A mean over ``n`` items and its 95% interval, bootstrapped over them."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Separation:
    """How well a layer's direction tells held-out examples apart; ``shuffled`` is the same with labels exchanged."""

    layer: int
    accuracy: float
    low: float
    high: float
    shuffled: float
    auroc: float


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


@dataclass(frozen=True)
class Tour:
    """All that the tour found."""

    model: str
    parameters: int
    layers: int
    width: int
    layer: int
    separation: tuple[Separation, ...]
    examples: int
    sample: tuple[str, str]
    directions: tuple[Direction, ...]
    prompts: tuple[str, ...]
    continuations: tuple[Continuation, ...]
    movement: Movement
    seed: int
    seconds: float


def tour(model: SteeringModel, *, seed: int = 0, progress: Progress = lambda text: None) -> Tour:
    """Take the tour on a model that knows the packaged words.

    Args:
        model: the embedded model, or one with its vocabulary.
        seed: of the random directions, the held-out folds and the intervals.
        progress: told what comes next.
    """
    start = time.perf_counter()
    progress("extracting sentiment from packaged pairs")
    packaged = pairs("sentiment")
    vector = extract(model, packaged, name="sentiment", seed=seed)
    three = extract(model, COOKBOOK, quality=False, seed=seed)
    separation = _separation(vector)
    layer = _first_as_good_as_any(separation)
    progress(f"measuring effects against {RANDOM_DIRECTIONS} random directions")
    scale = _Scale(model)
    directions = tuple(
        _direction(scale, found, vector, layer, len(examples), seed)
        for found, examples in ((vector, packaged), (three, COOKBOOK))
    )
    progress("continuing prompts")
    continuations = _continuations(scale, vector, layer)
    progress("moving capitals")
    movement = _movement(model, seed)
    return Tour(
        model=model.shape.name,
        parameters=sum(p.numel() for p in model.architecture.hf.parameters()),
        layers=model.n_layers,
        width=model.d_model,
        layer=layer,
        separation=separation,
        examples=2 * len(packaged),
        sample=(str(packaged.positive[0]), str(packaged.negative[0])),
        directions=directions,
        prompts=PROMPTS,
        continuations=continuations,
        movement=movement,
        seed=seed,
        seconds=time.perf_counter() - start,
    )


def _separation(vector: SteeringVector) -> tuple[Separation, ...]:
    measured = (vector.quality or {}).get("layers", {})
    return tuple(
        Separation(int(layer), q["accuracy"], *q["accuracy_interval"], shuffled=q["shuffled"], auroc=q["auroc"])
        for layer, q in measured.items()
    )


def _first_as_good_as_any(separation: Sequence[Separation]) -> int:
    """The first layer whose accuracy lies within the interval of the best one's.

    Later layers hold the same in larger strides, closer to the output, where the same strength breaks more.
    """
    best = max(separation, key=lambda row: row.accuracy)
    return next(row.layer for row in separation if row.accuracy >= best.low)


# -- effects --------------------------------------------------------------------------------------------------------


class _Scale:
    """Weighs the next token: P(positive words) - P(negative words)."""

    def __init__(self, model: SteeringModel) -> None:
        self.model = model
        self.positive, self.negative = (_first_tokens(model, words(name)) for name in ("positive", "negative"))

    def __call__(self, plans: Sequence[Add | None]) -> Tensor:
        """``[plans, prompts]``, float64."""
        rows = [(prompt, plan) for plan in plans for prompt in PROMPTS]
        found: list[Tensor] = []
        for at in range(0, len(rows), _ROWS):
            prompts, steer = zip(*rows[at : at + _ROWS], strict=True)
            logits = self.model.logits(list(prompts), steer=list(steer))[:, -1]
            chances = logits.double().softmax(-1)
            found.append(chances[:, self.positive].sum(-1) - chances[:, self.negative].sum(-1))
        return torch.cat(found).reshape(len(plans), len(PROMPTS))


def _direction(
    scale: _Scale, own: SteeringVector, reference: SteeringVector, layer: int, count: int, seed: int
) -> Direction:
    direction = own[layer]
    length = float(direction.norm())
    return Direction(
        name=own.name or "",
        pairs=count,
        length=length,
        length_to_norm=length / own.norms[layer],
        cosine=float(torch.cosine_similarity(direction, reference[layer], dim=0)),
        effect=_effect(scale, direction, layer, seed),
    )


def _effect(scale: _Scale, direction: Tensor, layer: int, seed: int) -> Effect:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(RANDOM_DIRECTIONS, len(direction), generator=generator)
    noise = noise / noise.norm(dim=1, keepdim=True) * direction.norm()
    own = scale([Add(direction, strength, layers=layer) for strength in STRENGTHS])
    ends = scale([Add(other, strength, layers=layer) for other in noise for strength in (STRENGTHS[0], STRENGTHS[-1])])
    random = (ends[1::2] - ends[0::2]).mean(1)
    return Effect(
        balance={strength: mean(values, seed) for strength, values in zip(STRENGTHS, own, strict=True)},
        shift=mean(own[-1] - own[0], seed),
        random=tuple(random.tolist()),
    )


def _continuations(scale: _Scale, vector: SteeringVector, layer: int) -> tuple[Continuation, ...]:
    shown = PROMPTS[:SHOWN]
    plans = [Add(vector, strength, layers=layer) for strength in STRENGTHS]
    balance = scale(plans)
    texts = scale.model.generate(
        [prompt for prompt in shown for _ in plans], steer=[*plans] * len(shown), max_new_tokens=NEW_TOKENS
    )
    found: list[Continuation] = []
    for number, prompt in enumerate(shown):
        own = texts[number * len(plans) : (number + 1) * len(plans)]
        weighed = balance[:, number].tolist()
        found.append(
            Continuation(prompt, dict(zip(STRENGTHS, own, strict=True)), dict(zip(STRENGTHS, weighed, strict=True)))
        )
    return tuple(found)


# -- movement -------------------------------------------------------------------------------------------------------


def _movement(model: SteeringModel, seed: int) -> Movement:
    """Residuals of "The capital of France is" put into "The capital of Germany is", layer by layer, and so on."""
    prompts = [CAPITAL_OF.format(country) for country, _ in CAPITALS]
    answers = _first_tokens(model, [capital for _, capital in CAPITALS])
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
        for begin in range(0, len(rows), _ROWS):
            part = rows[begin : begin + _ROWS]
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


def _first_tokens(model: SteeringModel, found: Sequence[str]) -> Tensor:
    """The first token of each word, after a space."""
    return torch.tensor([model.tokens.continuation(f" {word}")[0] for word in found])


def mean(values: Tensor, seed: int, resamples: int = 2000) -> Mean:
    """The mean of values and its percentile bootstrap interval."""
    own = values.double().numpy()
    picks = np.random.default_rng(seed).integers(0, len(own), (resamples, len(own)))
    low, high = np.quantile(own[picks].mean(1), [0.025, 0.975])
    return Mean(float(own.mean()), float(low), float(high), len(own))
