"""A fitted concept eraser: per layer the affine map that removes a concept, apart from what fits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .errors import InterventionError, MismatchError
from .shape import ModelShape
from .sites import check_component, layer_index, layer_ranges
from .tensors import checked
from .vector import Origin, check_text


@dataclass(frozen=True, eq=False)
class Eraser:
    """``h -> h - A B^T (h - mu)`` per layer.

    Attributes:
        maps: layer -> (A ``[d, k]``, B ``[d, k]``, mu ``[d]``).
        site: the component it was fitted at.
        name: what to call it.
        origin: the model it was fitted on.
    """

    maps: Mapping[int, tuple[Tensor, Tensor, Tensor]]
    site: str = "resid_post"
    name: str | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        check_component(self.site)
        check_text(self.name, "the eraser's name")
        own: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for layer in sorted(layer_index(layer, "the eraser") for layer in self.maps):
            what = f"the eraser's layer {layer}"
            write, read, mean = (checked(t, what, (d,)) for t, d in zip(self.maps[layer], (2, 2, 1), strict=True))
            if not write.shape == read.shape == (mean.shape[0], write.shape[1]):
                raise InterventionError(f"{what}: A and B must be [d, k] and mu [d]")
            own[layer] = (write, read, mean)
        if not own:
            raise InterventionError("an eraser needs at least one layer")
        object.__setattr__(self, "maps", own)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it was fitted at, ascending."""
        return tuple(self.maps)

    def __getitem__(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.maps[layer]

    def __repr__(self) -> str:
        ranks = sorted({write.shape[1] for write, _, _ in self.maps.values()})
        parts = [repr(self.name)] if self.name else []
        parts += [f"layers {layer_ranges(self.layers)}", f"rank {layer_ranges(ranks)}", self.site]
        return f"Eraser({', '.join(parts)})"

    def leaves(self) -> list[tuple[str, Tensor]]:
        """Its tensors, named."""
        parts = ("write", "read", "mean")
        return [(f"{layer}.{p}", t) for layer, map_ in self.maps.items() for p, t in zip(parts, map_, strict=True)]

    def facts(self) -> dict[str, Any]:
        """What besides its tensors decides what an intervention does with it, as JSON-able values."""
        return {"site": self.site, "origin": self.origin and self.origin.fingerprint}

    def check(self, shape: ModelShape) -> None:
        """Raise MismatchError unless it fits a model of this shape."""
        if self.origin and self.origin.fingerprint != shape.fingerprint:
            raise MismatchError(f"the eraser was fitted on {self.origin.model}, but this is {shape.name}")
        for layer in self.layers:
            shape.layer(layer, "the eraser")
            width = shape.width(self.site, layer)
            if self[layer][2].numel() != width:
                raise MismatchError(
                    f"the eraser has width {self[layer][2].numel()} at layer {layer}, but {shape.name} has {width}"
                )
