"""The tour: what steering is, measured on the embedded model in under a minute.

Everything here is computed in the run that shows it, with fixed seeds. No effect of a direction stands without that of
random directions of the same length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..data import ContrastPairs
from ..extraction import extract
from ..model import SteeringModel
from ..vector import SteeringVector
from . import pairs
from .choosing import Choice, choose
from .movement import Movement, move
from .steering import PROMPTS, RANDOM_DIRECTIONS, Continuation, Direction, Scale, continued, directed

#: The three pairs with which steering is usually introduced.
COOKBOOK = ContrastPairs(
    ["I love this! It's fantastic", "This is wonderful and amazing", "I'm so happy about this"],
    ["I hate this! It's terrible", "This is awful and horrible", "I'm so sad about this"],
    name="three pairs",
)
Progress = Callable[[str], None]


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
class Tour:
    """All that the tour found."""

    model: str
    parameters: int
    layers: int
    width: int
    separation: tuple[Separation, ...]
    examples: int
    sample: tuple[str, str]
    choice: Choice
    directions: tuple[Direction, ...]
    prompts: tuple[str, ...]
    continuations: tuple[Continuation, ...]
    movement: Movement
    seed: int
    seconds: float

    @property
    def layer(self) -> int:
        """The layer chosen."""
        return self.choice.layer


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
    progress("sweeping layers and strengths")
    choice = choose(model, vector, separating(separation), seed)
    layer, strengths = choice.layer, (-choice.strength, 0.0, choice.strength)
    progress(f"measuring effects against {RANDOM_DIRECTIONS} random directions")
    scale = Scale(model)
    directions = tuple(
        directed(scale, found, vector, layer, strengths, len(examples), seed)
        for found, examples in ((vector, packaged), (three, COOKBOOK))
    )
    progress("continuing prompts")
    continuations = continued(scale, vector, layer, strengths)
    progress("moving capitals")
    movement = move(model, seed)
    return Tour(
        model=model.shape.name,
        parameters=sum(p.numel() for p in model.architecture.hf.parameters()),
        layers=model.n_layers,
        width=model.d_model,
        separation=separation,
        examples=2 * len(packaged),
        sample=(str(packaged.positive[0]), str(packaged.negative[0])),
        choice=choice,
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


def separating(separation: Sequence[Separation]) -> list[int]:
    """The layers in which the direction tells held-out examples apart better than shuffled labels would."""
    return [row.layer for row in separation if row.low > row.shuffled]
