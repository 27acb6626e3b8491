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
    **dict.fromkeys(
        [
            "Activations",
            "EraserFitter",
            "act_add",
            "activations",
            "capture",
            "extract",
            "fit_eraser",
            "mean_activations",
            "sae_direction",
            "show_read",
        ],
        "extraction",
    ),
    **dict.fromkeys(["cosine_matrix", "geometry", "lens", "norms", "projections"], "analysis"),
    **dict.fromkeys(["bake"], "engines.weights"),
    **dict.fromkeys(["choose_ablation", "choose_condition", "choose_layers", "compare"], "choosing"),
    "ContrastPairs": "data",
    **dict.fromkeys(
        [
            "AblationStudy",
            "PatchingStudy",
            "ablation_study",
            "kl_divergence",
            "log_probability",
            "logit_difference",
            "next_token_loss",
            "patching_study",
            "probability",
        ],
        "studies",
    ),
    **dict.fromkeys(["contrast", "evaluate", "log_odds", "multiple_choice"], "evaluation"),
    "LinearProbe": "probe",
    "after": "positions",
    "demo_model": "demo",
    **dict.fromkeys(["calibrate", "sweep"], "sweeping"),
    "Eraser": "eraser",
    "LayerValues": "values",
    "Plan": "plan",
    "SteeringModel": "model",
    "SteeringVector": "vector",
}

if TYPE_CHECKING:
    from .analysis import cosine_matrix, geometry, lens, norms, projections
    from .choosing import choose_ablation, choose_condition, choose_layers, compare
    from .conditions import When, schedule
    from .data import ContrastPairs
    from .demo import demo_model
    from .engines.weights import bake
    from .eraser import Eraser
    from .evaluation import contrast, evaluate, log_odds, multiple_choice
    from .extraction import (
        Activations,
        EraserFitter,
        act_add,
        activations,
        capture,
        extract,
        fit_eraser,
        mean_activations,
        sae_direction,
        show_read,
    )
    from .model import SteeringModel
    from .operations import Ablate, Add, Affine, Clamp, Custom, Erase, Mean, Replace, Resample, Rotate, Zero
    from .plan import Plan
    from .positions import after
    from .probe import LinearProbe
    from .sites import attention, block, heads, mlp, neurons, site
    from .studies import (
        AblationStudy,
        PatchingStudy,
        ablation_study,
        kl_divergence,
        log_probability,
        logit_difference,
        next_token_loss,
        patching_study,
        probability,
    )
    from .sweeping import calibrate, sweep
    from .values import LayerValues
    from .vector import SteeringVector

__all__ = [
    "Ablate", "AblationStudy", "Activations", "Add", "Affine", "Clamp", "ContrastPairs", "Custom", "Erase", "Eraser",
    "EraserFitter", "LayerValues", "LinearProbe", "Mean", "PatchingStudy", "Plan", "Replace", "Resample", "Rotate",
    "SteeringModel", "SteeringVector", "When", "Zero", "ablation_study", "act_add", "activations", "after",
    "attention", "bake", "block", "calibrate", "capture", "choose_ablation", "choose_condition", "choose_layers",
    "compare", "contrast", "cosine_matrix", "demo_model", "evaluate", "extract", "fit_eraser", "geometry", "heads",
    "kl_divergence", "lens", "log_odds", "log_probability", "logit_difference", "mean_activations", "mlp",
    "multiple_choice", "neurons", "next_token_loss", "norms", "patching_study", "probability", "projections",
    "sae_direction", "schedule", "show_read", "site", "sweep",
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
