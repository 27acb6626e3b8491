"""``.svec``: JSON, written by IBM's activation-steering and, differently, by AISteer360.

Both hold ``model_type`` and ``directions``, an object layer -> numbers.

activation-steering
    one list a layer and ``explained_variances``. It reads a direction at the *output* of block l and adds it at the
    *input* of block l (Lee et al. 2024, arXiv:2409.05907). A direction belongs where it was read, so the layers are
    ``resid_post`` here; ``site="resid_pre"`` steers as that library does.
AISteer360
    a list of K rows a layer. K = 1 is a direction; ``n_heads`` rows of ``head_dim`` (with ``num_heads``, ``head_dim``
    beside them) are one direction a head, of ITI (Li et al. 2023, arXiv:2306.03341), site ``z``. K rows of any other
    meaning (ActAdd's one a token, angular steering's plane) are no direction and are refused. Whether a vector was
    fitted at the input or the output of its blocks is not stored; the output is that library's default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import FileFormatError
from .foreign import MAX_LAYERS, Foreign, clean, direction, layer_from, numbers, read_json, same_width, shown

_IBM = (
    "activation-steering reads a direction at the output of its block and adds it at the input; here it is at the "
    'output, where it was read, and site="resid_pre" steers as that library does'
)
_UNSTORED = (
    'an AISteer360 file does not say whether it was fitted at the input of the blocks: then give site="resid_pre"'
)


def read(path: Path) -> Foreign:
    """The vector of a ``.svec`` file.

    Raises:
        FileFormatError: no such JSON, numbers that are none, or rows that are no single direction.
    """
    document = read_json(path)
    stored = document.get("directions")
    if not isinstance(stored, dict) or not stored:
        raise FileFormatError(f"{path} has no directions: it is no .svec file")
    items = cast("dict[str, Any]", stored)
    if len(items) > MAX_LAYERS:
        raise FileFormatError(f"{path} holds {len(items)} layers; more than {MAX_LAYERS} are refused")
    tensors = {layer_from(key, path): _numbers(value, path, key) for key, value in items.items()}
    facts = {"model_type": clean(document.get("model_type"))}
    for key in ("explained_variances", "probe_accuracies"):
        found = numbers(document.get(key), path, key)
        facts |= {key: found} if found is not None else {}
    if any(tensor.dim() == 2 for tensor in tensors.values()):
        return _aisteer(tensors, document, facts, path)
    ibm = "explained_variances" in facts and "num_heads" not in document
    return Foreign(
        "activation-steering vector" if ibm else "AISteer360 vector",
        _checked(tensors, path),
        facts=facts,
        hints=(_IBM if ibm else _UNSTORED,),
    )


def _aisteer(tensors: dict[int, Tensor], document: dict[str, Any], facts: dict[str, Any], path: Path) -> Foreign:
    heads = (document.get("num_heads"), document.get("head_dim"))
    if all(tuple(tensor.shape) == heads for tensor in tensors.values()):
        return Foreign("AISteer360 vector, per head", _checked(tensors, path, (2,)), "z", method="iti", facts=facts)
    rows = next((tensor.shape[0] for tensor in tensors.values() if tensor.dim() == 2 and tensor.shape[0] != 1), None)
    if rows is not None:
        raise FileFormatError(
            f"{path} holds {rows} rows a layer, which is no direction (ActAdd keeps one a token, angular steering two "
            "that span a plane, and the file does not say which); give the row you mean to SteeringVector({layer: row})"
        )
    single = {layer: tensor.reshape(-1) for layer, tensor in tensors.items()}
    return Foreign("AISteer360 vector", _checked(single, path), facts=facts, hints=(_UNSTORED,))


def _checked(tensors: dict[int, Tensor], path: Path, dims: tuple[int, ...] = (1,)) -> dict[int, Tensor]:
    found = {layer: direction(tensor, path, f"layer {layer}", dims) for layer, tensor in tensors.items()}
    return same_width(found, path)


def _numbers(value: Any, path: Path, key: str) -> Tensor:
    rows: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    flat = [number for row in rows for number in (cast("list[Any]", row) if isinstance(row, list) else [row])]
    if not isinstance(value, list) or not flat or not all(type(number) in (int, float) for number in flat):
        raise FileFormatError(f"{path}: layer {shown(key)} is no list of numbers, nor a list of such lists")
    try:
        return torch.tensor(rows, dtype=torch.float64)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        raise FileFormatError(f"{path}: layer {shown(key)} has rows of unequal length, or huge numbers") from None
