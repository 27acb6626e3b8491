"""What is needed to repeat a measurement: versions, and which model it was."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import __version__
from ..model import SteeringModel

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Of Python, this package and what it computes with."""
    found = {"python": platform.python_version(), "steersman": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe(model: SteeringModel) -> dict[str, Any]:
    """Which model: name, revision, fingerprint of its architecture, precision, and its edits."""
    config: Any = model.architecture.hf.config
    return {
        "name": model.shape.name,
        "revision": getattr(config, "_commit_hash", None),
        "fingerprint": model.shape.fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
        "edits": model.plan.digest if model.plan else None,
    }
