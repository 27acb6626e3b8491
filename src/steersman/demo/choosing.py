"""Which layer, how strong: a sweep of the tour's direction, reduced to fit the tour, and what that left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DataError
from ..evaluation import contrast
from ..evaluation.controls import RANDOM_DIRECTIONS
from ..evaluation.neutral import default_texts
from ..model import SteeringModel
from ..sweeping import Row, Sweep, sweep
from ..sweeping.sweep import STRENGTHS
from ..sweeping.where import within_depth
from ..vector import SteeringVector
from . import words
from .means import Mean
from .steering import PROMPTS

#: What the tour sweeps: of strengths, random directions and neutral texts fewer than a sweep does unless told.
TRIED = (0.25, 0.5, 1.0, 2.0)
DRAWN = 39
NEUTRAL = 8
#: The most that the choice may cost, nats per token of neutral text.
MAX_KL = 0.1


@dataclass(frozen=True)
class Cell:
    """The strength that does most in a layer within the budget, or the cheapest one if none keeps it.

    Attributes:
        layer, strength: where and how strongly.
        effect: mean change of P(positive words) - P(negative words) over the prompts.
        kl: nats per token of neutral text.
        random_low, random_high: where 95% of random directions of the same length lie.
        p_value: the rank among them, corrected for the layers searched.
        within: whether it keeps the budget.
    """

    layer: int
    strength: float
    effect: Mean
    kl: float
    random_low: float
    random_high: float
    p_value: float
    within: bool


@dataclass(frozen=True)
class Choice:
    """What the sweep found.

    Attributes:
        cells: one per layer searched.
        layer, strength: the choice.
        held_out, held_out_prompts: its effect on the prompts kept from the choice, and how many they are.
        in_words: what asking for it in words does instead.
        max_kl, strengths, random, prompts, neutral_texts: what was tried.
        left_out: what a whole sweep would do beyond it.
    """

    cells: tuple[Cell, ...]
    layer: int
    strength: float
    held_out: float
    held_out_prompts: int
    in_words: Mean
    max_kl: float
    strengths: tuple[float, ...]
    random: int
    prompts: int
    neutral_texts: int
    left_out: tuple[str, ...]


def choose(model: SteeringModel, vector: SteeringVector, layers: Sequence[int], seed: int) -> Choice:
    """Sweep a direction over the layers in which it separates, and choose.

    Args:
        model: the model.
        vector: the direction.
        layers: those in which it separates held-out examples.
        seed: of the random directions, the split and the intervals.

    Raises:
        DataError: no setting moves the target upwards within the budget.
    """
    texts = default_texts(model.shape.name)
    deep = within_depth(vector.layers, model.n_layers)
    searched = [layer for layer in deep if layer in layers] or deep
    positive, negative = ([f" {word}" for word in words(name)] for name in ("positive", "negative"))
    found = sweep(
        model, vector, prompts=list(PROMPTS), target=contrast(positive, negative, measure="balance"), layers=searched,
        strengths=TRIED, neutral=texts[:NEUTRAL], random=DRAWN, seed=seed,
    )  # fmt: skip
    best = found.best(MAX_KL)
    report = found.facts["split"]["report"]
    asked = found.facts["controls"]["prompt"]
    if best.report_effect is None:
        raise DataError("the tour has too few prompts to keep some from the choice")
    return Choice(
        cells=tuple(_cell(found, layer, best) for layer in searched),
        layer=best.layer,
        strength=best.strength,
        held_out=best.report_effect,
        held_out_prompts=len(report),
        in_words=Mean(asked["value"], asked["low"], asked["high"], asked["n"]),
        max_kl=MAX_KL,
        strengths=TRIED,
        random=DRAWN,
        prompts=len(PROMPTS),
        neutral_texts=NEUTRAL,
        left_out=_left_out(searched, vector.layers, deep, len(texts)),
    )


def _cell(found: Sweep, layer: int, best: Row) -> Cell:
    own = [row for row in found if row.layer == layer]
    within = [row for row in own if row.kl <= MAX_KL]
    row = max(within, key=lambda row: row.tune_effect) if within else min(own, key=lambda row: row.kl)
    row = best if layer == best.layer else row
    ends = (row.low, row.high, row.control_low, row.control_high, row.p_value)
    low, high, random_low, random_high, p_value = (float("nan") if end is None else end for end in ends)
    effect = Mean(row.effect, low, high, int(found.facts["items"]))
    return Cell(layer, row.strength, effect, row.kl, random_low, random_high, p_value, bool(within))


def _left_out(searched: Sequence[int], own: Sequence[int], deep: Sequence[int], texts: int) -> tuple[str, ...]:
    """What a whole sweep does beyond the tour's."""
    found: list[str] = []
    dull = [layer for layer in own if layer not in searched and layer <= max(deep)]
    late = [layer for layer in own if layer > max(deep)]
    if dull:
        found.append(f"{_layers(dull)} (nothing separated)")
    if late:
        found.append(f"{_layers(late)} (next to the output)")
    return (
        *found,
        f"{len(STRENGTHS) - len(TRIED)} of {len(STRENGTHS)} strengths",
        f"{RANDOM_DIRECTIONS - DRAWN} of {RANDOM_DIRECTIONS} random directions",
        f"{texts - NEUTRAL} of {texts} neutral texts",
        "shuffled labels",
    )


def _layers(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    if list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"layers {numbers[0]} to {numbers[-1]}"
    return f"layers {', '.join(map(str, numbers))}"
