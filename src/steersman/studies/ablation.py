"""Ablation studies: what is lost without each component.

A component is set to zero, to its mean over a reference corpus, or to its value on another text (zero, mean and
resample ablation; Chan et al. 2022, "Causal scrubbing"; Wang et al. 2022, arXiv:2211.00593), or a direction is
projected out of all that writes the residual stream (Arditi et al. 2024, arXiv:2406.11717). Zero is the
harshest: it takes a component to where it never is. What an ablation shows is whether the metric needs the component
*here*; others may stand in for it, and a component that only inhibits others shows as a gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..charts import Figure, bars, write
from ..charts.layout import shown
from ..errors import DataError
from ..evaluation.statistics import Estimate, mean
from .components import Component
from .measuring import Array
from .peers import spread_of_others

if TYPE_CHECKING:
    import pandas as pd

Mode = Literal["zero", "mean", "resample", "directional"]


@dataclass(frozen=True)
class Effect:
    """What became of the metric without one component.

    Attributes:
        component: which.
        value: the metric without it, averaged over the prompts.
        effect: ``value`` less the metric of the whole model, over the same prompts, with its interval.
        others: the central 95% of the effects of the others of its kind (of random directions, for a direction);
            None with fewer than 8.
    """

    component: Component
    value: float
    effect: Estimate
    others: tuple[float, float] | None

    @property
    def beyond(self) -> bool | None:
        """Whether the effect lies outside those of the others and its interval excludes zero; None if unknown."""
        if self.others is None or self.effect.low is None:
            return None
        return self.effect.excludes_zero and not self.others[0] <= self.effect.value <= self.others[1]


@dataclass(frozen=True, eq=False)
class AblationStudy:
    """What is lost without each component.

    Attributes:
        metric: its name.
        mode: how components were ablated.
        base: ``[prompts]`` float64, the metric of the whole model.
        values: ``[components, prompts]`` float64, the metric without each; NaN where the positions mean no token.
        effects: one for each component, in the order named.
        controls: ``[directions]`` the effects of random directions, for directional ablation.
        settings: what is needed to repeat it.
    """

    metric: str
    mode: Mode
    base: Array = field(repr=False)
    values: Array = field(repr=False)
    effects: tuple[Effect, ...] = field(repr=False)
    controls: Array | None = field(repr=False, default=None)
    settings: dict[str, Any] = field(repr=False, default_factory=lambda: {})

    def __len__(self) -> int:
        return len(self.effects)

    def __getitem__(self, label: str) -> Effect:
        found = next((one for one in self.effects if one.component.label == label), None)
        if found is None:
            raise DataError(f"the study has no component {label!r}; for example {self.effects[0].component.label!r}")
        return found

    @property
    def whole(self) -> Estimate:
        """The metric of the whole model."""
        return mean(self.base, seed=self.settings.get("seed", 0))

    def top(self, k: int = 10) -> list[Effect]:
        """The components with the largest effects, of either sign."""
        return sorted(self.effects, key=lambda one: -abs(one.effect.value))[:k]

    def frame(self) -> pd.DataFrame:
        """One row per component: component, site, layer, unit, value, effect, low, high, left, others_low, others_high,
        beyond, prompts.

        ``left`` is what is left of the metric, as a share of the whole model's.
        """
        import pandas as pd

        return pd.DataFrame([self.row(one) for one in self.effects])

    def row(self, one: Effect) -> dict[str, Any]:
        """One row of :meth:`frame`."""
        whole, parts = float(np.mean(self.base)), one.component.parts
        return {
            "component": one.component.label,
            "site": parts[0].site if parts and len({part.site for part in parts}) == 1 else None,
            "layer": one.component.layer,
            "unit": one.component.unit,
            "value": one.value,
            "effect": one.effect.value,
            "low": one.effect.low,
            "high": one.effect.high,
            "left": one.value / whole if whole else None,
            "others_low": one.others[0] if one.others else None,
            "others_high": one.others[1] if one.others else None,
            "beyond": one.beyond,
            "prompts": one.effect.n,
        }

    def heatmap(self, path: str | Path | None = None, *, title: str | None = None) -> str:
        """The effects by layer and head (or by layer and kind of component) as an SVG; written to ``path`` if given.

        Raises:
            DataError: groups, directions, or more neurons than can be told apart: those have :meth:`bars`.
        """
        return self.figure(title=title).svg(path)

    def figure(self, *, title: str | None = None) -> Figure:
        """The effects by layer and head, before they are drawn; DataError as :meth:`heatmap`."""
        rows, columns, place = _grid([one.component for one in self.effects])
        cells: list[list[float | None]] = [[None] * len(columns) for _ in rows]
        for one in self.effects:
            row, column = place(one.component)
            cells[row][column] = one.effect.value
        arguments = {
            "values": cells, "rows": rows, "columns": columns,
            "column_label": "head" if self.effects[0].component.kind == "z" else "",
            "value_label": f"change of {self.metric}",
            "title": title or f"{_TITLES[self.mode]} of each component",
            "subtitle": self._subtitle(),
        }  # fmt: skip
        return Figure("heatmap", arguments)

    def bars(self, path: str | Path | None = None, *, k: int = 12, title: str | None = None) -> str:
        """The largest effects with their intervals and the spread of all as an SVG; written to ``path`` if given."""
        chosen = self.top(k)
        ends = [(one.effect.low, one.effect.high) for one in chosen]
        intervals = [(low, high) for low, high in ends if low is not None and high is not None]
        everything = self.controls if self.controls is not None else [one.effect.value for one in self.effects]
        spread = np.quantile(everything, [0.025, 0.975]) if len(everything) >= 8 else None
        figure = bars(
            [one.component.label for one in chosen],
            [one.effect.value for one in chosen],
            intervals=intervals if len(intervals) == len(chosen) else None,
            control=None if spread is None else (float(spread[0]), float(spread[1])),
            control_label=f"central 95% of {'random directions' if self.controls is not None else 'all components'}",
            interval_label="95% interval over prompts",
            value_label=f"change of {self.metric}",
            title=title or f"{_TITLES[self.mode]}: the largest effects",
            subtitle=self._subtitle(),
        )
        return write(figure, path)

    def document(self) -> dict[str, Any]:
        """Everything but the single prompts, as JSON-able values."""
        whole = self.whole
        return {
            "metric": self.metric,
            "mode": self.mode,
            "whole": whole.as_json(),
            "components": [self.row(one) for one in self.effects],
            "controls": None if self.controls is None else self.controls.tolist(),
            "settings": self.settings,
        }

    def _subtitle(self) -> str:
        prompts = f"{len(self.base)} prompt{'s' if len(self.base) > 1 else ''}"
        return f"whole model {shown(float(np.mean(self.base)))} over {prompts}"


_TITLES: dict[Mode, str] = {
    "zero": "Zero ablation",
    "mean": "Mean ablation",
    "resample": "Resample ablation",
    "directional": "Directional ablation",
}
_MOST = 64


def effects(
    components: Sequence[Component], base: Array, values: Array, seed: int, controls: Array | None = None
) -> tuple[Effect, ...]:
    """Paired differences with intervals over prompts, and the spread of the others beside each."""
    estimates: list[Estimate] = []
    for row in values:
        met = np.isfinite(row)
        if not met.any():
            raise DataError("the positions mean no token of any prompt")
        estimates.append(mean(row[met] - base[met], seed=seed))
    if controls is None:
        others = spread_of_others([one.value for one in estimates], [one.kind for one in components])
    else:
        low, high = np.quantile(controls, [0.025, 0.975]) if len(controls) >= 8 else (np.nan, np.nan)
        others = [(float(low), float(high)) if np.isfinite(low) else None] * len(components)
    return tuple(
        Effect(component, float(np.nanmean(row)), estimate, spread)
        for component, row, estimate, spread in zip(components, values, estimates, others, strict=True)
    )


def _grid(components: Sequence[Component]) -> tuple[list[int], list[Any], Callable[[Component], tuple[int, int]]]:
    """Layers, columns, and the cell of a component."""
    if any(one.layer is None or one.kind in ("group", "direction") for one in components):
        raise DataError("groups and directions have no layer and head; draw them with bars()")
    rows = sorted({one.layer for one in components if one.layer is not None})
    kinds = list(dict.fromkeys(one.kind for one in components))
    if kinds in (["z"], ["mlp_post"]):
        columns: list[Any] = sorted({one.unit for one in components if one.unit is not None})
        if len(columns) > _MOST:
            raise DataError(f"{len(columns)} neurons side by side cannot be told apart; draw the largest with bars()")
        return rows, columns, lambda one: (rows.index(one.layer or 0), columns.index(one.unit))
    if any(one.unit is not None for one in components):
        raise DataError("heads or neurons beside whole components have no common map; draw them with bars()")
    names = [_NAMES.get(kind, kind) for kind in kinds]
    return rows, names, lambda one: (rows.index(one.layer or 0), kinds.index(one.kind))


_NAMES = {"attn_out": "attention", "mlp_out": "mlp"}
