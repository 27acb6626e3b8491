"""The controls of a sweep: random directions, the same thing asked for in words, vectors from shuffled labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data import ContrastPairs
from ..evaluation import statistics
from ..evaluation.controls import (
    Cloud,
    prompt_baseline,
    random_directions,
    random_vectors,
    rescaled,
    shuffled_vectors,
    token_activations,
)
from ..evaluation.targets.base import Target
from ..files.finished import Finished
from ..model import SteeringModel
from ..model.tokens import Prompts
from ..vector import SteeringVector
from .cells import Direction, Grid
from .measuring import Measurer
from .stages import Search


def drawn_directions(
    model: SteeringModel, vector: Direction, layers: list[int], n: int, seed: int, operation: Any, texts: Sequence[str]
) -> list[Direction]:
    """The random directions; for operations that are not additions, drawn from the activations' covariance."""
    if not n:
        return []
    cloud = None
    if operation != "add":
        site = vector.site if isinstance(vector, SteeringVector) else "resid_post"
        cloud = Cloud.of(token_activations(model, list(texts), layers=layers, site=site))
    if isinstance(vector, SteeringVector):
        return list(random_vectors(vector, n, seed=seed, cloud=cloud))
    values = None if cloud is None else cloud.values[cloud.nearest(layers[len(layers) // 2])]
    return list(random_directions(vector, n, seed=seed, cloud=values))


def random_effects(measure: Measurer, grid: Grid, left: Search, layer: int) -> list[list[float | None]]:
    """The mean value under each random direction, ``[magnitudes][directions]``; None for one not to be measured."""
    found: list[list[float | None]] = []
    for magnitude in grid.magnitudes:
        row: list[float | None] = [None] * len(grid.drawn)
        numbers = left.draws(layer, magnitude)
        if numbers:
            values = measure.values([grid.plan(grid.drawn[n], layer, magnitude) for n in numbers]).mean(1)
            for number, value in zip(numbers, values.tolist(), strict=True):
                row[number] = value
        found.append(row)
    return found


def in_words(
    done: Finished, model: SteeringModel, target: Target, prompts: Prompts | None, sources: Sequence[str] | None,
    base: Any, units: Sequence[str], seed: int,
) -> dict[str, Any]:  # fmt: skip
    """What asking for the same thing in the prompt does, under ``"prompt"``; nothing where words are not known."""

    def asked() -> Any:
        found = prompt_baseline(target, model, prompts, sources=sources)
        return None if found is None else found.values.tolist()

    values = done.get("prompt", asked)
    if values is None:
        return {}
    estimate = statistics.mean(np.array(values) - np.array(base), units, seed=seed)
    return {"prompt": {"instruction": target.in_words(), **estimate.as_json()}}


def shuffled_effects(
    done: Finished, model: SteeringModel, pairs: ContrastPairs | None, measure: Measurer, grid: Grid, left: Search,
    base: Any, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The mean effects of vectors from shuffled labels, as they come and at the length of the vector, at the largest
    strength in the layers that are left.
    """
    if pairs is None or not isinstance(grid.vector, SteeringVector):
        return {}
    like, top = grid.vector, grid.magnitudes[-1]
    layers = [layer for layer in grid.layers if left.strengths(layer, grid)]

    def measured() -> dict[str, Any]:
        raw = shuffled_vectors(model, pairs, like, seed=seed)
        both = {"raw": raw, "equal": rescaled(raw, like)}
        return {
            name: [measure.values([grid.plan(v, layer, top) for v in made]).mean(1).tolist() for layer in layers]
            for name, made in both.items()
        }

    found: dict[str, Any] = {}
    for name, values in done.get("shuffled", measured).items():
        effects = np.array(values) - np.mean(base)
        found[f"shuffled_{name}"] = {
            "strength": top,
            "effects": {str(layer): row.tolist() for layer, row in zip(layers, effects, strict=True)},
        }
    return found
