"""What a sweep found: a row for each layer and strength, and the choice among them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..charts import Figure
from ..errors import DataError
from ..files.atomic import replacing
from ..plan import Plan
from ..sites import layer_ranges

#: A cell may be this far under the best one to be preferred for standing on a plateau.
NEAR = 0.9


@dataclass(frozen=True)
class Row:
    """One layer at one strength.

    Attributes:
        effect, low, high: mean change of the target over all items, with its 95% interval (None: too few items).
        tune_effect: over the items that the choice is made on.
        report_effect, report_low, report_high: over the items kept from the choice; None where too few to part.
        slope, anti_steerable: of the layer: mean over items of the effect's slope over the strengths measured there,
            and the share of items whose slope is negative.
        kl, kl_p95, top1: on neutral text, per affected token: mean and 95th percentile of the KL, nats, and the share
            of likeliest tokens that stay; ``kl_tokens`` were counted.
        control_low, control_high: where 95% of random directions of the same length lie at this layer and strength.
        p_value: the rank of the effect among random directions, corrected for the layers searched by the maximum.
    """

    layer: int
    strength: float
    effect: float
    low: float | None
    high: float | None
    tune_effect: float
    report_effect: float | None
    report_low: float | None
    report_high: float | None
    slope: float | None
    anti_steerable: float | None
    kl: float
    kl_p95: float
    top1: float
    kl_tokens: int
    control_low: float | None
    control_high: float | None
    p_value: float | None


@dataclass(frozen=True, eq=False)
class Sweep:
    """The rows of a sweep, and all that is needed to repeat it.

    Attributes:
        rows: by layer, then strength.
        facts: settings, controls, ways taken, what was left out, seed, versions, hashes.
        plans: (layer, strength) -> plan; empty for a sweep loaded from a file without its vector.
    """

    rows: tuple[Row, ...]
    facts: Mapping[str, Any]
    plans: Mapping[tuple[int, float], Plan]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Sweep({len(self.rows)} cells of layers {layer_ranges(self.layers)}, by {self.engine})"

    def __str__(self) -> str:
        """The main columns of :meth:`frame`."""
        columns = ["layer", "strength", "effect", "low", "high", "control_low", "control_high", "p_value", "kl", "top1"]
        return self.frame()[columns].to_string(index=False, na_rep="", float_format="%.3g")

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(index=False, na_rep=""))

    @property
    def engine(self) -> str:
        """How the effects were computed: ``branches``, ``resume``, ``plain`` or ``measure``."""
        return str(self.facts["engine"])

    @property
    def layers(self) -> list[int]:
        """The layers measured."""
        return sorted({row.layer for row in self.rows})

    @property
    def dropped(self) -> list[dict[str, Any]]:
        """What the first stages dropped before it was measured in full, empty without any.

        Of each: ``stage`` (``"screening"`` or ``"halving"``), ``layer``, ``strength`` (None: all of them), on how many
        ``items``, and the ``score`` it was dropped for: the first-order slope, or the mean effect on those items.
        """
        return list(self.facts.get("dropped", ()))

    @property
    def searched(self) -> list[int]:
        """The layers searched, those that were dropped included."""
        return sorted({*self.layers, *(cell["layer"] for cell in self.dropped)})

    @property
    def strengths(self) -> list[float]:
        """The strengths tried."""
        return sorted({row.strength for row in self.rows})

    def row(self, layer: int, strength: float) -> Row:
        """One cell."""
        for row in self.rows:
            if row.layer == layer and row.strength == strength:
                return row
        raise DataError(f"layer {layer} at strength {strength} was not swept")

    def frame(self) -> Any:
        """A pandas DataFrame, one row per layer and strength.

        After first stages, what they dropped follows, without measurements; ``stage``, ``items`` and ``score`` are
        those of :attr:`dropped`, and empty for what was measured.
        """
        import pandas as pd

        measured = [asdict(row) for row in self.rows]
        return pd.DataFrame(measured + self.dropped)

    # -- choosing -------------------------------------------------------------------------------------------------

    def best(self, max_kl: float = 0.1, *, sign: int = 1) -> Row:
        """The cell with the largest effect on the tuning items within a KL budget, plateaus before spikes.

        Of the cells within 10% of the largest, the one whose neighbours (the next layers and strengths swept, within
        budget or not) do most on average: a spike is more likely noise, and less forgiving.

        Args:
            max_kl: nats per affected token of neutral text.
            sign: 1 for the largest effect upwards, -1 downwards.

        Raises:
            DataError: no cell moves the target that way within the budget.
        """
        within = [r for r in self.rows if r.strength and r.kl <= max_kl and sign * r.tune_effect > 0]
        if not within:
            least = min((r.kl for r in self.rows if r.strength), default=float("nan"))
            raise DataError(
                f"no cell moves the target {'up' if sign > 0 else 'down'} within {max_kl:g} nats per token (the least "
                f"KL was {least:.3g}); sweep smaller strengths, or allow more"
            )
        most = max(sign * r.tune_effect for r in within)
        near = [r for r in within if sign * r.tune_effect >= NEAR * most]
        return max(near, key=lambda r: (self._around(r, sign), sign * r.tune_effect))

    def _around(self, row: Row, sign: int) -> float:
        layers, strengths = self.searched, self.strengths
        i, j = layers.index(row.layer), strengths.index(row.strength)
        cells = {(r.layer, r.strength): r.tune_effect for r in self.rows}
        found = [
            sign * cells[layers[a], strengths[b]]
            for a, b in ((i, j), (i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1))
            if 0 <= a < len(layers)
            and 0 <= b < len(strengths)
            and strengths[b] * row.strength > 0
            and (layers[a], strengths[b]) in cells
        ]
        return float(np.mean(found))

    def plan(self, max_kl: float = 0.1, *, sign: int = 1) -> Plan:
        """The plan of :meth:`best`, with its row as evidence, which its file keeps."""
        chosen = self.best(max_kl, sign=sign)
        plan = self.plans.get((chosen.layer, chosen.strength))
        if plan is None:
            raise DataError("this sweep was loaded without its vector; plans= of Sweep.load(path, plans)")
        return Plan(plan, {"kind": "sweep", "max_kl": max_kl, "row": asdict(chosen), **self._told()})

    def _told(self) -> dict[str, Any]:
        """What a plan's evidence repeats of the facts: enough to know what was searched, and on what."""
        told = "target layers strengths operation random items seed prompts model versions"
        return {name: self.facts[name] for name in told.split() if name in self.facts}

    def pareto(self, *, sign: int = 1) -> list[Row]:
        """The cells that no other beats in both effect and KL, by KL ascending."""
        front: list[Row] = []
        for row in sorted((r for r in self.rows if r.strength), key=lambda r: (r.kl, -sign * r.tune_effect)):
            if sign * row.tune_effect > max((sign * r.tune_effect for r in front), default=0.0):
                front.append(row)
        return front

    # -- figures and files ----------------------------------------------------------------------------------------

    def heatmap(self, path: str | Path | None = None, *, max_kl: float | None = None) -> str:
        """Effect by layer and strength, as SVG, written to ``path`` if given; ``max_kl`` marks the choice within it."""
        return self.map_figure(max_kl=max_kl).svg(path)

    def map_figure(self, *, value: Literal["effect", "kl"] = "effect", max_kl: float | None = None) -> Figure:
        """Effect, or side effect, by layer and strength, before it is drawn; ``max_kl`` marks the choice within it."""
        layers, strengths = self.searched, self.strengths
        cells = {(row.layer, row.strength): float(getattr(row, value)) for row in self.rows}
        values = [[cells.get((layer, strength)) for strength in strengths] for layer in layers]
        chosen = None
        if max_kl is not None:
            best = self.best(max_kl)
            chosen = layers.index(best.layer), strengths.index(best.strength)
        effect = value == "effect"
        label = f"effect ({self.facts['target']['unit']})" if effect else "KL (nats per token)"
        arguments = {
            "values": values, "rows": layers, "columns": [f"{s:g}" for s in strengths], "chosen": chosen,
            "kind": "diverging" if effect else "sequential", "value_label": label,
            "title": f"{'Effect' if effect else 'Side effect'} by layer and strength",
        }  # fmt: skip
        return Figure("heatmap", arguments)

    def dose_response(self, path: str | Path | None = None, *, layer: int | None = None, max_kl: float = 0.1) -> str:
        """Effect and KL over strengths at one layer (that of :meth:`best`), with the band of random directions."""
        return self.dose_figure(layer=layer, max_kl=max_kl).svg(path)

    def dose_figure(self, *, layer: int | None = None, max_kl: float = 0.1) -> Figure:
        """Effect and KL over strengths at one layer, before they are drawn."""
        layer = self.best(max_kl).layer if layer is None else layer
        rows = [row for row in self.rows if row.layer == layer]
        if not rows:
            raise DataError(f"layer {layer} was not swept; these were: {', '.join(map(str, self.layers))}")
        bands = [(r.control_low, r.control_high) for r in rows]
        ends = [(r.low, r.high) for r in rows]
        arguments = {
            "strengths": [r.strength for r in rows], "effects": [r.effect for r in rows], "kl": [r.kl for r in rows],
            "max_kl": max_kl, "intervals": None if any(None in pair for pair in ends) else ends,
            "random": None if any(None in pair for pair in bands) else bands,
            "title": f"Dose and response at layer {layer}", "y_label": f"effect ({self.facts['target']['unit']})",
        }  # fmt: skip
        return Figure("dose_response", arguments)

    def save(self, path: str | Path) -> str:
        """Write rows and facts as one JSON document, atomically; returns its path."""
        document = {"format": "steersman.sweep", "format_version": 1, "facts": self.facts,
                    "rows": [asdict(row) for row in self.rows]}  # fmt: skip
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        return str(path)

    @classmethod
    def load(cls, path: str | Path, plans: Mapping[tuple[int, float], Plan] | None = None) -> Sweep:
        """Read what :meth:`save` wrote.

        Raises:
            FileFormatError: it is something else, or damaged.
        """
        from ..errors import FileFormatError

        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            if document["format"] != "steersman.sweep" or document["format_version"] != 1:
                raise ValueError("it is of another format or version")
            rows = tuple(Row(**row) for row in document["rows"])
            return cls(rows, document["facts"], plans or {})
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(f"{path} is no sweep: {error}") from error


def checked_strengths(strengths: Sequence[float]) -> list[float]:
    """Strengths ascending, each once; DataError if there are none, or one is not finite."""
    found = sorted({float(s) for s in strengths})
    if not found or not np.isfinite(found).all() or found == [0.0]:
        raise DataError(f"strengths={list(strengths)!r}: give finite numbers, at least one of them not zero")
    return found
