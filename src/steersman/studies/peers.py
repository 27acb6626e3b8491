"""How far a component stands out from the others of its kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: With fewer others there is no spread to speak of.
FEWEST_PEERS = 8


def spread_of_others(effects: Sequence[float], kinds: Sequence[str]) -> list[tuple[float, float] | None]:
    """For each component the central 95% of the effects of the *others* of its kind; None with fewer than 8.

    A component inside it does no more than its peers do, however surely its own effect differs from zero.
    """
    values, of = np.asarray(effects, dtype=np.float64), np.asarray(kinds)
    found: list[tuple[float, float] | None] = []
    for number in range(len(values)):
        same = of == of[number]
        same[number] = False
        others = values[same]
        others = others[np.isfinite(others)]
        if len(others) < FEWEST_PEERS:
            found.append(None)
            continue
        low, high = np.quantile(others, [0.025, 0.975])
        found.append((float(low), float(high)))
    return found
