"""Vectors kept with ``torch.save``: CAA, EasyEdit2 and persona vectors.

===============  ====================================================================================================
CAA              ``vec_layer_<l>_<model>.pt``: one ``[d_model]`` a file, the raw difference of means at the output of
                 block l (Rimsky et al. 2023, arXiv:2312.06681); a folder holds the layers
EasyEdit2        ``layer_<l>.pt``: the same under another name; or one dict ``{"layer_<l>": tensor}``
persona vectors  ``[n_layers + 1, d_model]``, a row for each of Hugging Face's ``hidden_states``: row i is the output
                 of block i-1, row 0 the embeddings, the last row normed by the model's final norm
                 (Chen et al. 2025, arXiv:2507.21509)
===============  ====================================================================================================
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from ..errors import FileFormatError
from . import torch_file
from .foreign import MAX_LAYERS, Foreign, direction, layer_from, same_width, shown

_CAA = re.compile(r"vec_layer_([0-9]+)_(.+)\.pt", re.DOTALL)
_EASYEDIT = re.compile(r"layer_([0-9]+)\.pt")
_KEY = re.compile(r"layer_([0-9]+)")


def read(path: Path) -> Foreign:
    """The vector of one file.

    Raises:
        FileFormatError: it holds something else than tensors, or does not say which layer it is of.
    """
    if path.name.startswith("activations_"):
        raise FileFormatError(f"{path} holds activations by its name, not a vector; give the vec_layer_<l>_*.pt file")
    content = torch_file.read(path)
    if isinstance(content, dict):
        return _from_dict(content, path)
    if content.dim() == 2:
        return _persona(content, path)
    for pattern, name in ((_CAA, "CAA vector"), (_EASYEDIT, "EasyEdit2 vector")):
        found = pattern.fullmatch(path.name)
        if found:
            _check_tail(found, path)
            layer = layer_from(found[1], path)
            return Foreign(name, {layer: direction(content, path, "its tensor")}, facts=_model(found))
    raise FileFormatError(
        f"{path} holds one tensor {list(content.shape)} and does not say of which layer; "
        "name it vec_layer_<layer>_<model>.pt, or give the tensor to SteeringVector({layer: tensor})"
    )


def is_folder(folder: Path) -> bool:
    """Whether a folder has files of the names that CAA or EasyEdit2 give."""
    return any(_CAA.fullmatch(path.name) or _EASYEDIT.fullmatch(path.name) for path in folder.iterdir())


def read_folder(folder: Path) -> Foreign:
    """All layers of a folder, one file each, of one model."""
    for pattern, name in ((_CAA, "CAA vectors"), (_EASYEDIT, "EasyEdit2 vectors")):
        found = {path: match for path in folder.iterdir() if (match := pattern.fullmatch(path.name))}
        if found:
            return _gathered(folder, found, name)
    raise FileFormatError(f"the folder {folder} holds no vec_layer_<l>_<model>.pt and no layer_<l>.pt")


def _gathered(folder: Path, found: dict[Path, re.Match[str]], name: str) -> Foreign:
    if len(found) > MAX_LAYERS:
        raise FileFormatError(f"the folder {folder} holds {len(found)} vectors; more than {MAX_LAYERS} are refused")
    models = sorted({match[2] for match in found.values() if match.re is _CAA})
    if len(models) > 1:
        raise FileFormatError(
            f"the folder {folder} holds vectors of {len(models)} models ({', '.join(shown(m) for m in models[:3])}); "
            "give a folder with those of one, or one file"
        )
    directions: dict[int, Tensor] = {}
    for path, match in sorted(found.items()):
        _check_tail(match, path)
        content = torch_file.read(path)
        if isinstance(content, dict):
            raise FileFormatError(f"{path} holds a dict, not the tensor of one layer")
        directions[layer_from(match[1], path)] = direction(content, path, "its tensor")
    facts = _model(next(iter(found.values())))
    return Foreign(name, same_width(directions, folder), facts=facts)


def _from_dict(content: dict[object, Tensor], path: Path) -> Foreign:
    matches = {key: _KEY.fullmatch(key) if isinstance(key, str) else None for key in content}
    wrong = next((key for key, match in matches.items() if match is None), None)
    if wrong is not None:
        raise FileFormatError(
            f"{path} holds a dict with the key {shown(str(wrong))}; layer_<layer> is expected, as EasyEdit2 writes it"
        )
    directions = {
        layer_from(match[1], path): direction(content[key], path, shown(match[0]))
        for key, match in matches.items()
        if match is not None
    }
    return Foreign("EasyEdit2 vectors", same_width(directions, path))


def _persona(rows: Tensor, path: Path) -> Foreign:
    last = len(rows) - 1
    if not 2 <= last <= MAX_LAYERS:
        raise FileFormatError(
            f"{path} holds a tensor {list(rows.shape)}; [d_model] is a vector of one layer, [n_layers + 1, d_model] "
            "one of all hidden states, and this is neither"
        )
    directions = {row - 1: direction(rows[row], path, f"row {row}") for row in range(1, last)}
    notes = (
        "row 0 (the embeddings) is left out, which as a vector is resid_pre of block 0",
        f"row {last} (block {last - 1}) is left out: Hugging Face gives that hidden state normed",
    )
    return Foreign("persona vectors", directions, facts={"rows": len(rows)}, notes=notes)


def _check_tail(match: re.Match[str], path: Path) -> None:
    if match.re is _CAA and re.match(r"head_[0-9]", match[2]):
        raise FileFormatError(f"{path} is the vector of one attention head by its name, not of a layer")


def _model(match: re.Match[str]) -> dict[str, str]:
    return {"model": "".join(c for c in match[2][:200] if c.isprintable())} if match.re is _CAA else {}
