"""A fitted probe as one native file: weights as float64 tensors, figures as JSON. Never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import FileFormatError
from ..files import container
from ..vector import Origin
from .fitting import LayerFit, Settings

if TYPE_CHECKING:
    from .linear import Fitted

KIND = "probe"
PARTS = ("weights", "bias", "means")
FIGURES = ("c", "temperature", "accuracy", "shuffled", "auroc")


def save(path: str | Path, fitted: Fitted, settings: Settings, layers: Mapping[int, LayerFit]) -> str:
    """Write a probe; returns the path."""
    tensors = {
        f"layers.{layer}.{part}": torch.from_numpy(getattr(fit, part))
        for layer, fit in layers.items()
        for part in PARTS
    }
    figures = {
        str(layer): {name: getattr(fit, name) for name in FIGURES} | {"interval": fit.interval}
        for layer, fit in layers.items()
    }
    document = {"fitted": asdict(fitted), "settings": asdict(settings), "layers": figures}
    return container.write(path, KIND, tensors, document)


def load(path: str | Path) -> tuple[Fitted, Settings, dict[int, LayerFit]]:
    """Read a probe; FileFormatError when its parts do not belong together."""
    from .linear import Fitted

    tensors, document = container.read(path, KIND)
    try:
        facts = dict(document["fitted"])
        facts |= {name: tuple(facts[name]) for name in ("classes", "counts", "shape")}
        facts["origin"] = Origin(**facts["origin"]) if facts["origin"] else None
        fitted = Fitted(**facts)
        found = document["settings"]
        settings = Settings(found["cv"], tuple(found["c"]), found["shuffles"], found["seed"])
        layers = {int(key): _layer(tensors, int(key), figures) for key, figures in document["layers"].items()}
        _check(fitted, layers)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{path} is no probe: {error}") from error
    return fitted, settings, layers


def _layer(tensors: Mapping[str, Tensor], layer: int, figures: Mapping[str, Any]) -> LayerFit:
    weights, bias, means = (tensors[f"layers.{layer}.{part}"].double().numpy() for part in PARTS)
    interval = figures["interval"]
    numbers: dict[str, Any] = {name: figures[name] for name in FIGURES}
    return LayerFit(weights, bias, means, **numbers, interval=None if interval is None else (interval[0], interval[1]))


def _check(fitted: Fitted, layers: Mapping[int, LayerFit]) -> None:
    classes, width = len(fitted.classes), 1
    for size in fitted.shape:
        width *= size
    if classes < 2 or len(fitted.counts) != classes or not layers:
        raise ValueError("it needs two classes or more, a count for each, and a layer")
    for layer, fit in layers.items():
        shapes = (fit.weights.shape, fit.bias.shape, fit.means.shape)
        if shapes != ((classes, width), (classes,), (classes, width)):
            raise ValueError(f"layer {layer} has tensors of shape {shapes} for {classes} classes of width {width}")
        if not fit.temperature > 0:
            raise ValueError(f"layer {layer} has the temperature {fit.temperature}")
