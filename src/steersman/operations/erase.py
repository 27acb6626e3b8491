"""Erasing a concept linearly: LEACE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..eraser import Eraser
from ..errors import InterventionError, MismatchError
from .base import Intervention, Layers, ModelShape, Positions, Strength, When
from .maps import AffineMap, Map


@dataclass(frozen=True, eq=False)
class Erase(Intervention):
    """``h -> h - A B^T (h - mu)``: least-squares concept erasure (Belrose et al. 2023, arXiv:2306.03819).

    Args:
        eraser: fitted at the site and layers where it acts.
        layers: some of the eraser's layers; all of them unless given.
        strength, positions, when: as everywhere; all tokens unless told otherwise.
    """

    eraser: Eraser
    strength: Strength = 1.0
    layers: Layers | Any = "all"
    site: str | None = None
    positions: Positions | Any = None
    when: When | None = None

    operation = "erase"
    tensors = ("eraser",)

    def __post_init__(self) -> None:
        self._set(layers="all" if self.layers is None else self.layers)
        super().__post_init__()
        if not isinstance(self.eraser, Eraser):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InterventionError(f"Erase() needs an Eraser, got {type(self.eraser).__name__}")
        if self.site not in (None, self.eraser.site):
            raise InterventionError(f"this eraser was fitted at {self.eraser.site}, not at {self.site}; fit it there")

    def maps(self, shape: ModelShape) -> Iterable[tuple[str, int, Map, float]]:
        """The eraser's own map in each layer."""
        self.eraser.check(shape)
        if self.layers == "all":
            wanted = [(layer, 1.0) for layer in self.eraser.layers]
        else:
            wanted = self._weighted_layers(shape, None)
        for layer, weight in wanted:
            if layer not in self.eraser.layers:
                raise MismatchError(f"the eraser was fitted at layers {list(self.eraser.layers)}, not at {layer}")
            write, read, mean = self.eraser[layer]
            yield self.eraser.site, layer, AffineMap(-write, read, -(mean @ read)), weight
