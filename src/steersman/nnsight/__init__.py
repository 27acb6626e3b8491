"""Steering inside nnsight: its old notation and today's on one class, plans inside traces, names for every model."""

from __future__ import annotations

from .versions import check_parts, check_version

check_version()
check_parts()

from .applying import apply  # noqa: E402
from .language_model import LanguageModel  # noqa: E402

__all__ = ["LanguageModel", "apply"]
