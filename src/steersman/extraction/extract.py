"""From contrast pairs to a steering vector."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from .leakage import leakage
from .methods import ONE_GAP, Compute, Method, find_method
from .methods.iti import check_sources, choose_heads
from .quality import FEWEST, LayerQuality, best_layer, measure, report
from .reading import Encoded, Read, ReadLike, Text

log = logging.getLogger(__name__)

#: Examples per class that quality is measured on; a random choice of more.
RESERVOIR = 1024


def extract(
    model: SteeringModel,
    pairs: ContrastPairs,
    *,
    method: str | Compute | Method = "mean_difference",
    layers: str | Indices = "all",
    site: str | None = None,
    read: ReadLike | None = None,
    name: str | None = None,
    quality: bool = True,
    seed: int = 0,
    token_budget: int = TOKEN_BUDGET,
    **options: Any,
) -> SteeringVector:
    """Find the direction between positive and negative examples, in every layer at once.

    Args:
        model: the model.
        pairs: the examples.
        method: a name in :data:`steersman.extraction.methods.METHODS`, or a function of positive and negative
            activations (``[n, width]``, ``[m, width]``, float64; pairs aligned) that returns the direction ``[width]``.
        layers: indices, a range ``"4-8"``, or ``"all"``.
        site: the component; the method's own (``z`` for ``iti``), else ``resid_post``.
        read: ``"last"``, ``"mean"`` (special tokens excluded), ``"response"``, ``"answer"``, ``after("text")``, or the
            index of a token, see :mod:`steersman.extraction.reading`; the method's own (``"response"`` for
            ``response_mean``), else ``"last"``.
        name: what to call it; by default the name of the pairs.
        quality: measure held-out separation by layer, which sets ``vector.layer``, and look for shortcuts in the
            examples, which are logged and kept in ``vector.quality["warnings"]``.
        seed: of the held-out folds and controls.
        token_budget: padded tokens per forward pass.
        options: of the method, such as ``penalty=`` of ``logistic``, or ``heads=`` of ``iti``.

    Returns:
        The vector, float32, stored at one gap: strength 1 moves one class mean onto the other along the direction.
        Methods with a scale of their own keep it; ``vector.metadata["scale"]`` says which. ``iti`` has no chosen layer,
        but chosen heads: add it with ``layers="all"``.

    Raises:
        DataError, PromptError, MismatchError: before any forward pass.
    """
    if not isinstance(pairs, ContrastPairs):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(f"extract() needs ContrastPairs(positive=[...], negative=[...]), got {type(pairs).__name__}")
    chosen = find_method(method).with_options(options)
    if chosen.paired and not pairs.paired:
        raise DataError(f"{chosen.name} works on differences of pairs, and these examples are two classes, not pairs")
    component = _own(chosen, "site", site, chosen.site) or "resid_post"
    asked = _own(chosen, "read", read, chosen.read)
    how = Read.parse("last" if asked is None else asked)
    if chosen.per_head:
        check_sources(pairs.groups())
    examples = _Examples(pairs, resolve_layers(model, layers, component), component, seed)
    examples.read(model, how, token_budget)
    found = _heads(examples, model.n_heads, chosen, options) if chosen.per_head else _layers(examples, chosen, quality)
    warnings = _warnings(model, pairs) if quality else []
    if quality and not chosen.per_head and not any(found.measured.values()):
        log.warning(
            "too few examples to measure: %d and %d, and held-out figures need %d of each; no layer is chosen",
            len(pairs.positive), len(pairs.negative), FEWEST,
        )  # fmt: skip
    facts = {
        "read": str(how), "scale": chosen.scale, "positive": len(pairs.positive), "negative": len(pairs.negative),
        "paired": pairs.paired, "seed": seed, "steersman": __version__, **({"options": options} if options else {}),
    }  # fmt: skip
    gaps = {layer: high - low for layer, (low, high) in found.projections.items()}
    figures = report(found.measured, examples.norms, gaps, warnings) if quality else None
    return SteeringVector(
        {layer: per_unit(model, component, direction) for layer, direction in found.directions.items()},
        site=component, name=name or pairs.name, method=chosen.name, layer=best_layer(found.measured),
        projections=found.projections, norms=examples.norms, origin=Origin.of(model.shape),
        quality=found.heads | {"warnings": warnings} if found.heads else figures, metadata=facts,
    )  # fmt: skip


@dataclass
class _Found:
    """What a method found, and what was measured about it."""

    directions: dict[int, Tensor] = field(default_factory=lambda: {})
    projections: dict[int, tuple[float, float]] = field(default_factory=lambda: {})
    measured: dict[int, LayerQuality | None] = field(default_factory=lambda: {})
    heads: dict[str, Any] = field(default_factory=lambda: {})


class _Examples:
    """The activations of contrast pairs, layer by layer."""

    def __init__(self, pairs: ContrastPairs, layers: Sequence[int], site: str, seed: int) -> None:
        self.pairs, self.layers, self.site, self.seed = pairs, layers, site, seed
        self.texts: list[Text] = [*pairs.positive, *pairs.negative]
        self.norms: dict[int, float] = {}
        self._rows: dict[int, list[Tensor]] = {layer: [torch.empty(0)] * len(self.texts) for layer in layers}

    def read(self, model: SteeringModel, how: Read, token_budget: int) -> None:
        """Run the model over them."""
        found: dict[int, list[Tensor]] = {layer: [] for layer in self.layers}
        at_residual = self.site in ("resid_pre", "resid_mid", "resid_post")

        def keep(number: int, layer: int, values: Tensor) -> None:
            self._rows[layer][number] = values

        visit(
            model, self.texts, self.layers, self.site, how, keep,
            token_budget=token_budget, norms=found if at_residual else None,
        )  # fmt: skip
        self.norms = {layer: float(torch.cat(norms).median()) for layer, norms in found.items() if norms}

    def pop(self, layer: int) -> tuple[Tensor, Tensor]:
        """The positive and negative activations of a layer, float64; they are let go of here."""
        values = torch.stack(self._rows.pop(layer)).double()
        split = len(self.pairs.positive)
        return values[:split], values[split:]


def _own(method: Method, what: str, given: Any, own: str | None) -> Any:
    """What the user asked for, or what the method is defined with; DataError if they differ."""
    if own is not None and given is not None and given != own:
        raise DataError(f'{method.name} is defined at {what}="{own}", not {given!r}; leave {what}= out')
    return own if given is None else given


def _layers(examples: _Examples, method: Method, quality: bool) -> _Found:
    found, kept = _Found(), _reservoir(examples.pairs, examples.seed)
    groups = examples.pairs.groups()
    sources = [groups[0][i] for i in kept[0]], [groups[1][i] for i in kept[1]]
    for layer in examples.layers:
        positive, negative = examples.pop(layer)
        direction = method.compute(positive, negative)
        if method.scale == ONE_GAP:
            found.directions[layer], found.projections[layer] = at_one_gap(direction, positive, negative, layer)
        else:
            found.directions[layer] = direction.float()
            found.projections[layer] = class_projections(direction, positive, negative)
        if quality:
            found.measured[layer] = measure(
                positive[kept[0]], negative[kept[1]], sources, method.compute,
                paired=bool(examples.pairs.paired), seed=examples.seed,
            )  # fmt: skip
    return found


def _heads(examples: _Examples, n_heads: int, method: Method, options: Mapping[str, Any]) -> _Found:
    """The directions of the heads that a probe reads best, zero in the other heads of their layers."""
    sides: tuple[dict[int, Tensor], dict[int, Tensor]] = {}, {}
    for layer in examples.layers:
        for side, values in zip(sides, examples.pop(layer), strict=True):
            side[layer] = values.unflatten(1, (n_heads, -1))
    ranking = {name: value for name, value in options.items() if name in ("heads", "validation")}
    choice = choose_heads(*sides, examples.pairs.groups(), seed=examples.seed, **ranking)
    found = _Found()
    for layer, head in choice.heads:
        whole = found.directions.setdefault(layer, torch.zeros(sides[0][layer].shape[1:], dtype=torch.float64))
        whole[head] = method.compute(sides[0][layer][:, head], sides[1][layer][:, head])
    for layer, direction in found.directions.items():
        ends = class_projections(direction.flatten(), sides[0][layer].flatten(1), sides[1][layer].flatten(1))
        found.projections[layer] = ends
    found.directions = {layer: direction.flatten().float() for layer, direction in found.directions.items()}
    found.heads = {
        "heads": [
            {
                "layer": layer,
                "head": head,
                "accuracy": choice.accuracy[layer, head],
                "sigma": float(found.directions[layer].unflatten(0, (n_heads, -1))[head].norm()),
            }
            for layer, head in choice.heads
        ],
        "held_out": choice.items,
        "best_shuffled": choice.chance,
    }
    return found


def at_one_gap(direction: Tensor, positive: Tensor, negative: Tensor, layer: int) -> tuple[Tensor, tuple[float, float]]:
    """A direction scaled to the distance between the class means along it, and the two projections.

    Raises:
        DataError: the means coincide along it, so that there is nothing to steer by.
    """
    length = float(direction.norm())
    low, high = class_projections(direction, positive, negative)
    if high < low:  # turned to point at the positive class
        direction, low, high = -direction, -low, -high
    size = float(positive.norm(dim=1).mean() + negative.norm(dim=1).mean())
    if not length or not high - low > 1e-9 * size:
        raise DataError(
            f"positive and negative examples look the same at layer {layer}; do they differ at the token that is read?"
        )
    return (direction / length * (high - low)).float(), (low, high)


def class_projections(direction: Tensor, positive: Tensor, negative: Tensor) -> tuple[float, float]:
    """The class means projected on the unit direction: (negative, positive)."""
    along = direction / (float(direction.norm()) or 1.0)
    return float(negative.mean(0) @ along), float(positive.mean(0) @ along)


def _warnings(model: SteeringModel, pairs: ContrastPairs) -> list[str]:
    """What tells the classes apart without any understanding; logged too."""
    positive, negative = (
        [Encoded.of(model.tokens, text).ids for text in side] for side in (pairs.positive, pairs.negative)
    )
    found = leakage(
        positive, negative, paired=bool(pairs.paired), decode=lambda ids: model.tokens.decode(ids, special=True)
    )
    for warning in found:
        log.warning("%s", warning)
    return found


def _reservoir(pairs: ContrastPairs, seed: int) -> tuple[list[int], list[int]]:
    """The examples quality is measured on: all, or a random choice of ``RESERVOIR`` per class, pairs kept together."""
    rng = np.random.default_rng(seed)

    def choose(count: int) -> list[int]:
        return sorted(rng.permutation(count)[:RESERVOIR].tolist())

    first = choose(len(pairs.positive))
    return first, first if pairs.paired else choose(len(pairs.negative))
