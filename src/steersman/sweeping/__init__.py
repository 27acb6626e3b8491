"""Which layer, how strong, what does it break: effects and side effects over layers and strengths, with controls."""

from .calibrate import calibrate
from .result import Row, Sweep
from .sweep import sweep

__all__ = ["Row", "Sweep", "calibrate", "sweep"]
