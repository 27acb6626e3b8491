"""What is needed to repeat a measurement, beside which model it was."""

from __future__ import annotations

from .. import installed

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Of Python, this package and what it computes with."""
    return installed.versions(_PACKAGES)
