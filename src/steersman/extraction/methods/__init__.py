"""How a direction is computed from activations: one file per method, each a pure function registered in one line.

A method takes the activations of one layer, positive ``[n, width]`` and negative ``[m, width]``, float64, and returns
the direction ``[width]``. Its scale is set afterwards: two-class methods are stored at one gap, those with a published
scale of their own keep it. Pairs come aligned, the n-th with the n-th. A method that needs moments only may say how to
compute it from them; then no more is kept of the activations, however many there are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from ...errors import DataError
from .iti import iti
from .lda import lda, lda_of
from .logistic import logistic
from .mean_centred import mean_centred
from .mean_difference import mean_difference, mean_difference_of
from .pca import pca, pca_of
from .repeng_compatible import repeng_compatible
from .response_mean import response_mean

#: positive ``[n, width]``, negative ``[m, width]`` -> direction ``[width]``
Compute = Callable[..., Tensor]

ONE_GAP = "one gap"


@dataclass(frozen=True)
class Method:
    """A way to find a direction.

    Attributes:
        compute: the function.
        name: what vectors record.
        scale: ``"one gap"``, or what length the published scale has; such a vector is stored as computed.
        paired: whether it needs pairs.
        per_head: whether it works on single heads and chooses among those of all layers.
        site: the component it is defined at; any if None.
        read: how it is defined to read; any if None.
        of_classes: the same from the :class:`~steersman.extraction.moments.Moments` of the two classes.
        order: of these moments.
        of_pairs: the same from the moments, of order 2, of the differences of pairs.
    """

    compute: Compute
    name: str = "custom"
    scale: str = ONE_GAP
    paired: bool = False
    per_head: bool = False
    site: str | None = None
    read: str | None = None
    of_classes: Compute | None = None
    order: int = 1
    of_pairs: Compute | None = None

    def with_options(self, options: Mapping[str, Any]) -> Method:
        """The same with some of its keyword arguments set.

        Raises:
            DataError: for one that it does not have, listing those it has.
        """
        if not options:
            return self
        parameters = list(inspect.signature(self.compute).parameters.values())[2:]
        known = [p.name for p in parameters]
        for option in options:
            if option not in known:
                has = f"its options are {', '.join(known)}" if known else "it has none"
                raise DataError(f"method {self.name!r} has no option {option!r}; {has}")
        return replace(
            self,
            compute=partial(self.compute, **options),
            of_classes=self.of_classes and partial(self.of_classes, **options),
            of_pairs=self.of_pairs and partial(self.of_pairs, **options),
        )


METHODS: dict[str, Method] = {
    name: replace(method, name=name)
    for name, method in {
        "mean_difference": Method(mean_difference, of_classes=mean_difference_of),
        "mean_centred": Method(mean_centred, of_classes=mean_difference_of),
        "pca": Method(pca, paired=True, of_pairs=pca_of),
        "repeng_compatible": Method(repeng_compatible, paired=True, scale="unit norm"),
        "lda": Method(lda, of_classes=lda_of, order=4),
        "logistic": Method(logistic),
        "iti": Method(iti, per_head=True, site="z", scale="one sigma per head"),
        "response_mean": Method(response_mean, read="response", of_classes=mean_difference_of),
    }.items()
}


def find_method(method: str | Compute | Method) -> Method:
    """A method by its name; a function of your own is a method too, stored at one gap (or as its ``Method`` says).

    Raises:
        DataError: for an unknown name, listing those there are.
    """
    if isinstance(method, Method):
        return method
    if callable(method):
        return Method(method, getattr(method, "__name__", "custom"))
    if method not in METHODS:
        raise DataError(f"unknown method {method!r}; the methods are {', '.join(METHODS)}, or a function of your own")
    return METHODS[method]


__all__ = ["METHODS", "ONE_GAP", "Compute", "Method", "find_method"]
