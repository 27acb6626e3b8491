"""Directions of sparse autoencoders: a feature's row of the decoder, from a folder of SAELens or Gemma Scope.

    SAELens       cfg.json, sae_weights.safetensors      W_dec [d_sae, width]; cfg.json names the hook point
    Gemma Scope   params.npz                             W_dec [d_sae, width]; layer and site are the caller's to name

Files come from elsewhere: nothing is unpickled, one row is read and not the whole decoder, and every size is checked
before anything is allocated.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import DataError, FileFormatError
from ..vector import SteeringVector

CONFIG, WEIGHTS, PARAMETERS = "cfg.json", "sae_weights.safetensors", "params.npz"
#: Larger than any configuration.
MAX_CONFIG = 1 << 20
#: Wider than any model.
MAX_WIDTH = 1 << 20

_HOOK = re.compile(r"blocks\.(\d{1,6})\.(?:hook_)?([a-z_.]+)")
_SITES = {
    "resid_pre": "resid_pre", "resid_mid": "resid_mid", "resid_post": "resid_post", "attn_out": "attn_out",
    "mlp_out": "mlp_out", "attn.hook_z": "z", "mlp.hook_post": "mlp_post",
}  # fmt: skip


def sae_direction(
    folder: str | Path, index: int, *, layer: int | None = None, site: str | None = None, name: str | None = None
) -> SteeringVector:
    """The decoder row of one feature, with its norm, as a vector for the place where the autoencoder reads.

    Args:
        folder: with ``cfg.json`` and ``sae_weights.safetensors``, or with ``params.npz``.
        index: the feature.
        layer: the block; needed for Gemma Scope, and otherwise only checked against ``cfg.json``.
        site: the component; by default what ``cfg.json`` says, ``resid_post`` for Gemma Scope.
        name: what to call it; ``"feature <index>"`` unless given.

    Returns:
        A vector of one layer, which is its chosen one. Its scale is the decoder's: strength 1 adds what the feature
        adds to a reconstruction at an activation of 1. It has no gap, and is checked against a model by its width only.

    Raises:
        FileNotFoundError: neither kind of file is there.
        FileFormatError: a file is damaged, hostile, or not what it should be.
        DataError: no such feature; a layer or site that differs from what the folder says, or is not named anywhere.
    """
    here = Path(folder)
    if (here / WEIGHTS).is_file():
        known_layer, known_site, width = _config(here / CONFIG)
        row, features = _safetensors_row(here / WEIGHTS, index)
        if width not in (None, len(row)):
            raise FileFormatError(f"{here / CONFIG} says d_in is {width}, but W_dec has rows of {len(row)}")
    elif (here / PARAMETERS).is_file():
        known_layer, known_site = None, None
        row, features = _npz_row(here / PARAMETERS, index)
    else:
        raise FileNotFoundError(f"{here} holds neither {WEIGHTS} (SAELens) nor {PARAMETERS} (Gemma Scope)")
    at = _agreed(here, "layer", layer, known_layer)
    if at is None:
        raise DataError(f"{here} does not say at which layer it reads; name it: sae_direction(folder, index, layer=20)")
    where = _agreed(here, "site", site, known_site) or "resid_post"
    if not bool(torch.isfinite(row).all()):
        raise FileFormatError(f"{here}: the decoder row of feature {index} holds NaN or infinite numbers")
    facts = {
        "folder": here.name,
        "feature": index,
        "features": features,
        "norm": float(row.norm()),
        "scale": "decoder row",
    }
    return SteeringVector(
        {at: row}, site=where, name=name or f"feature {index}", method="sae", layer=at, metadata=facts
    )


def _agreed(here: Path, what: str, given: Any, known: Any) -> Any:
    if given is not None and known is not None and given != known:
        raise DataError(f"{here} was made for {what} {known}, not {given}")
    return known if given is None else given


def _config(path: Path) -> tuple[int | None, str | None, int | None]:
    """Layer, site and width from ``cfg.json``: None for what it does not say."""
    if not path.is_file():
        return None, None, None
    if path.stat().st_size > MAX_CONFIG:
        raise FileFormatError(f"{path} has {path.stat().st_size} bytes; that is no configuration")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise FileFormatError(f"{path} holds no JSON object")
    config = cast("dict[str, Any]", found)
    metadata = config.get("metadata")
    inner = cast("dict[str, Any]", metadata) if isinstance(metadata, dict) else {}
    hook = config.get("hook_name") or config.get("hook_point") or inner.get("hook_name")
    width = config.get("d_in")
    if not isinstance(hook, str):
        return None, None, width if isinstance(width, int) else None
    matched = _HOOK.fullmatch(hook)
    site = _SITES.get(matched[2]) if matched else None
    if matched is None or site is None:
        raise FileFormatError(
            f"{path}: the hook point {hook!r} is none of {', '.join(_SITES)}; no such site exists here"
        )
    return int(matched[1]), site, width if isinstance(width, int) else None


def _safetensors_row(path: Path, index: int) -> tuple[Tensor, int]:
    try:
        with safe_open(path, "pt") as opened:
            if "W_dec" not in opened.keys():  # noqa: SIM118
                raise FileFormatError(f"{path} has no W_dec; it holds {', '.join(sorted(opened.keys())[:10])}")
            decoder = opened.get_slice("W_dec")
            features = _checked_shape(path, tuple(decoder.get_shape()), index)
            row = cast(Tensor, decoder[index % features])
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path} is damaged or no safetensors file: {error}") from error
    if not row.is_floating_point():
        raise FileFormatError(f"{path}: W_dec is of {row.dtype}; real numbers are expected")
    return row.float(), features


def _npz_row(path: Path, index: int) -> tuple[Tensor, int]:
    """One row of ``W_dec.npy`` in a zip file, the rest skipped."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("W_dec.npy") as opened:
            shape, by_column, dtype = _npy_header(path, opened)
            features = _checked_shape(path, shape, index)
            start, width = opened.tell(), shape[1]
            at = index % features
            if by_column:
                places = [start + (column * features + at) * dtype.itemsize for column in range(width)]
                raw = b"".join(_take(opened, place, dtype.itemsize) for place in places)
            else:
                raw = _take(opened, start + at * width * dtype.itemsize, width * dtype.itemsize)
    except KeyError as error:
        raise FileFormatError(f"{path} has no W_dec") from error
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise FileFormatError(f"{path} is damaged or no npz file: {error}") from error
    if len(raw) != width * dtype.itemsize:
        raise FileFormatError(f"{path} is truncated: W_dec ends before feature {index}")
    return torch.from_numpy(np.frombuffer(raw, dtype).astype(np.float32)), features


def _take(opened: Any, place: int, count: int) -> bytes:
    opened.seek(place)
    return opened.read(count)


def _npy_header(path: Path, opened: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(opened)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if reader is None:
        raise FileFormatError(f"{path}: W_dec is in numpy format {version}; 1.0 and 2.0 are read")
    shape, by_column, dtype = reader(opened)
    if dtype.kind != "f":
        raise FileFormatError(f"{path}: W_dec is of {dtype}; real numbers are expected")
    return shape, by_column, dtype


def _checked_shape(path: Path, shape: tuple[int, ...], index: int) -> int:
    """The number of features, once the shape is one of a decoder that has this one."""
    if len(shape) != 2 or not 0 < shape[1] <= MAX_WIDTH or shape[0] < 1:
        raise FileFormatError(f"{path}: W_dec has the shape {shape}; it should be [features, width]")
    if not -shape[0] <= index < shape[0]:
        raise DataError(f"{path} has {shape[0]} features, so none with the index {index}")
    return shape[0]
