"""Figures as SVG: pure functions from plain numbers to a text that any browser shows and a person can save.

Every mark carries the exact numbers it stands for in ``data-*`` attributes, a tooltip, and colours that follow the
reader's light or dark theme and that the colour-blind can tell apart. The same numbers give the same text, to the byte.
"""

from .bars import bars
from .figure import Figure
from .grids import cosine_matrix, heatmap
from .lines import dose_response, probe_curve
from .points import geometry
from .svg import write
from .tokens import lens_table, token_projections

__all__ = [
    "Figure",
    "bars",
    "cosine_matrix",
    "dose_response",
    "geometry",
    "heatmap",
    "lens_table",
    "probe_curve",
    "token_projections",
    "write",
]
