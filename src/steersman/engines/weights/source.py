"""The checkpoint that a model was loaded from, read tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_EXPERT = re.compile(r"\bexperts\.(\d+)\.")


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint.

    Attributes:
        file: the name of the shard that holds it.
        key: its name there.
        name: the parameter of the model that it is, or is part of.
        expert: its index along the parameter's first axis, where each expert is stored on its own.
        dtype, shape: as stored.
    """

    file: str
    key: str
    name: str
    expert: int | None
    dtype: torch.dtype
    shape: tuple[int, ...]


class Source:
    """A folder with safetensors shards.

    Attributes:
        folder: where it is.
        stored: its tensors, shard by shard, in the order in which they lie there.
    """

    def __init__(self, folder: Path, model: nn.Module) -> None:
        self.folder = folder
        names = _Names(model)
        self.stored: list[Stored] = []
        for file in shards(folder):
            with safe_open(folder / file, "pt") as opened:
                for key in cast("Iterable[str]", opened.keys()):
                    part: Any = opened.get_slice(key)
                    name, expert = names.of(key)
                    self.stored.append(
                        Stored(file, key, name, expert, DTYPES[part.get_dtype()], tuple(part.get_shape()))
                    )

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Those parameters among ``names`` that it holds under no name that is understood."""
        held = {stored.name for stored in self.stored}
        return [name for name in names if name not in held]

    def read(self, stored: Stored) -> Tensor:
        """One tensor."""
        with safe_open(self.folder / stored.file, "pt") as opened:
            return cast(Tensor, opened.get_tensor(stored.key))

    def find(self, name: str, expert: int | None = None) -> Stored:
        """Where a parameter, or that of one expert, is stored."""
        return next(s for s in self.stored if s.name == name and (expert is None or s.expert == expert))


#: safetensors' names of what a model's weights may be stored as
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def shards(folder: Path) -> list[str]:
    """The safetensors files that make up a checkpoint; empty if it has none."""
    import json

    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
        return files if all((folder / file).is_file() for file in files) else []
    return [SINGLE] if (folder / SINGLE).is_file() else []


def loaded_from(model: nn.Module) -> Path | None:
    """The folder of the checkpoint that a model was loaded from, its files at hand; None if there is none."""
    config: Any = model.config
    name = str(getattr(config, "_name_or_path", "") or "")
    if not name:
        return None
    folder = Path(name)
    if not folder.is_dir():
        found = _cached(name, getattr(config, "_commit_hash", None))
        if found is None:
            return None
        folder = found
    return folder if shards(folder) else None


def _cached(repo: str, revision: str | None) -> Path | None:
    """The snapshot of a hub repository in the cache."""
    from huggingface_hub import try_to_load_from_cache

    for file in (INDEX, SINGLE):
        try:
            found = try_to_load_from_cache(repo, file, revision=revision)
        except ValueError:  # no name of a repository
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


class _Names:
    """From names in a checkpoint to names of parameters, the way transformers itself loads them."""

    def __init__(self, model: nn.Module) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        self.model: Any = model
        transforms: list[Any] = get_model_conversion_mapping(self.model)
        self.renamings: Any = [t for t in transforms if isinstance(t, WeightRenaming)]
        self.converters: Any = [t for t in transforms if isinstance(t, WeightConverter)]
        self.parameters: Any = model.state_dict()

    def of(self, key: str) -> tuple[str, int | None]:
        """The parameter of a key, and the expert it is of."""
        from transformers.core_model_loading import MergeModulelist, rename_source_key

        name, pattern = rename_source_key(
            key, self.renamings, self.converters, self.model.base_model_prefix, self.parameters
        )
        if pattern is None:
            return name, None
        converter = next(c for c in self.converters if pattern in c.source_patterns)
        merged = len(converter.operations) == 1 and isinstance(converter.operations[0], MergeModulelist)
        expert = _EXPERT.search(key)
        if not merged or expert is None or getattr(converter.operations[0], "dim", None) != 0:
            return key, None  # put together in another way: nothing that is changed here
        return name, int(expert[1])
