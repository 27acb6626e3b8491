"""From what a sweep measured to its rows: intervals, what is kept for reporting, bands and p-values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluation import statistics
from ..evaluation.items import Array
from ..files.finished import Finished
from .cells import Grid
from .result import Row
from .stages import Search


def split_of(sources: Sequence[str], seed: int) -> tuple[Array, Array | None, list[str]]:
    """The units to tune on, those to report on (None: too few to part), and notes."""
    if len(set(sources)) < 4:
        note = "too few sources to keep some from the choice: nothing is reported on items it was not made on"
        return np.arange(len(sources)), None, [note]
    tune, report = statistics.split_by_source(sources, seed=seed)
    return tune, report, []


def rows_of(
    done: Finished, grid: Grid, left: Search, base: Any, sources: Sequence[str], tune: Array, report: Array | None,
    seed: int,
) -> tuple[Row, ...]:  # fmt: skip
    """The rows of all cells that are left, by layer, then strength."""
    unsteered = np.array(base)
    strengths = {layer: own for layer in grid.layers if (own := left.strengths(layer, grid))}
    effects = {layer: np.array(done.get(f"effect {layer}", list)) - unsteered for layer in strengths}
    means = {
        (layer, s): float(e.mean())
        for layer, own in strengths.items()
        for s, e in zip(own, effects[layer], strict=True)
    }
    drawn = None
    if grid.drawn:
        measured = [done.get(f"random {layer}", list) for layer in grid.layers]
        drawn = np.array(measured, dtype=np.float64) - unsteered.mean()  # [layers, magnitudes, directions]
    p_values = {s: _p_values(means, drawn, grid, left, s) for s in grid.strengths if s}
    found: list[Row] = []
    for layer, own in strengths.items():
        place = grid.layers.index(layer)
        slopes = statistics.slopes(own, effects[layer].T) if len(own) > 1 else None
        kls = done.get(f"kl {layer}", list)
        for number, strength in enumerate(own):
            each = effects[layer][number]
            whole = statistics.mean(each, sources, seed=seed)
            kept = None
            if report is not None:
                kept = statistics.mean(each[report], [sources[i] for i in report], seed=seed)
            kl, p95, top1, tokens = kls[number]
            found.append(Row(
                layer, strength, whole.value, whole.low, whole.high, float(each[tune].mean()),
                None if kept is None else kept.value, None if kept is None else kept.low,
                None if kept is None else kept.high,
                None if slopes is None else float(slopes.mean()),
                None if slopes is None else float((slopes < 0).mean()),
                kl, p95, top1, tokens, *_band(drawn, place, grid, strength),
                None if drawn is None or not strength else float(p_values[strength][place]),
            ))  # fmt: skip
    return tuple(found)


def _p_values(means: dict[tuple[int, float], float], drawn: Array | None, grid: Grid, left: Search, s: float) -> Array:
    """p-values in each layer at a strength, corrected for all layers searched; NaN where the vector is not left."""
    if drawn is None:
        return np.array([])
    own = np.array([means.get((layer, s), np.nan) for layer in grid.layers])
    null = drawn[:, grid.magnitudes.index(abs(s))].T.copy()
    for number, kept in enumerate(left.drawn):
        null[number, [(layer, abs(s)) not in kept for layer in grid.layers]] = np.nan
    return statistics.max_statistic(own, null, scale=left.scale.get(s, True))


def _band(drawn: Array | None, place: int, grid: Grid, s: float) -> tuple[float | None, float | None]:
    """Where 95% of random directions lie."""
    if drawn is None or not s:
        return (0.0, 0.0) if drawn is not None else (None, None)
    low, high = np.quantile(drawn[place, grid.magnitudes.index(abs(s))], [0.025, 0.975])
    return (float(low), float(high)) if s > 0 else (float(-high), float(-low))
