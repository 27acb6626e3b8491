"""How a direction is computed from activations: one file per method, each a function registered by its name.

A method takes the activations of one layer, positive ``[n, width]`` and negative ``[m, width]``, float64, and returns
the direction ``[width]``. Its scale is set afterwards: two-class methods are stored at one gap.
"""

from collections.abc import Callable

from torch import Tensor

from ...errors import DataError
from .mean_difference import mean_difference

Method = Callable[[Tensor, Tensor], Tensor]

METHODS: dict[str, Method] = {"mean_difference": mean_difference}


def find_method(method: str | Method) -> tuple[str, Method]:
    """The name and the function of a method; a callable is a method too.

    Raises:
        DataError: for an unknown name, listing those there are.
    """
    if callable(method):
        return getattr(method, "__name__", "custom"), method
    if method not in METHODS:
        raise DataError(f"unknown method {method!r}; the methods are {', '.join(METHODS)}, or a function of your own")
    return method, METHODS[method]


__all__ = ["METHODS", "Method", "find_method"]
