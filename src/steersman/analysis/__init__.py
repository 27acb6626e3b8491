"""What a direction is: the tokens it writes, how texts lie along it, how it relates to others.

Every function returns a small frozen object with ``frame()``, a table, and ``svg(path=None)``, a figure.
"""

from .geometry import Geometry, geometry
from .lens import Lens, lens
from .norms import Norms, norms
from .projections import Projections, projections
from .similarity import CosineMatrix, cosine_matrix

__all__ = [
    "CosineMatrix", "Geometry", "Lens", "Norms", "Projections",
    "cosine_matrix", "geometry", "lens", "norms", "projections",
]  # fmt: skip
