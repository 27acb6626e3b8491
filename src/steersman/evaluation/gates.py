"""Gates: conditions on an evaluation that a script can insist on, such as ``kl<=0.1``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from .metrics.base import Row

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_GATE = re.compile(r"\s*([a-z_0-9]+)(?:\.([a-z_]+))?\s*(<=|>=|<|>)\s*(-?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")
_PARTS = ("base", "steered", "difference", "low", "high", "p")


@dataclass(frozen=True)
class Gate:
    """``NAME[.PART] OP NUMBER``: a figure of an evaluation, and the bound it has to keep.

    Attributes:
        text: as written.
        name: of the row.
        part: which of its figures: ``base``, ``steered``, ``difference``, ``low`` and ``high`` (the interval's ends),
            ``p``; the headline figure if None.
        comparison: ``<=``, ``>=``, ``<`` or ``>``.
        bound: the number.
    """

    text: str
    name: str
    part: str | None
    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read ``"kl<=0.1"`` or ``"effect.low>0"``.

        Raises:
            DataError: it cannot be read.
        """
        match = _GATE.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            bound = float(match[4])
        except ValueError:
            raise DataError(
                f"the gate {text!r} cannot be read; write a name, an operator and a number, such as kl<=0.1 or "
                "effect.low>0"
            ) from None
        if match[2] is not None and match[2] not in _PARTS:
            raise DataError(f"the gate {text!r} asks for {match[2]!r}; use one of {', '.join(_PARTS)}")
        return cls(text.strip(), match[1], match[2], match[3], bound)

    def check(self, rows: Sequence[Row]) -> GateResult:
        """Whether it holds; a figure that could not be measured does not keep a bound."""
        row = next((row for row in rows if row.name == self.name), None)
        if row is None:
            there = ", ".join(row.name for row in rows)
            return GateResult(self, False, None, f"there is no {self.name} here; there are {there}")
        found = self._figure(row)
        if found is None:
            why = row.difference.note if row.difference is not None and row.difference.note else "not measured"
            return GateResult(self, False, None, why)
        return GateResult(self, _OPERATORS[self.comparison](found, self.bound), found, None)

    def _figure(self, row: Row) -> float | None:
        if self.part is None:
            return row.value
        if self.part in ("base", "steered"):
            return getattr(row, self.part)
        if self.part == "p":
            return row.control.p_value if row.control else None
        if row.difference is None:
            return None
        return getattr(row.difference, "value" if self.part == "difference" else self.part)


@dataclass(frozen=True)
class GateResult:
    """Whether a gate holds.

    Attributes:
        gate: which.
        met: whether.
        value: the figure found.
        why: where there is none.
    """

    gate: Gate
    met: bool
    value: float | None
    why: str | None

    def as_json(self) -> dict[str, Any]:
        """The same as values."""
        return {"gate": self.gate.text, "met": self.met, "value": self.value, "why": self.why}
