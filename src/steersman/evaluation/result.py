"""The outcome of an evaluation: rows, gates, and what is needed to repeat it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..files.atomic import replacing
from .gates import Gate, GateResult
from .metrics.base import Row

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "steersman.evaluation/1"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a plan does to a model.

    Attributes:
        rows: what was measured, one line each; ``evaluation["kl"]`` is one of them.
        gates: the conditions asked for, and whether they hold.
        left_out: metric -> why it was not measured.
        model: the unsteered model; ``other``: the one compared with, if it was not the same under a plan.
        plan: the plan's digest and JSON form.
        target: what was measured as effect.
        settings: how much was measured, with hashes of prompts and texts.
        samples: some of the generated texts.
        seed, versions: to repeat it.
    """

    rows: tuple[Row, ...]
    gates: tuple[GateResult, ...]
    left_out: Mapping[str, str]
    model: Mapping[str, Any]
    other: Mapping[str, Any] | None
    plan: Mapping[str, Any] | None
    target: Mapping[str, Any] | None
    settings: Mapping[str, Any]
    samples: tuple[Mapping[str, Any], ...]
    seed: int
    versions: Mapping[str, str]

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        why = self.left_out.get(name)
        there = ", ".join(row.name for row in self.rows)
        raise KeyError(f"{name} was not measured{f': {why}' if why else ''}; there are {there}")

    def __contains__(self, name: object) -> bool:
        return any(row.name == name for row in self.rows)

    def __repr__(self) -> str:
        return f"Evaluation({', '.join(row.name for row in self.rows)})"

    def __str__(self) -> str:
        """The table that :meth:`frame` holds, without its details."""
        columns = ["metric", "unit", "base", "steered", "difference", "low", "high", "control", "verdict"]
        return self.frame()[columns].to_string(index=False, na_rep="", float_format="%.3f")

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(index=False, na_rep=""))

    @property
    def passed(self) -> bool:
        """Whether all gates hold."""
        return all(result.met for result in self.gates)

    def check(self, gate: str) -> GateResult:
        """Whether a further condition holds, such as ``"kl<=0.1"``."""
        return Gate.parse(gate).check(self.rows)

    def frame(self) -> pd.DataFrame:
        """One line per row: metric, base, steered, difference, low, high, control, p, verdict."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "metric": row.name,
                    "base": row.base,
                    "steered": row.steered,
                    "difference": row.difference.value if row.difference else None,
                    "low": row.difference.low if row.difference else None,
                    "high": row.difference.high if row.difference else None,
                    "unit": row.unit,
                    "control": row.control.value if row.control else None,
                    "control_kind": row.control.kind if row.control else None,
                    "p": row.control.p_value if row.control else None,
                    "n": row.difference.n if row.difference else None,
                    "verdict": row.verdict,
                }
                for row in self.rows
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """All of it as one JSON document."""
        return {
            "schema": SCHEMA,
            "model": dict(self.model),
            "other": dict(self.other) if self.other else None,
            "plan": dict(self.plan) if self.plan else None,
            "target": dict(self.target) if self.target else None,
            "rows": [row.as_json() for row in self.rows],
            "gates": [result.as_json() for result in self.gates],
            "passed": self.passed,
            "left_out": dict(self.left_out),
            "settings": dict(self.settings),
            "samples": [dict(sample) for sample in self.samples],
            "seed": self.seed,
            "versions": dict(self.versions),
        }

    def save(self, path: str | Path) -> str:
        """Write the JSON document, atomically; returns its path."""
        if Path(path).suffix != ".json":
            raise DataError(f"an evaluation is saved as JSON, so {path} must end in .json")
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return str(path)
