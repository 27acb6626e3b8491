"""Choices with their evidence: when to steer, what to ablate, which of several ways, over which layers."""

from .ablation import AblationChoice, choose_ablation
from .comparison import SideBySide, compare
from .condition import ConditionChoice, choose_condition
from .layer_search import LayerSearch, choose_layers

__all__ = [
    "AblationChoice", "ConditionChoice", "LayerSearch", "SideBySide", "choose_ablation", "choose_condition",
    "choose_layers", "compare",
]  # fmt: skip
