"""Learning directions: activations, and the steering vectors found in them."""

from .act_add import act_add
from .activations import Activations, activations, capture, mean_activations
from .erasing import EraserFitter, fit_eraser
from .extract import extract
from .sae import sae_direction
from .show_read import show_read

__all__ = [
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
]
