"""What can be measured about a model: continuations, multiple choice, generated text, activations."""

from .activation import ActivationTarget
from .base import LogitTarget, Measurement, Target
from .contrast import Contrast, contrast
from .generated import Classifier, RegexRate, TextTarget
from .judge import Judge
from .multiple_choice import MultipleChoice, multiple_choice
from .odds import LogOdds, log_odds

__all__ = [
    "ActivationTarget", "Classifier", "Contrast", "Judge", "LogOdds", "LogitTarget", "Measurement", "MultipleChoice",
    "RegexRate", "Target", "TextTarget", "contrast", "log_odds", "multiple_choice",
]  # fmt: skip
