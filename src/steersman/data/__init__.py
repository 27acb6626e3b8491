"""Data that directions are learned from."""

from .labelled import LabelledTexts
from .pairs import ContrastPairs

__all__ = ["ContrastPairs", "LabelledTexts"]
