"""Steersman steers language models: find directions in activations, act on them, measure what it did, ship it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

#: public name -> module it lives in; loaded on first use, so that importing this package loads no torch
_PUBLIC = {
    **dict.fromkeys(
        ["Ablate", "Add", "Affine", "Clamp", "Custom", "Erase", "Mean", "Replace", "Resample", "Rotate", "Zero"],
        "operations",
    ),
    **dict.fromkeys(["attention", "block", "heads", "mlp", "neurons", "site"], "sites"),
    **dict.fromkeys(["When", "schedule"], "conditions"),
    **dict.fromkeys(["Activations", "activations", "capture", "extract", "mean_activations"], "extraction"),
    "ContrastPairs": "data",
    "after": "positions",
    "Eraser": "eraser",
    "LayerValues": "values",
    "Plan": "plan",
    "SteeringModel": "model",
    "SteeringVector": "vector",
}

if TYPE_CHECKING:
    from .conditions import When, schedule
    from .data import ContrastPairs
    from .eraser import Eraser
    from .extraction import Activations, activations, capture, extract, mean_activations
    from .model import SteeringModel
    from .operations import Ablate, Add, Affine, Clamp, Custom, Erase, Mean, Replace, Resample, Rotate, Zero
    from .plan import Plan
    from .positions import after
    from .sites import attention, block, heads, mlp, neurons, site
    from .values import LayerValues
    from .vector import SteeringVector

__all__ = [
    "Ablate", "Activations", "Add", "Affine", "Clamp", "ContrastPairs", "Custom", "Erase", "Eraser", "LayerValues", "Mean", "Plan", "Replace",
    "Resample", "Rotate", "SteeringModel", "SteeringVector", "When", "Zero", "activations", "after", "attention", "block",
    "capture", "extract", "heads", "mean_activations", "mlp", "neurons", "schedule", "site",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
