"""Which models compute a token alike wherever it stands in a row, given a mask and its position."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .architecture import Architecture

#: Families whose attention looks at more than a mask and position ids.
_NOT_PACKABLE = {
    "bloom": "its attention adds a bias by distance (ALiBi), counted along the row",
    "gpt_neo": "its local attention counts distance along the row",
    "qwen3_next": "its linear attention runs along the row",
    "qwen3_5": "its linear attention runs along the row",
    "qwen3_5_text": "its linear attention runs along the row",
}


def text_config(architecture: Architecture) -> Any:
    """The configuration of the text decoder."""
    config: Any = architecture.hf.config
    return config.get_text_config()


def why_not(architecture: Architecture, longest: int) -> str | None:
    """The reason why texts of up to ``longest`` tokens cannot be laid out in a line under a mask, or None."""
    config = text_config(architecture)
    reason = _NOT_PACKABLE.get(architecture.shape.model_type)
    if reason is None and getattr(config, "alibi", False):
        reason = _NOT_PACKABLE["bloom"]
    if reason is not None or architecture.family == "unknown":
        return reason or "its family is not known"
    implementation = getattr(config, "_attn_implementation", None)
    if implementation not in ("sdpa", "eager"):
        return f"its attention runs as {implementation!r}, which takes no mask of its own"
    window: int | None = getattr(config, "sliding_window", None)
    if window and longest > window:
        return f"texts of {longest} tokens reach beyond its sliding window of {window}"
    return None


def attention_mask(architecture: Architecture, mask: Tensor) -> Any:
    """A mask ``[rows, 1, queries, keys]`` as the decoder takes it: one for each kind of layer."""
    kinds: Any = getattr(text_config(architecture), "layer_types", None)
    return dict.fromkeys(kinds, mask) if kinds and len(set(kinds)) > 1 else mask
