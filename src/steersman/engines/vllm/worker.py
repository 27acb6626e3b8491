"""Steering in one worker: the requests it runs, and what each step's tokens are steered by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...positions import ENDLESS
from .install import Spot
from .packing import Packed
from .requests import Compiler, Resolved
from .tables import Tables


class Steered:
    """A request that is steered."""

    def __init__(self, resolved: Resolved, packed: Packed) -> None:
        self.steering = resolved.steering
        self.keys = resolved.keys
        self.packed = packed


class WorkerSteering:
    """Keeps track of the steered requests of a worker, and tells the kernel which tokens are whose."""

    def __init__(self, compiler: Compiler, tables: Tables, spots: Sequence[Spot]) -> None:
        self.compiler = compiler
        self.tables = tables
        self.spots = spots
        self.requests: dict[str, Steered] = {}
        self.checked = False
        self.checking = False
        self.steps = self.steered_steps = self.steered_tokens = 0
        self._clean = True  # whether the tables say that no token is steered
        self._last: tuple[str, ...] = ()
        self._starts: list[int] = []
        self._steady = 0  # for how many more decoding steps of the same requests nothing changes
        self._count = 0

    # -- requests -----------------------------------------------------------------------------------------------

    def observe(self, new: Iterable[tuple[str, Mapping[str, Any] | None]], finished: Iterable[str]) -> None:
        """Take note of requests that a step begins with, and of those that have ended."""
        for name in finished:
            self.requests.pop(name, None)
        for name, extra in new:
            resolved = Resolved.from_extra(extra)
            if resolved is not None:
                self.requests[name] = Steered(resolved, self.compiler.compile(resolved.spec).packed)

    # -- steps --------------------------------------------------------------------------------------------------

    def step(self, names: Sequence[str], counts: Sequence[int], starts: Sequence[int]) -> None:
        """Say which tokens of the coming forward pass are steered by what.

        Args:
            names: the requests, in the order of their rows in the batch.
            counts: how many tokens of each the pass holds.
            starts: absolute position of the first of them.
        """
        self.steps += 1
        if not any(name in self.requests for name in names):
            self.clear()
            return
        if self._repeats(names, counts, starts):
            self.steered_steps += 1
            self.steered_tokens += self._count
            return
        runs: list[tuple[int, int, str]] = []
        wanted: dict[str, tuple[Packed, Any]] = {}
        steady, first = ENDLESS, 0
        for name, count, start in zip(names, counts, starts, strict=True):
            request = self.requests.get(name)
            if request is not None:
                for segment in request.steering.overlapping(start, start + count):
                    key = request.keys[segment.program]
                    wanted[key] = request.packed, request.steering.programs[segment.program]
                    runs.append((first + segment.start - start, first + segment.stop - start, key))
                steady = min(steady, _unchanged(request, start))
            first += count
        slots = self.tables.slots_for(wanted)
        self.tables.steer([(begin, end, slots[key]) for begin, end, key in runs])
        self._clean = not runs
        self._last, self._starts = tuple(names), list(starts)
        self._steady = steady - 1 if all(count == 1 for count in counts) else 0
        self._count = sum(end - begin for begin, end, _ in runs)
        self.steered_steps += bool(runs)
        self.steered_tokens += self._count

    def clear(self) -> None:
        """Say that no token of the coming pass is steered."""
        if not self._clean:
            self.tables.steer([])
            self._clean = True
        self._last, self._steady = (), 0

    def _repeats(self, names: Sequence[str], counts: Sequence[int], starts: Sequence[int]) -> bool:
        """Whether a pass decodes one more token of the same requests, and none of them meets another segment."""
        if self._steady <= 0 or len(names) != len(self._last) or tuple(names) != self._last:
            return False
        following = [start + 1 for start in self._starts]
        if any(count != 1 for count in counts) or list(starts) != following:
            return False
        self._starts = following
        self._steady -= 1
        return True

    def stats(self) -> dict[str, Any]:
        """What an operator wants to know, as JSON-able values."""
        return {
            "places": len(self.spots),
            "self_check": "passed" if self.checked else "not run",
            "requests": len(self.requests),
            "steps": self.steps,
            "steered_steps": self.steered_steps,
            "steered_tokens": self.steered_tokens,
            **self.tables.occupancy,
            "capacity": {"slots": self.tables.capacity.slots, "rows": self.tables.capacity.rows},
        }


def _unchanged(request: Steered, position: int) -> int:
    """For how many tokens from a position on the same is done."""
    for segment in request.steering.overlapping(position, ENDLESS):
        return segment.stop - position if segment.start == position else segment.start - position
    return ENDLESS
