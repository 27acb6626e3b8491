"""Steering in one worker: the requests it runs, and what each step's tokens are steered by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...positions import ENDLESS
from .blocks import program_key
from .install import Spot
from .packing import Packed
from .reading import Reading, Readings
from .requests import Compiler, Resolved
from .tables import Program, Tables


class Steered:
    """A request that is steered.

    Attributes:
        gates: whether each of its conditions holds; None until they were decided, at its last prompt token.
    """

    def __init__(self, resolved: Resolved, packed: Packed) -> None:
        self.plan = resolved.plan
        self.steering = resolved.steering
        self.packed = packed
        self.gates: tuple[bool, ...] | None = None if packed.conditions else ()
        self._keys = dict(zip(resolved.steering.programs, resolved.keys, strict=True))

    def runs(
        self, start: int, stop: int, gates: Callable[[int], tuple[int, ...]]
    ) -> Iterable[tuple[int, int, str, Program]]:
        """How tokens ``[start, stop)`` are steered: runs of positions, each with a program and its key.

        Args:
            gates: gives the numbers of as many gates as conditions are to be decided in this pass.
        """
        last = self.steering.last
        if self.gates is None and stop > last:
            if start > last or stop > last + 1:
                raise RuntimeError("a request went past its last prompt token before its conditions were decided")
            yield from self._open(start, last)
            yield self._deciding(last, gates(len(self.packed.conditions)))
        else:
            yield from self._open(start, stop)

    def _deciding(self, last: int, gates: tuple[int, ...]) -> tuple[int, int, str, Program]:
        here = [self.steering.programs[s.program] for s in self.steering.overlapping(last, last + 1)]
        states = here[0] if here else (None,) * len(self.packed.rules)
        key = f"{program_key(self.plan, states)}/{','.join(map(str, gates))}"
        return last, last + 1, key, Program(self.packed, states, gates)

    def _open(self, start: int, stop: int) -> Iterable[tuple[int, int, str, Program]]:
        """The runs of tokens for which every condition is known, or plays no part."""
        for segment in self.steering.overlapping(start, stop):
            states = self.steering.programs[segment.program]
            if self.gates:
                states = self.packed.where_open(states, self.gates)
                if not any(states):
                    continue
            if states not in self._keys:
                self._keys[states] = program_key(self.plan, states)
            yield segment.start, segment.stop, self._keys[states], Program(self.packed, states)


class WorkerSteering:
    """Keeps track of the steered requests of a worker, and tells the kernel which tokens are whose."""

    def __init__(
        self, compiler: Compiler, tables: Tables, spots: Sequence[Spot], readings: Readings | None = None
    ) -> None:
        self.compiler = compiler
        self.tables = tables
        self.spots = spots
        self.readings = readings
        self.requests: dict[str, Steered] = {}
        self.checked = False
        self.checking = False
        self.steps = self.steered_steps = self.steered_tokens = 0
        self._clean = True  # whether the tables say that no token is steered
        self._last: tuple[str, ...] = ()
        self._starts: list[int] = []
        self._steady = 0  # for how many more decoding steps of the same requests nothing changes
        self._count = 0
        self._deciding: list[tuple[Steered, tuple[int, ...]]] = []  # who decides which gates in the pass that runs

    # -- requests -----------------------------------------------------------------------------------------------

    def observe(self, new: Iterable[tuple[str, Mapping[str, Any] | None, int]], finished: Iterable[str]) -> None:
        """Take note of requests that a step begins with, and of those that have ended.

        Args:
            new: names, extra arguments, lengths of the prompts.
            finished: names.
        """
        for name in finished:
            self.requests.pop(name, None)
            if self.readings is not None:
                self.readings.end(name)
        for name, extra, length in new:
            resolved = Resolved.from_extra(extra)
            if resolved is not None and name not in self.requests:  # one that was preempted may be announced anew
                self.requests[name] = Steered(resolved, self.compiler.compile(resolved.spec, resolved.plan).packed)
            reading = Reading.from_extra(extra)
            if reading is not None and self.readings is not None:
                self.readings.begin(name, reading, length)

    # -- steps --------------------------------------------------------------------------------------------------

    def step(self, names: Sequence[str], counts: Sequence[int], starts: Sequence[int]) -> None:
        """Say which tokens of the coming forward pass are steered by what.

        Args:
            names: the requests, in the order of their rows in the batch.
            counts: how many tokens of each the pass holds.
            starts: absolute position of the first of them.
        """
        self.steps += 1
        self._settle()
        if self.readings is not None:
            self.readings.expect(names, counts, starts)
        if not any(name in self.requests for name in names):
            self._unsteered()
            return
        if self._repeats(names, counts, starts):
            self.steered_steps += 1
            self.steered_tokens += self._count
            return
        runs: list[tuple[int, int, str]] = []
        wanted: dict[str, Program] = {}
        steady, first = ENDLESS, 0
        for name, count, start in zip(names, counts, starts, strict=True):
            request = self.requests.get(name)
            if request is not None:
                for begin, end, key, program in request.runs(start, start + count, self._gates_for(request)):
                    wanted[key] = program
                    runs.append((first + begin - start, first + end - start, key))
                steady = min(steady, _unchanged(request, start))
            first += count
        slots = self.tables.slots_for(wanted)
        self.tables.steer([(begin, end, slots[key]) for begin, end, key in runs])
        self._clean = not runs
        self._last, self._starts = tuple(names), list(starts)
        self._steady = steady - 1 if all(count == 1 for count in counts) and not self._deciding else 0
        self._count = sum(end - begin for begin, end, _ in runs)
        self.steered_steps += bool(runs)
        self.steered_tokens += self._count

    def _gates_for(self, request: Steered) -> Callable[[int], tuple[int, ...]]:
        """Hands out gates of the coming pass to a request."""

        def take(count: int) -> tuple[int, ...]:
            first = 1 + sum(len(gates) for _, gates in self._deciding)
            gates = tuple(range(first, first + count))
            self._deciding.append((request, gates))
            return gates

        return take

    def _settle(self) -> None:
        """Learn what was decided in the last pass; waits for it, once for each request that has conditions."""
        if self._deciding:
            gates: list[float] = self.tables.gates.tolist()
            for request, numbers in self._deciding:
                request.gates = tuple(gates[number] > 0 for number in numbers)
            self._deciding = []

    def clear(self) -> None:
        """Say that no token of the coming pass is steered or read."""
        if self.readings is not None:
            self.readings.forget()
        self._unsteered()

    def collect(self) -> None:
        """Take what the pass that was just made was to be read of."""
        if self.readings is not None:
            self.readings.collect()

    def _unsteered(self) -> None:
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
