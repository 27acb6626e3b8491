"""What steering does, and what it breaks: targets, metrics, controls, statistics."""

from .divergence import Divergence, divergence
from .evaluate import continuations, evaluate
from .metrics.capability import Fact
from .result import Evaluation
from .samples import Sampling
from .targets import ActivationTarget, Classifier, Judge, RegexRate, Target, contrast, log_odds, multiple_choice

__all__ = [
    "ActivationTarget", "Classifier", "Divergence", "Evaluation", "Fact", "Judge", "RegexRate", "Sampling", "Target",
    "continuations", "contrast", "divergence", "evaluate", "log_odds", "multiple_choice",
]  # fmt: skip
