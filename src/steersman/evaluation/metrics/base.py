"""What a metric is: a small object that turns a comparison into rows of a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..arms import Comparison
from ..statistics import Estimate

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Control:
    """What something of no meaning gives in the place of what was measured.

    Attributes:
        kind: ``"random directions"``, ``"another seed"``, ``"in words"``.
        value: what it gives: of random directions the 95th percentile of the sizes of their values.
        n: how many were drawn.
        p_value: of the rank of what was measured among them, where that is asked.
    """

    kind: str
    value: float
    n: int = 1
    p_value: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The same as values, absent ones left out."""
        found = {"kind": self.kind, "value": self.value, "n": self.n, "p_value": self.p_value}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Row:
    """One line of an evaluation.

    Attributes:
        name: what gates call it.
        title: what people call it.
        unit: what it is counted in.
        base, steered: of either arm; None where it is of neither alone.
        difference: steered less base, or what was measured between them, with its interval over sources.
        headline: which of ``"base"``, ``"steered"`` and ``"difference"`` a bare gate means.
        better: whether higher or lower is better, for whoever ranks.
        control: what something of no meaning gives.
        verdict: what can be said, in words.
        details: further figures, JSON-able.
    """

    name: str
    title: str
    unit: str
    base: float | None = None
    steered: float | None = None
    difference: Estimate | None = None
    headline: Literal["base", "steered", "difference"] = "difference"
    better: Better = "neither"
    control: Control | None = None
    verdict: str = ""
    details: Mapping[str, Any] = field(default_factory=lambda: {})

    @property
    def value(self) -> float | None:
        """The headline figure; None where it could not be measured."""
        if self.headline == "difference":
            return None if self.difference is None else self.difference.value
        return self.base if self.headline == "base" else self.steered

    def as_json(self) -> dict[str, Any]:
        """The same as values, absent ones left out."""
        plain = ("name", "title", "unit", "base", "steered", "headline", "better", "verdict")
        found: dict[str, Any] = {name: getattr(self, name) for name in plain}
        found["value"] = self.value
        found["difference"] = self.difference.as_json() if self.difference else None
        found["control"] = self.control.as_json() if self.control else None
        found["details"] = dict(self.details) or None
        return {name: value for name, value in found.items() if value is not None}


class Metric(ABC):
    """A way to measure a comparison.

    ``needs`` names what it cannot do without: ``"target"``, ``"plan"`` (a plan whose strength can be changed). A metric
    whose needs are not met is left out, and the evaluation says so.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def rows(self, comparison: Comparison) -> list[Row]:
        """Measure."""


def change(difference: Estimate, better: Better = "neither") -> str:
    """What an interval of a difference says: that there is one, that none is seen, or that there are too few items.

    Where it is known which way is better, that is said too.
    """
    if difference.low is None or difference.high is None:
        return difference.note or "too few to measure"
    if not difference.excludes_zero:
        return "no change seen"
    way: Better = "higher" if difference.value > 0 else "lower"
    return way if better == "neither" else f"{way}, {'better' if way == better else 'worse'}"
