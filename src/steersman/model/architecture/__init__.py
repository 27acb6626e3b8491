"""Finds the parts of a decoder-only causal language model, and proves at load that they are the right ones."""

from .architecture import Architecture
from .find import find_architecture
from .fingerprint import fingerprint
from .taps import Tap

__all__ = ["Architecture", "Tap", "find_architecture", "fingerprint"]
