"""Data that directions are learned from."""

from .pairs import ContrastPairs

__all__ = ["ContrastPairs"]
