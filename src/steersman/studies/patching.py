"""Activation patching: where the difference between two prompts is held.

``clean`` and ``corrupt`` prompts are of equal length and differ in what matters. *Denoising* runs the corrupt prompt
and puts one activation of the clean run in: what restores the clean behaviour is sufficient for it. *Noising* runs the
clean prompt and puts a corrupt activation in: what breaks it is necessary. Either way the score is

    (m_patched - m_corrupt) / (m_clean - m_corrupt)

which is 0 where the metric is as in the corrupt run and 1 where it is as in the clean one (Vig et al. 2020,
arXiv:2004.12265; Meng et al. 2022, arXiv:2202.05262; Heimersheim & Nanda 2024, arXiv:2404.15255).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..charts import bars, heatmap, write
from ..charts.layout import shown
from ..errors import DataError
from ..evaluation.statistics import Estimate, mean
from .components import Component
from .measuring import Array
from .peers import spread_of_others

if TYPE_CHECKING:
    import pandas as pd

Direction = Literal["denoising", "noising"]
#: So many tokens have room for their labels side by side.
_WRITTEN = 10


@dataclass(frozen=True)
class Place:
    """The tokens of a patch, as a column of a map.

    Attributes:
        index: its number among the places of the study.
        label: the token there where it is the same in all prompts, else an example of it; or the positions as given.
        positions: the same as a position.
    """

    index: int
    label: str
    positions: str


@dataclass(frozen=True)
class Patch:
    """What one patch does.

    Attributes:
        component: what was patched.
        place: at which tokens.
        score: normalised, with its interval over pairs; None where it was only screened.
        attribution: the first-order estimate of the score, if asked for.
        others: the central 95% of the scores of the others of its kind; None with fewer than 8.
    """

    component: Component
    place: Place
    score: Estimate | None
    attribution: float | None
    others: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class PatchingStudy:
    """What every patch restores, or breaks.

    Attributes:
        metric: its name.
        direction: ``"denoising"`` or ``"noising"``.
        clean, corrupt: ``[pairs]`` float64, the metric of either run.
        values: ``[patches, pairs]`` float64, the metric of each patched run; NaN where not measured.
        patches: one for each component and place.
        settings: what is needed to repeat it.
    """

    metric: str
    direction: Direction
    clean: Array = field(repr=False)
    corrupt: Array = field(repr=False)
    values: Array = field(repr=False)
    patches: tuple[Patch, ...] = field(repr=False)
    settings: dict[str, Any] = field(repr=False, default_factory=lambda: {})

    def __len__(self) -> int:
        return len(self.patches)

    @property
    def gap(self) -> Estimate:
        """``m_clean - m_corrupt``: what there is to restore."""
        return mean(self.clean - self.corrupt, seed=self.settings.get("seed", 0))

    @property
    def baseline(self) -> float:
        """The score of no patch: 0 when denoising, 1 when noising."""
        return 0.0 if self.direction == "denoising" else 1.0

    def top(self, k: int = 10) -> list[Patch]:
        """The measured patches furthest from the score of no patch."""
        measured = [(abs(one.score.value - self.baseline), i) for i, one in enumerate(self.patches) if one.score]
        return [self.patches[i] for _, i in sorted(measured, key=lambda item: (-item[0], item[1]))[:k]]

    def frame(self) -> pd.DataFrame:
        """One row per patch: component, site, layer, unit, position, token, score, low, high, attribution, others_low,
        others_high, pairs.
        """
        import pandas as pd

        return pd.DataFrame([self.row(one) for one in self.patches])

    def row(self, one: Patch) -> dict[str, Any]:
        """One row of :meth:`frame`."""
        score = one.score
        return {
            "component": one.component.label,
            "site": one.component.parts[0].site,
            "layer": one.component.layer,
            "unit": one.component.unit,
            "position": one.place.positions,
            "token": one.place.label,
            "score": score.value if score else None,
            "low": score.low if score else None,
            "high": score.high if score else None,
            "attribution": one.attribution,
            "others_low": one.others[0] if one.others else None,
            "others_high": one.others[1] if one.others else None,
            "pairs": score.n if score else 0,
        }

    def heatmap(
        self,
        path: str | Path | None = None,
        *,
        show: Literal["score", "attribution"] = "score",
        title: str | None = None,
    ) -> str:
        """The scores by layer and position, or by layer and head, as an SVG; written to ``path`` if given.

        Raises:
            DataError: groups, or several kinds of component at several places.
        """
        rows, columns, label, where = self._grid()
        cells: list[list[float | None]] = [[None] * len(columns) for _ in rows]
        for one in self.patches:
            row, column = where(one)
            cells[row][column] = one.attribution if show == "attribution" else one.score and one.score.value
        figure = heatmap(
            cells, rows, columns,
            centre=self.baseline, reach=1.0, column_label=label,
            value_label="first-order score" if show == "attribution" else "score",
            title=title or f"{self.direction.capitalize()}: {self.metric}",
            subtitle=self._subtitle(),
        )  # fmt: skip
        return write(figure, path)

    def bars(self, path: str | Path | None = None, *, k: int = 12, title: str | None = None) -> str:
        """The largest scores with their intervals as an SVG; written to ``path`` if given."""
        chosen = self.top(k)
        scores = [one.score for one in chosen if one.score]
        ends = [(score.low, score.high) for score in scores]
        intervals = [(low, high) for low, high in ends if low is not None and high is not None]
        several = len({one.place for one in self.patches}) > 1
        everything = [one.score.value for one in self.patches if one.score]
        spread = np.quantile(everything, [0.025, 0.975]) if len(everything) >= 8 else None
        figure = bars(
            [f"{one.component.label}{f' at {one.place.label}' if several else ''}" for one in chosen],
            [score.value for score in scores],
            intervals=intervals if len(intervals) == len(chosen) else None,
            control=None if spread is None else (float(spread[0]), float(spread[1])),
            control_label="central 95% of all patches",
            interval_label="95% interval over pairs",
            value_label="score",
            title=title or f"{self.direction.capitalize()}: the largest scores",
            subtitle=self._subtitle(),
        )
        return write(figure, path)

    def document(self) -> dict[str, Any]:
        """Everything but the single pairs, as JSON-able values."""
        return {
            "metric": self.metric,
            "direction": self.direction,
            "clean": mean(self.clean).as_json(),
            "corrupt": mean(self.corrupt).as_json(),
            "gap": self.gap.as_json(),
            "patches": [self.row(one) for one in self.patches],
            "settings": self.settings,
        }

    def _subtitle(self) -> str:
        pairs = f"{len(self.clean)} pair{'s' if len(self.clean) > 1 else ''}"
        return f"clean {shown(float(np.mean(self.clean)))}, corrupt {shown(float(np.mean(self.corrupt)))} over {pairs}"

    def _grid(self) -> tuple[list[int], list[Any], str, Callable[[Patch], tuple[int, int]]]:
        """Layers, columns, the name of their axis, and the cell of a patch."""
        kinds = {one.component.kind for one in self.patches}
        places = list(dict.fromkeys(one.place for one in self.patches))
        if len(kinds) > 1 or "group" in kinds:
            raise DataError("groups, or several kinds of component, have no common map; draw them with bars()")
        rows = sorted({one.component.layer for one in self.patches if one.component.layer is not None})
        units = sorted({one.component.unit for one in self.patches if one.component.unit is not None})
        if units and len(places) > 1:
            raise DataError("heads at several positions are no map of two sides; draw them with bars()")
        if units:
            kind = "head" if "z" in kinds else "neuron"
            return (
                rows,
                units,
                kind,
                lambda one: (rows.index(one.component.layer or 0), units.index(one.component.unit or 0)),
            )
        labels = [place.label for place in places]
        # Without a name of the axis every token is written, cut to its column; where that leaves little, some in full.
        return (
            rows,
            labels,
            "" if len(labels) <= _WRITTEN else "position",
            lambda one: (rows.index(one.component.layer or 0), one.place.index),
        )


def scored(
    components: Sequence[Component], places: Sequence[Place], clean: Array, corrupt: Array, values: Array,
    first: Array | None, direction: Direction, seed: int,
) -> tuple[Patch, ...]:  # fmt: skip
    """Scores with intervals, for the patches in the order of components, then places.

    A score is a ratio of means over pairs, steadier than a mean of ratios, whose denominators may be near zero. Its
    interval is that of the linearised ratio.
    """
    gap = clean - corrupt
    estimates: list[Estimate | None] = []
    linear: list[float | None] = []
    for number, row in enumerate(values):
        met = np.isfinite(row)
        estimates.append(_ratio(row[met] - corrupt[met], gap[met], seed) if met.any() else None)
        if first is None:
            linear.append(None)
            continue
        known = np.isfinite(first[number])
        start = 0.0 if direction == "denoising" else 1.0
        linear.append(start + float(first[number][known].mean() / gap[known].mean()) if known.any() else None)
    pairs = [(component, place) for component in components for place in places]
    kinds = [component.kind for component, _ in pairs]
    others = spread_of_others([one.value if one else np.nan for one in estimates], kinds)
    return tuple(
        Patch(component, place, estimate, attribution, spread if estimate else None)
        for (component, place), estimate, attribution, spread in zip(pairs, estimates, linear, others, strict=True)
    )


def _ratio(restored: Array, gap: Array, seed: int) -> Estimate:
    score = float(restored.mean() / gap.mean())
    return mean(score + (restored - score * gap) / gap.mean(), seed=seed)
