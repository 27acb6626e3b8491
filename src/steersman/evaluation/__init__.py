"""What steering does, and what it breaks: targets, metrics, controls, statistics."""

from .targets import contrast

__all__ = ["contrast"]
