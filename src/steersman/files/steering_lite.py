"""steering-lite: safetensors with tensors ``layer<l>.<name>`` and the method's settings as JSON in ``cfg``.

A file of a method that adds a vector has one tensor a layer, ``v``, added times ``coeff`` to the output of the block
(or of its attention or MLP, by ``target``). Files of other methods hold more than directions and are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..errors import FileFormatError
from . import container
from .foreign import MAX_FILE, Foreign, clean, direction, finite, layer_from, same_width, shown, size_of

#: methods that add ``coeff * v`` and do nothing else
ADDITIVE = ("mean_diff", "pca")
_SITES = {"residual": "resid_post", "attn_out": "attn_out", "mlp_out": "mlp_out"}
_KEY = re.compile(r"layer([0-9]+)\.(.+)", re.DOTALL)


def is_metadata(metadata: Mapping[str, str]) -> bool:
    """Whether the metadata of a safetensors file is steering-lite's."""
    return "cfg" in metadata and "format" not in metadata


def read(path: Path) -> Foreign:
    """The vector of a steering-lite file.

    Raises:
        FileFormatError: of a method that does more than add, or tensors under other names.
    """
    size_of(path, MAX_FILE)
    tensors, metadata = container.tensors(path)
    settings = _settings(metadata, path)
    method, target = str(settings.get("method")), str(settings.get("target", "residual"))
    if method not in ADDITIVE or settings.get("target_submodule") is not None or target not in _SITES:
        raise FileFormatError(
            f"{path} is of steering-lite's method {shown(method)} at {shown(target)}; only those that add a vector "
            f"({', '.join(ADDITIVE)}) to {', '.join(_SITES)} are one"
        )
    directions = {_layer(name, path): direction(tensor, path, shown(name)) for name, tensor in tensors.items()}
    coefficient = settings.get("coeff")
    facts: dict[str, Any] = {}
    hints: tuple[str, ...] = ()
    if isinstance(coefficient, int | float) and finite(coefficient):
        facts["coeff"] = coefficient
        hints = (f"steering-lite applies it at strength {coefficient:.6g} (its coeff)",)
    ordered = same_width(directions, path)
    return Foreign("steering-lite vector", ordered, _SITES[target], method=clean(method), facts=facts, hints=hints)


def _settings(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(metadata.get("cfg", ""))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise FileFormatError(f"{path}: the settings in its metadata (cfg) are no JSON object")
    return cast("dict[str, Any]", found)


def _layer(name: str, path: Path) -> int:
    match = _KEY.fullmatch(name)
    if match is None or match[2] != "v":
        raise FileFormatError(f"{path} holds a tensor {shown(name)}; layer<l>.v is expected")
    return layer_from(match[1], path)
