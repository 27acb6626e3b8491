"""From contrast pairs to a steering vector."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..data import ContrastPairs
from ..errors import DataError
from ..model import SteeringModel
from ..sites import Indices
from ..vector import Origin, SteeringVector
from .activations import TOKEN_BUDGET, per_unit, resolve_layers, visit
from .methods import Method, find_method
from .quality import FEWEST, LayerQuality, best_layer, measure, report
from .reading import Read, ReadLike

log = logging.getLogger(__name__)

#: Examples per class that quality is measured on; a random choice of more.
RESERVOIR = 1024


def extract(
    model: SteeringModel,
    pairs: ContrastPairs,
    *,
    method: str | Method = "mean_difference",
    layers: str | Indices = "all",
    site: str = "resid_post",
    read: ReadLike = "last",
    name: str | None = None,
    quality: bool = True,
    seed: int = 0,
    token_budget: int = TOKEN_BUDGET,
) -> SteeringVector:
    """Find the direction between positive and negative examples, in every layer at once.

    Args:
        model: the model.
        pairs: the examples.
        method: ``"mean_difference"``, or a function of positive and negative activations (``[n, width]``, ``[m, width]``,
            float64) that returns the direction ``[width]``.
        layers: indices, a range ``"4-8"``, or ``"all"``.
        site: the component.
        read: ``"last"``, ``"mean"`` (special tokens excluded), or the index of a token.
        name: what to call it; by default the name of the pairs.
        quality: measure held-out separation by layer, which sets ``vector.layer``.
        seed: of the held-out folds and controls.
        token_budget: padded tokens per forward pass.

    Returns:
        The vector, float32, stored at one gap: strength 1 moves one class mean onto the other along the direction.

    Raises:
        DataError, PromptError, MismatchError: before any forward pass.
    """
    if not isinstance(pairs, ContrastPairs):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(f"extract() needs ContrastPairs(positive=[...], negative=[...]), got {type(pairs).__name__}")
    method_name, compute = find_method(method)
    chosen, how = resolve_layers(model, layers, site), Read.parse(read)
    items = [*pairs.positive, *pairs.negative]
    split = len(pairs.positive)
    rows: dict[int, list[Tensor]] = {layer: [torch.empty(0)] * len(items) for layer in chosen}
    norms: dict[int, list[Tensor]] = {layer: [] for layer in chosen}

    def keep(number: int, layer: int, values: Tensor) -> None:
        rows[layer][number] = values

    at_residual = site in ("resid_pre", "resid_mid", "resid_post")
    visit(model, items, chosen, site, how, keep, token_budget=token_budget, norms=norms if at_residual else None)

    directions: dict[int, Tensor] = {}
    projections: dict[int, tuple[float, float]] = {}
    measured: dict[int, LayerQuality | None] = {}
    kept = _reservoir(pairs, seed)
    for layer in chosen:
        values = torch.stack(rows.pop(layer)).double()
        positive, negative = values[:split], values[split:]
        directions[layer], projections[layer] = at_one_gap(compute(positive, negative), positive, negative, layer)
        if quality:
            groups = ([pairs.groups()[0][i] for i in kept[0]], [pairs.groups()[1][i] for i in kept[1]])
            measured[layer] = measure(positive[kept[0]], negative[kept[1]], groups, compute, seed=seed)
    medians = {layer: float(torch.cat(found).median()) for layer, found in norms.items() if found and at_residual}
    if quality and not any(measured.values()):
        log.warning(
            "too few examples to measure: %d and %d, and held-out figures need %d of each; no layer is chosen",
            split, len(items) - split, FEWEST,
        )  # fmt: skip
    facts = {
        "read": str(how), "positive": split, "negative": len(items) - split, "paired": pairs.paired, "seed": seed,
        "steersman": __version__,
    }  # fmt: skip
    shaped = {layer: per_unit(model, site, direction) for layer, direction in directions.items()}
    return SteeringVector(
        shaped, site=site, name=name or pairs.name, method=method_name, layer=best_layer(measured),
        projections=projections, norms=medians, origin=Origin.of(model.shape),
        quality=report(measured, medians, {layer: high - low for layer, (low, high) in projections.items()}),
        metadata=facts,
    )  # fmt: skip


def at_one_gap(
    direction: Tensor, positive: Tensor, negative: Tensor, layer: int
) -> tuple[Tensor, tuple[float, float]]:
    """A direction scaled to the distance between the class means along it, and the two projections.

    Raises:
        DataError: the means coincide along it, so that there is nothing to steer by.
    """
    length = float(direction.norm())
    along = direction / length if length else direction
    low, high = float(negative.mean(0) @ along), float(positive.mean(0) @ along)
    size = float(positive.norm(dim=1).mean() + negative.norm(dim=1).mean())
    if not length or not abs(high - low) > 1e-9 * size:
        raise DataError(
            f"positive and negative examples look the same at layer {layer}; do they differ at the token that is read?"
        )
    return (along * (high - low)).float(), (low, high)


def _reservoir(pairs: ContrastPairs, seed: int) -> tuple[list[int], list[int]]:
    """Which examples quality is measured on: all, or a random choice of ``RESERVOIR`` per class, pairs kept together."""
    rng = np.random.default_rng(seed)

    def choose(count: int) -> list[int]:
        return sorted(rng.permutation(count)[:RESERVOIR].tolist())

    first = choose(len(pairs.positive))
    return first, first if pairs.paired else choose(len(pairs.negative))
