"""``run.json``: what is needed to repeat a run that wrote files."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import installed
from ..files.atomic import replacing

if TYPE_CHECKING:
    from .session import Run

_PACKAGES = ("torch", "transformers", "safetensors", "huggingface-hub", "tokenizers", "accelerate", "numpy", "scipy")
RUN_FILE = "run.json"


def write(run: Run, outputs: Sequence[Path], details: Mapping[str, Any]) -> Path:
    """Write the record of a run beside its outputs.

    A record that is already there, of other outputs that still exist, is kept under ``<output>.run.json``.
    """
    from ..model.provenance import describe
    from .session import as_json

    target = outputs[0].parent / RUN_FILE
    _keep_earlier(target, {path.name for path in outputs})
    document: dict[str, Any] = {
        "command": run.command,
        "settings": {name: _plain(value) for name, value in run.settings.items()},
        "seed": run.seed,
        "model": describe(run.model) if run.model is not None else None,
        "inputs": {str(path): sha256(path) for path in run.inputs},
        "outputs": {path.name: sha256(path) for path in outputs},
        **details,
        "versions": versions(),
        "hardware": hardware(),
        "started": datetime.fromtimestamp(run.started, UTC).isoformat(timespec="seconds"),
        "seconds": round(run.seconds, 3),
    }
    with replacing(target) as temporary:
        temporary.write_text(as_json("steersman.run/1", document) + "\n", encoding="utf-8")
    return target


def _keep_earlier(target: Path, names: set[str]) -> None:
    try:
        earlier = set(json.loads(target.read_text(encoding="utf-8"))["outputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    kept = sorted(name for name in earlier - names if (target.parent / name).is_file())
    if kept and not earlier & names:
        target.replace(target.parent / f"{kept[0]}.{RUN_FILE}")


def versions() -> dict[str, str]:
    """Of Python, this package and what it runs on."""
    return installed.versions(_PACKAGES)


def hardware() -> dict[str, Any]:
    """The machine, in words."""
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def sha256(path: Path) -> str:
    """The SHA-256 of a file, hex."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value  # pyright: ignore[reportUnknownVariableType]
