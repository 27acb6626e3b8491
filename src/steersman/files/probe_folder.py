"""AISteer360's probes: a folder with ``probe.safetensors`` (``weights.<l>``, ``[d_model]``) and ``probe.json``.

The weights point where positives score higher; the threshold is folded into ``bias``. ``location`` says whether they
read the input of block l (``resid_pre``) or its output (``resid_post``). As a vector, a probe is a direction without a
scale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from . import container
from .foreign import MAX_FILE, Foreign, clean, direction, finite, layer_from, read_json, same_width, shown, size_of

TENSORS, DOCUMENT = "probe.safetensors", "probe.json"
_SITES = {"layer_input": "resid_pre", "layer_output": "resid_post"}


def is_folder(folder: Path) -> bool:
    """Whether a folder holds such a probe."""
    return (folder / DOCUMENT).is_file() and (folder / TENSORS).is_file()


def read(folder: Path) -> Foreign:
    """The weights of a probe, layer by layer.

    Raises:
        FileFormatError: of another version or polarity, or weights that are no directions.
    """
    document = read_json(folder / DOCUMENT)
    if document.get("format_version") != 1 or document.get("polarity") != "positives_high":
        raise FileFormatError(
            f"{folder / DOCUMENT} is of format version {shown(str(document.get('format_version')))} and polarity "
            f"{shown(str(document.get('polarity')))}; version 1, positives_high, is read"
        )
    site = _SITES.get(str(document.get("location")))
    if site is None:
        raise FileFormatError(f"{folder / DOCUMENT}: its location is neither layer_input nor layer_output")
    path = folder / TENSORS
    size_of(path, MAX_FILE)
    tensors, _ = container.tensors(path)
    directions = {
        layer_from(name.removeprefix("weights."), path): direction(tensor, path, shown(name))
        for name, tensor in tensors.items()
    }
    facts: dict[str, Any] = {key: clean(document.get(key)) for key in ("model_type", "pooling")}
    bias = document.get("bias")
    if isinstance(bias, int | float) and finite(bias):
        facts["bias"] = bias
    return Foreign("AISteer360 probe", same_width(directions, path), site=site, method="probe", facts=facts)
