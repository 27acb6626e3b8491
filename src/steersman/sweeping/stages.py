"""Dropping layers and cells before they are measured in full: first-order screening, and halving over items.

Both are declared first stages: they look at the tuning items only, and what they dropped is told with the score it was
dropped for. Dropping the unpromising is itself a search. So each random direction of the control is searched by the
same rules, on the same items, among the same layers, and keeps layers of its own; p-values compare the best of what was
kept with the best of what each of them kept, and stay exact over *all* layers searched
(:func:`steersman.evaluation.statistics.max_statistic`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..evaluation.items import Array
from ..files.finished import Finished
from ..plan import Plan
from .cells import Cell, Grid
from .measuring import Measurer


@dataclass
class Search:
    """What is left of the cells of the vector, and of each random direction.

    Attributes:
        own: the cells kept: (layer, strength), strengths other than 0.
        drawn: of each random direction the cells kept: (layer, magnitude).
        dropped: what was dropped of the vector's, in order, each with where, why, on how many items, and its score.
        scale: strength -> what directions do in each layer searched, typically: the root mean square over all random
            ones and the vector, from the first stage; empty without stages.
        facts: what the stages did.
    """

    own: list[Cell]
    drawn: list[set[Cell]]
    dropped: list[dict[str, Any]] = field(default_factory=lambda: [])
    scale: dict[float, Array] = field(default_factory=lambda: {})
    facts: dict[str, Any] = field(default_factory=lambda: {})

    def strengths(self, layer: int, grid: Grid) -> list[float]:
        """The strengths left in a layer; nothing at all (0) is kept as long as anything is."""
        kept = [s for s in grid.strengths if (layer, s) in self.own]
        return [s for s in grid.strengths if s in kept or (s == 0 and kept)]

    def said(self) -> list[str]:
        """What was dropped, in words."""
        return said(self.facts, self.dropped)

    def draws(self, layer: int, magnitude: float) -> list[int]:
        """The random directions to be measured in a cell: all where the vector is, else those that kept it."""
        if (layer, magnitude) in self.own or (layer, -magnitude) in self.own:
            return list(range(len(self.drawn)))
        return [number for number, kept in enumerate(self.drawn) if (layer, magnitude) in kept]


def said(facts: Mapping[str, Any], dropped: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the stages of a sweep dropped, one sentence for each, from its facts."""
    found: list[str] = []
    if "screen" in facts:
        screen = facts["screen"]
        found.append(
            f"first-order screening on {_items(screen['items'])} kept {len(screen['kept'])} of "
            f"{len(screen['kept']) + len(screen['dropped'])} layers and dropped {_listed(screen['dropped'])}; "
            "p-values hold for all of them, random directions having been screened by the same rule"
        )
    if "halving" in facts:
        for one in facts["halving"]["rounds"]:
            lost: dict[float, list[int]] = {}
            for cell in dropped:
                if cell["stage"] == "halving" and cell["items"] == one["items"]:
                    lost.setdefault(cell["strength"], []).append(cell["layer"])
            cells = "; ".join(f"at {s:+g} {_listed(layers)}" for s, layers in sorted(lost.items()))
            found.append(
                f"halving on {_items(one['items'])} dropped {one['dropped']} of {one['cells']} cells ({cells}), random "
                "directions having been halved by the same rule"
            )
    return found


def _items(count: int) -> str:
    return "1 tuning item" if count == 1 else f"{count} tuning items"


def _listed(layers: Sequence[int]) -> str:
    """Layers in words, three and more in a row as a range."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    parts = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(parts)}"


def searched(
    done: Finished, measure: Measurer, grid: Grid, tune: Sequence[int], *, screen: int | None, halving: int | None,
    seed: int,
) -> Search:  # fmt: skip
    """Go through the first stages.

    Args:
        done: what is measured already.
        measure: the target.
        grid: the cells.
        tune: the units that may be looked at.
        screen: layers to keep by first-order screening; None for all.
        halving: units of the first round of halving; None for none.
        seed: of the order in which halving takes them.
    """
    every = {(layer, m) for layer in grid.layers for m in grid.magnitudes}
    found = Search([(layer, s) for layer in grid.layers for s in grid.strengths if s], [set(every) for _ in grid.drawn])
    if screen is not None and screen < len(grid.layers):
        _screen(found, done, measure, grid, tune, screen)
    if halving is not None:
        _halve(found, done, measure, grid, tune, halving, seed)
    return found


# -- screening --------------------------------------------------------------------------------------------------------


def _screen(
    found: Search, done: Finished, measure: Measurer, grid: Grid, tune: Sequence[int], keep: int
) -> None:  # fmt: skip
    """Keep the layers in which the mean value rises or falls fastest with the strength, at strength zero."""
    least = grid.magnitudes[0]

    def slopes() -> Array:
        plans = [grid.plan(one, layer, least) for one in (grid.vector, *grid.drawn) for layer in grid.layers]
        return measure.first_order(plans, tune).reshape(-1, len(grid.layers)) / least

    values = np.array(done.get("screen", slopes))
    kept = [_largest(row, keep) for row in values]
    own = {grid.layers[place] for place in kept[0]}
    found.own = [cell for cell in found.own if cell[0] in own]
    for cells, places in zip(found.drawn, kept[1:], strict=True):
        mine = {grid.layers[place] for place in places}
        cells.intersection_update({cell for cell in cells if cell[0] in mine})
    typical = np.sqrt((values**2).mean(0))
    found.scale = {s: abs(s) * typical for s in grid.strengths if s}
    found.dropped += [
        {"stage": "screening", "layer": layer, "strength": None, "items": len(tune), "score": float(slope)}
        for layer, slope in zip(grid.layers, values[0], strict=True)
        if layer not in own
    ]
    found.facts["screen"] = {
        "kept": sorted(own), "dropped": [layer for layer in grid.layers if layer not in own], "items": len(tune),
        "slopes": {str(layer): float(slope) for layer, slope in zip(grid.layers, values[0], strict=True)},
    }  # fmt: skip


# -- halving ----------------------------------------------------------------------------------------------------------


def _halve(
    found: Search, done: Finished, measure: Measurer, grid: Grid, tune: Sequence[int], first: int, seed: int
) -> None:
    """Measure all cells on a few units, the better half of the layers at each strength on twice as many, and so on.

    Cells compete at equal strength: more strength does more, and which of it is affordable is not asked here.
    """
    order = np.random.default_rng(seed).permutation(np.asarray(tune)).tolist()
    rounds: list[dict[str, Any]] = []
    count = first
    while count < len(order) and _most(found.own) > 1:
        own, drawn = _scores(found, done, measure, grid, order[:count])
        if not found.scale:
            found.scale = {s: _typical(own, drawn, grid, s) for s in grid.strengths if s}
        kept = _better_half(own)
        lost = [cell for cell in found.own if cell not in kept]
        found.dropped += [
            {"stage": "halving", "layer": layer, "strength": s, "items": count, "score": own[layer, s]}
            for layer, s in lost
        ]
        rounds.append({"items": count, "cells": len(found.own), "dropped": len(lost)})
        found.own = [cell for cell in found.own if cell in kept]
        found.drawn = [_better_half(scores) for scores in drawn]
        count *= 2
    found.facts["halving"] = {"first": first, "rounds": rounds}


def _scores(
    found: Search, done: Finished, measure: Measurer, grid: Grid, units: Sequence[int]
) -> tuple[dict[Cell, float], list[dict[Cell, float]]]:
    """The effect on some units in each cell that is left: of the vector, and of each random direction."""
    listed = [(number, cell) for number, cells in enumerate(found.drawn) for cell in sorted(cells)]

    def effects() -> dict[str, Any]:
        some = measure.on(units)
        before = some.values([Plan()])[0].mean()
        plans = [grid.plan(grid.vector, *cell) for cell in found.own]
        plans += [grid.plan(grid.drawn[number], *cell) for number, cell in listed]
        values = (some.values(plans).mean(1) - before).tolist()
        return {"own": values[: len(found.own)], "random": values[len(found.own) :]}

    values = done.get(f"halving {len(units)}", effects)
    drawn: list[dict[Cell, float]] = [{} for _ in found.drawn]
    for (number, cell), value in zip(listed, values["random"], strict=True):
        drawn[number][cell] = value
    return dict(zip(found.own, values["own"], strict=True)), drawn


def _typical(own: Mapping[Cell, float], drawn: Sequence[Mapping[Cell, float]], grid: Grid, strength: float) -> Array:
    """The root mean square, over the vector and all random directions, of the effect in each layer at a strength."""
    every = [
        [own[layer, strength], *(one[layer, abs(strength)] for one in drawn)] if (layer, strength) in own else [0.0]
        for layer in grid.layers
    ]
    return np.array([np.sqrt(np.square(values).mean()) for values in every])


def _better_half(scores: Mapping[Cell, float]) -> set[Cell]:
    """At each strength the half of the layers with the largest effects, either way."""
    kept: set[Cell] = set()
    for strength in {cell[1] for cell in scores}:
        cells = [cell for cell in scores if cell[1] == strength]
        places = _largest([scores[cell] for cell in cells], (len(cells) + 1) // 2)
        kept |= {cells[place] for place in places}
    return kept


def _most(cells: Sequence[Cell]) -> int:
    """How many layers are left at the strength at which most are."""
    strengths = [strength for _, strength in cells]
    return max(map(strengths.count, strengths), default=0)


def _largest(values: Sequence[float] | Array, count: int) -> list[int]:
    """The places of the largest values, either way; of equal ones the first."""
    return np.argsort(-np.abs(np.asarray(values)), kind="stable")[:count].tolist()
