"""Studies: what a model's components do, found by taking them away or by putting others in their place."""

from .ablating import ablation_study
from .ablation import AblationStudy
from .metrics import kl_divergence, log_probability, logit_difference, next_token_loss, probability
from .patching import PatchingStudy
from .patching_runs import patching_study

__all__ = [
    "AblationStudy",
    "PatchingStudy",
    "ablation_study",
    "kl_divergence",
    "log_probability",
    "logit_difference",
    "next_token_loss",
    "patching_study",
    "probability",
]
