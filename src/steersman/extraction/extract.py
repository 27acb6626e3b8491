"""From contrast pairs to a steering vector."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..data import ContrastPairs
from ..errors import DataError
from ..model import SteeringModel
from ..sites import Indices
from ..vector import Origin, SteeringVector
from .activations import per_unit, resolve_layers
from .examples import Examples
from .leakage import leakage
from .methods import ONE_GAP, Compute, Method, find_method
from .methods.iti import check_sources, choose_heads
from .progress import ProgressLike
from .quality import FEWEST, LayerQuality, best_layer, measure, report
from .reading import Read, ReadLike
from .work import RunnerLike

log = logging.getLogger(__name__)

#: Class means closer than this share of their length differ by rounding.
SAME = 1e-7


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
    token_budget: int | None = None,
    runner: RunnerLike = None,
    checkpoint: str | Path | None = None,
    progress: ProgressLike = None,
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
        seed: of the held-out folds and controls, and of the examples quality (1024 per class) and norms (64 texts) are
            measured on where there are more.
        token_budget: padded tokens per forward pass; measured unless given.
        runner: what runs the model: ``"local"``, ``"ray"``, ``"vllm"``, or a runner such as ``RayRunner(workers=4)``.
        checkpoint: a ``.safetensors`` file to keep the work done so far in, now and then and when it is interrupted.
            The same call then goes on from there; when the work is complete, the file is removed.
        progress: a bar on a terminal (None), always or never (True, False), or a function of (tokens done, tokens).
        options: of the method, such as ``penalty=`` of ``logistic``, or ``heads=`` of ``iti``.

    Returns:
        The vector, float32, stored at one gap: strength 1 moves one class mean onto the other along the direction.
        Methods with a scale of their own keep it; ``vector.metadata["scale"]`` says which. ``iti`` has no chosen layer,
        but chosen heads: add it with ``layers="all"``.

    Raises:
        DataError, PromptError, MismatchError: before any forward pass.
        ResourceError: the memory does not hold a single example.
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
    examples = Examples(
        model, pairs, resolve_layers(model, layers, component), component, how, chosen,
        sample=quality and not chosen.per_head, seed=seed, token_budget=token_budget,
    )  # fmt: skip
    examples.read(runner, checkpoint, progress)
    found = _heads(examples, model.n_heads, options) if chosen.per_head else _layers(examples, quality)
    warnings = _warnings(model, examples) if quality else []
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


def _own(method: Method, what: str, given: Any, own: str | None) -> Any:
    """What the user asked for, or what the method is defined with; DataError if they differ."""
    if own is not None and given is not None and given != own:
        raise DataError(f'{method.name} is defined at {what}="{own}", not {given!r}; leave {what}= out')
    return own if given is None else given


def _layers(examples: Examples, quality: bool) -> _Found:
    found, method = _Found(), examples.method
    for layer in examples.layers:
        direction = examples.direction(layer)
        positive, negative = examples.classes(layer)
        if method.scale == ONE_GAP:
            found.directions[layer], found.projections[layer] = at_one_gap(
                direction, positive.mean, negative.mean, layer
            )
        else:
            found.directions[layer] = direction.float()
            found.projections[layer] = class_projections(direction, positive.mean, negative.mean)
        if quality:
            found.measured[layer] = measure(
                *examples.sampled(layer), examples.sampled_sources(), method.compute,
                paired=bool(examples.pairs.paired), seed=examples.seed,
            )  # fmt: skip
    return found


def _heads(examples: Examples, n_heads: int, options: Mapping[str, Any]) -> _Found:
    """The directions of the heads that a probe reads best, zero in the other heads of their layers."""
    sides: tuple[dict[int, Tensor], dict[int, Tensor]] = {}, {}
    for layer in examples.layers:
        for side, values in zip(sides, examples.rows(layer), strict=True):
            side[layer] = values.unflatten(1, (n_heads, -1))
    ranking = {name: value for name, value in options.items() if name in ("heads", "validation")}
    choice = choose_heads(*sides, examples.pairs.groups(), seed=examples.seed, **ranking)
    found = _Found()
    for layer, head in choice.heads:
        whole = found.directions.setdefault(layer, torch.zeros(sides[0][layer].shape[1:], dtype=torch.float64))
        whole[head] = examples.method.compute(sides[0][layer][:, head], sides[1][layer][:, head])
    for layer, direction in found.directions.items():
        positive, negative = examples.classes(layer)
        found.projections[layer] = class_projections(direction.flatten(), positive.mean, negative.mean)
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
    """A direction scaled to the distance between the class means ``[width]`` along it, and the two projections.

    Raises:
        DataError: the means coincide along it, so that there is nothing to steer by.
    """
    length = float(direction.norm())
    low, high = class_projections(direction, positive, negative)
    if high < low:  # turned to point at the positive class
        direction, low, high = -direction, -low, -high
    size = float(positive.norm() + negative.norm())
    if not length or not high - low > SAME * size:
        raise DataError(
            f"positive and negative examples look the same at layer {layer}; do they differ at the token that is read?"
        )
    return (direction / length * (high - low)).float(), (low, high)


def class_projections(direction: Tensor, positive: Tensor, negative: Tensor) -> tuple[float, float]:
    """The class means ``[width]`` projected on the unit direction: (negative, positive)."""
    along = direction / (float(direction.norm()) or 1.0)
    return float(negative @ along), float(positive @ along)


def _warnings(model: SteeringModel, examples: Examples) -> list[str]:
    """What tells the classes apart without any understanding; logged too."""
    found = leakage(
        *examples.ids(), paired=bool(examples.pairs.paired), decode=lambda ids: model.tokens.decode(ids, special=True)
    )
    for warning in found:
        log.warning("%s", warning)
    return found
