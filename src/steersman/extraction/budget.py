"""How many padded tokens go into one forward pass, found by measuring."""

from __future__ import annotations

import time
from weakref import WeakKeyDictionary

import torch

from ..model.architecture import Architecture

#: Where the search begins: enough for a CPU, too little for most accelerators.
TOKEN_BUDGET = 1024
ACCELERATOR_BUDGET = 8192
#: A larger pass has to be faster per token by this share, or the smaller one stays: it takes less memory.
WORTH = 1.05
#: Passes timed at each size, the fastest of which counts.
TIMED = 2
#: Work of fewer passes than this is not worth a search.
FEWEST = 24

#: What was found, so that it is looked for once.
_FOUND: WeakKeyDictionary[Architecture, int] = WeakKeyDictionary()


class Budget:
    """The token budget of the next pass.

    Given, it stays. Else it is doubled as long as passes get faster per token; the passes that are timed are those of
    the work itself. Running out of memory halves it.

    Args:
        architecture: the model the work runs on.
        given: the user's choice.
        device: of the model.
        tokens: of all the work.
    """

    def __init__(self, architecture: Architecture, given: int | None, device: torch.device, tokens: int) -> None:
        start = TOKEN_BUDGET if device.type == "cpu" else ACCELERATOR_BUDGET
        self.tokens = given or _FOUND.get(architecture, start)
        self._architecture = architecture
        self._searching = given is None and architecture not in _FOUND and tokens >= FEWEST * start
        self._left = tokens
        self._times: list[float] = []
        self._best = float("inf")
        self._warm = False

    def timed(self, size: int, seconds: float) -> None:
        """Learn from a pass over ``size`` tokens."""
        self._left -= size
        if not self._searching:
            return
        if not self._warm:  # the first pass pays for what is done once
            self._warm = True
            return
        if size < self.tokens / 2:  # a small rest says nothing
            return
        self._times.append(seconds / size)
        if len(self._times) < TIMED:
            return
        here, self._times = min(self._times), []
        if here * WORTH > self._best:
            self.tokens //= 2
            self._settle()
        elif self._left < 4 * TIMED * self.tokens:
            self._settle()
        else:
            self._best = here
            self.tokens *= 2

    def halve(self) -> None:
        """Memory ran out: go on with half, and look no further."""
        self.tokens = max(1, self.tokens // 2)
        self._settle()

    def _settle(self) -> None:
        if self._searching:
            _FOUND[self._architecture] = self.tokens
        self._searching = False


class Clock:
    """Seconds of a block of code."""

    def __enter__(self) -> Clock:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
