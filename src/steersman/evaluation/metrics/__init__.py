"""What is measured about a steered model, one idea a file; for the ``metrics=`` of :func:`steersman.evaluate`."""

from .base import Control, Metric, Row
from .budget import AtBudget
from .capability import Capability
from .dose import DoseResponse
from .effect import Effect, InWords
from .fluency import Fluency
from .side_effect import SideEffect
from .transfer import Transfer

__all__ = [
    "AtBudget", "Capability", "Control", "DoseResponse", "Effect", "Fluency", "InWords", "Metric", "Row", "SideEffect",
    "Transfer",
]  # fmt: skip
