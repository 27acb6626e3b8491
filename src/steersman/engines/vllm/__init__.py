"""Steering at serving speed: per request, on stock vLLM, in one continuous batch.

vLLM itself is never imported by importing this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .steered import SteeredLLM

__all__ = ["SteeredLLM"]


def __getattr__(name: str) -> Any:
    if name != "SteeredLLM":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .steered import SteeredLLM

    return SteeredLLM
