"""One self-contained HTML file about a sweep, an evaluation, or both."""

from .page import render, write

__all__ = ["render", "write"]
