"""What can be measured about a model: continuations, multiple choice, generated text, activations."""

from .base import LogitTarget, Measurement, Target
from .contrast import Contrast, contrast

__all__ = ["Contrast", "LogitTarget", "Measurement", "Target", "contrast"]
