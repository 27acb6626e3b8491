"""Linear probes: what can be read off activations by a linear map, measured on held-out sources with controls."""

from .linear import LinearProbe

__all__ = ["LinearProbe"]
