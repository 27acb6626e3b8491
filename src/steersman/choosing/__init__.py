"""Choices with their evidence: when to steer, what to ablate, which of several ways, over which layers."""

from .ablation import AblationChoice, choose_ablation
from .condition import ConditionChoice, choose_condition

__all__ = ["AblationChoice", "ConditionChoice", "choose_ablation", "choose_condition"]
