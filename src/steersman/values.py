"""Activations kept as data: values to put in, means, a reference set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .errors import InterventionError, MismatchError
from .files import container
from .sites import check_component, layer_index, layer_ranges
from .tensors import checked
from .vector import Origin, check_text


@dataclass(frozen=True, eq=False)
class LayerValues:
    """One tensor per layer, read at one component; ``values[10]`` is that of layer 10.

    Attributes:
        tensors: layer -> tensor whose last dimension is the component's width (``[n_heads, d_head]`` at ``z``).
        site: the component they were read at, or None if unknown.
        name: what to call them in a spec.
        origin: the model they were read from, or None if unknown.
        metadata: JSON-able facts needed to repeat them.
    """

    tensors: Mapping[int, Tensor]
    site: str | None = None
    name: str | None = None
    origin: Origin | None = None
    metadata: Mapping[str, Any] = field(default_factory=lambda: {})

    def __post_init__(self) -> None:
        if self.site is not None:
            check_component(self.site)
        check_text(self.name, "the name of values")
        layers = sorted(layer_index(layer, "values") for layer in self.tensors)
        if not layers:
            raise InterventionError("values need at least one layer")
        own = {layer: checked(self.tensors[layer], f"the values of layer {layer}") for layer in layers}
        object.__setattr__(self, "tensors", own)
        object.__setattr__(self, "metadata", container.as_stored(self.metadata, "the metadata of values"))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers there are values for, ascending."""
        return tuple(self.tensors)

    def __getitem__(self, layer: int) -> Tensor:
        if layer not in self.tensors:
            raise MismatchError(f"there are no values for layer {layer}, only for {list(self.tensors)}")
        return self.tensors[layer]

    def __contains__(self, layer: object) -> bool:
        return layer in self.tensors

    def __iter__(self) -> Iterator[int]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        shapes = sorted({tuple(tensor.shape) for tensor in self.tensors.values()})
        each = " or ".join(str(list(shape)) for shape in shapes[:2]) if len(shapes) < 3 else "tensors of several shapes"
        parts = [repr(self.name)] if self.name else []
        parts += [f"layers {layer_ranges(self.layers)}", f"{each} each", *([self.site] if self.site else [])]
        return f"{type(self).__name__}({', '.join(parts)})"

    def leaves(self) -> list[tuple[str, Tensor]]:
        """Its tensors, named."""
        return [(str(layer), tensor) for layer, tensor in self.tensors.items()]

    def facts(self) -> dict[str, Any]:
        """What besides its tensors decides what an intervention does with it, as JSON-able values."""
        return {"site": self.site, "origin": self.origin and self.origin.fingerprint}


#: One tensor for every layer acted on, or one per layer.
Values = Tensor | LayerValues


def check_values(value: object, what: str) -> Values:
    """Normalise what users pass as values, means or a reference: a tensor, a mapping, or values with a site."""
    if isinstance(value, LayerValues):
        return value
    if isinstance(value, Mapping):
        return LayerValues(value)  # pyright: ignore[reportUnknownArgumentType]
    return checked(value, what)


def rows_of(values: Values, layer: int, width: int, chosen: int, unit: int, what: str) -> Tensor:
    """The values of a layer as ``[n, width]`` or ``[n, chosen]``: n = 1 when one row serves every token.

    Args:
        values: for a site of ``width`` values, of which ``chosen`` are set.
        unit: the values of one head (``z``) or 1; heads may be flat or ``[.., n_heads, d_head]``.

    Raises:
        MismatchError: when the shape fits neither the whole site nor the chosen part of it.
    """
    tensor = values[layer] if isinstance(values, LayerValues) else values
    for size in dict.fromkeys((width, chosen)):
        for row in ((size,), (size // unit, unit)) if unit > 1 else ((size,),):
            if tensor.shape == row or tensor.shape[1:] == row:
                return tensor.reshape(-1, size)
    raise MismatchError(
        f"{what} has shape {tuple(tensor.shape)} at layer {layer}; it needs [{width}], or one such row per token"
        + (f"; or [{chosen}] for the chosen part" if chosen != width else "")
    )
