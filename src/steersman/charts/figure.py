"""A figure before it is drawn: which chart, and the numbers and words it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bars import bars
from .grids import cosine_matrix, heatmap
from .lines import dose_response, probe_curve
from .points import geometry
from .svg import write
from .tokens import lens_table, token_projections

#: The charts by name.
CHARTS: dict[str, Callable[..., str]] = {
    chart.__name__: chart
    for chart in (bars, cosine_matrix, dose_response, geometry, heatmap, lens_table, probe_curve, token_projections)
}


@dataclass(frozen=True, eq=False)
class Figure:
    """A chart and its arguments. Whoever draws from :meth:`document` draws the same numbers as :meth:`svg`.

    Attributes:
        chart: the name of a function of :mod:`steersman.charts`.
        arguments: its arguments by name, JSON-able.
    """

    chart: str
    arguments: Mapping[str, Any]

    def svg(self, path: str | Path | None = None) -> str:
        """The drawing; written to ``path`` if given."""
        return write(CHARTS[self.chart](**self.arguments), path)

    def document(self) -> dict[str, Any]:
        """``{"chart": ..., "arguments": {...}}``."""
        return {"chart": self.chart, "arguments": dict(self.arguments)}
