"""Which model it was, as written into every document and record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .steering_model import SteeringModel


def describe(model: SteeringModel) -> dict[str, Any]:
    """Name, revision, fingerprint of its architecture, kind, precision, device, and the digest of its edits."""
    config: Any = model.architecture.hf.config
    return {
        "name": model.shape.name,
        "revision": getattr(config, "_commit_hash", None),
        "fingerprint": model.shape.fingerprint,
        "model_type": model.shape.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "edits": model.plan.digest if model.plan else None,
    }
