"""How alike directions are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from ..charts import Figure
from ..errors import InterventionError
from ..tensors import checked, unit
from ..vector import SteeringVector
from .directions import Direction


class CosineMatrix(pd.DataFrame):
    """A table of cosines with the directions' names on both axes.

    ``attrs["random_sd"]`` is the standard deviation of the cosine of two random directions of this width,
    ``1 / sqrt(d)``: what lies within two of it is no likeness.
    """

    @property
    def random_sd(self) -> float:
        """``1 / sqrt(d)``."""
        return float(self.attrs["random_sd"])

    def frame(self) -> pd.DataFrame:
        """The same as a plain table."""
        return pd.DataFrame(self)

    def svg(self, path: str | Path | None = None) -> str:
        """The matrix, coloured, as an SVG; written to ``path`` if given."""
        return self.figure().svg(path)

    def figure(self) -> Figure:
        """The matrix, before it is drawn."""
        names = [str(name) for name in self.columns]
        arguments = {"names": names, "values": self.to_numpy().tolist(), "random_sd": self.random_sd}
        return Figure("cosine_matrix", arguments | {"title": self.attrs["title"]})


def cosine_matrix(vectors: Sequence[Direction], layer: int | None = None) -> CosineMatrix:
    """The cosine of each direction with each.

    Args:
        vectors: steering vectors of one site, or tensors of one width.
        layer: of the vectors; by default each one's own chosen layer.

    Returns:
        A DataFrame, float64, with ``random_sd`` for reference.

    Raises:
        InterventionError: nothing given, widths that differ, a zero direction, or a vector without a chosen layer.
        MismatchError: a vector without that layer.
    """
    if isinstance(vectors, SteeringVector | torch.Tensor) or not len(vectors):
        raise InterventionError("cosine_matrix() compares a list of vectors: cosine_matrix([happy, formal], layer=10)")
    names, rows = [], []
    for number, vector in enumerate(vectors):
        name, direction = _named(vector, layer, number)
        names.append(name if name not in names else f"{name} ({number})")
        rows.append(unit(direction.detach().cpu().flatten().double(), name))
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise InterventionError(f"directions of different widths have no cosine: {sorted(widths)}")
    stacked = torch.stack(rows)
    cosines = (stacked @ stacked.T).clamp(-1, 1)
    table = CosineMatrix(cosines.numpy(), index=names, columns=names)
    where = f" at layer {layer}" if layer is not None else ""
    table.attrs |= {"random_sd": stacked.shape[1] ** -0.5, "title": f"Cosine similarity{where}"}
    return table


def _named(vector: Direction, layer: int | None, number: int) -> tuple[str, torch.Tensor]:
    if not isinstance(vector, SteeringVector):
        return f"direction {number}", checked(vector, f"direction {number}", (1,))
    chosen = layer if layer is not None else vector.layer
    if chosen is None:
        raise InterventionError(f"cosine_matrix(): {vector.label} has no chosen layer; name one with layer=")
    return vector.name or f"vector {number}", vector[chosen]
