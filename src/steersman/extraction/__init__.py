"""Learning directions: activations, and the steering vectors found in them."""

from .activations import Activations, activations, capture, mean_activations
from .extract import extract

__all__ = ["Activations", "activations", "capture", "extract", "mean_activations"]
