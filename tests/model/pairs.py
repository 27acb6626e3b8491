"""Pairwise coverage: few cases in which every two values of different factors still meet."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

Case = dict[str, Any]


def pairwise(factors: Mapping[str, Sequence[Any]], valid: Callable[[Case], bool], seed: int = 0) -> list[Case]:
    """Cases, each with one value per factor, such that every pair of values that can meet does."""
    draw = random.Random(seed)
    names = list(factors)

    def complete(case: Case) -> Case | None:
        """The values not yet chosen, drawn such that the case is possible and meets most that has not met."""
        best, most = None, -1
        for _ in range(60):
            filled = {name: case.get(name, draw.choice(list(factors[name]))) for name in names}
            if valid(filled):
                score = len(pairs_of(filled) & missing)
                best, most = (filled, score) if score > most else (best, most)
        return best

    def pairs_of(case: Case) -> set[tuple[Any, ...]]:
        return {(a, case[a], b, case[b]) for a, b in combinations(names, 2)}

    missing = {(a, x, b, y) for a, b in combinations(names, 2) for x in factors[a] for y in factors[b]}
    cases: list[Case] = []
    for a, x, b, y in sorted(missing, key=str):
        if (a, x, b, y) not in missing:
            continue
        case = complete({a: x, b: y})
        missing.discard((a, x, b, y))
        if case is not None:
            missing -= pairs_of(case)
            cases.append(case)
    return cases
