"""The weights engine: a plan becomes part of the weights, exactly and verified, or is refused with the reason.

:func:`bake` writes an ordinary checkpoint or a PEFT adapter; :func:`why_not` tells from a model's shape alone whether
weights can do what a plan does.
"""

from .baking import bake, check_bakeable
from .placement import why_not
from .report import BakeReport
from .verification import Verification

__all__ = ["BakeReport", "Verification", "bake", "check_bakeable", "why_not"]
