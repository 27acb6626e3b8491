"""A fitted concept eraser: per layer the affine map that removes a concept, apart from what fits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .errors import InterventionError, MismatchError
from .shape import ModelShape
from .sites import check_component
from .tensors import checked
from .vector import Origin


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
        own: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for layer, (write, read, mean) in sorted(self.maps.items()):
            what = f"the eraser's layer {layer}"
            own[layer] = (checked(write, what, (2,)), checked(read, what, (2,)), checked(mean, what, (1,)))
            if not own[layer][0].shape == own[layer][1].shape == (mean.shape[0], write.shape[1]):
                raise InterventionError(f"{what}: A and B must be [d, k] and mu [d]")
        if not own:
            raise InterventionError("an eraser needs at least one layer")
        object.__setattr__(self, "maps", own)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it was fitted at, ascending."""
        return tuple(self.maps)

    def __getitem__(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.maps[layer]

    def leaves(self) -> list[tuple[str, Tensor]]:
        """Its tensors, named."""
        parts = ("write", "read", "mean")
        return [
            (f"{layer}.{p}", t) for layer, map_ in self.maps.items() for p, t in zip(parts, map_, strict=True)
        ]

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
