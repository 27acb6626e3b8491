"""What is needed to repeat a measurement: versions, and which model it was."""

from __future__ import annotations

from typing import Any

from .. import installed
from ..model import SteeringModel

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Of Python, this package and what it computes with."""
    return installed.versions(_PACKAGES)


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
