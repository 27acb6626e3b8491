"""The named entries of a plan, taken apart into tensors and JSON, and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from .eraser import Eraser
from .errors import FileFormatError
from .values import LayerValues
from .vector import Origin, SteeringVector

Entry = Tensor | SteeringVector | LayerValues | Eraser


def entry_parts(entry: Entry) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an entry by name, and the rest as JSON-able values with its ``type``."""
    if isinstance(entry, Tensor):
        return {"tensor": entry}, {"type": "tensor"}
    if isinstance(entry, SteeringVector):
        tensors, document = entry.parts()
        return tensors, {"type": "vector", **document}
    facts: dict[str, Any] = {
        "site": entry.site,
        "name": entry.name,
        "origin": asdict(entry.origin) if entry.origin else None,
    }
    if isinstance(entry, LayerValues):
        return dict(entry.leaves()), {"type": "values", **facts, "metadata": dict(entry.metadata)}
    return dict(entry.leaves()), {"type": "eraser", **facts}


def entry_from(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> Entry:
    """The inverse of :func:`entry_parts`; FileFormatError when they do not belong together."""
    facts = dict(document)
    kind = facts.pop("type", None)
    try:
        if kind == "tensor":
            (tensor,) = tensors.values()
            return tensor
        if kind == "vector":
            return SteeringVector.from_parts(tensors, facts)
        facts["origin"] = Origin(**facts["origin"]) if facts.get("origin") else None
        if kind == "values":
            return LayerValues({int(name): tensor for name, tensor in tensors.items()}, **facts)
        if kind == "eraser":
            layers = sorted({int(name.partition(".")[0]) for name in tensors})
            parts = ("write", "read", "mean")
            if len(tensors) != len(layers) * len(parts):
                raise ValueError(f"an eraser has {', '.join(parts)} in each layer, and no more")
            return Eraser({n: tuple(tensors[f"{n}.{part}"] for part in parts) for n in layers}, **facts)  # pyright: ignore[reportArgumentType]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FileFormatError(f"an entry of type {kind!r} cannot be read: {error}") from error
    raise FileFormatError(f"an entry has the unknown type {kind!r}")
