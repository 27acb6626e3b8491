"""What the kernel reads: a bank of rows, a table of programs by slot, and which slot each token of a step has.

All tensors are allocated once, before the model is traced or captured, and only ever written to, so that a compiled
graph, or a recorded one, that holds them sees every later request. Slot 0 does nothing. A slot holds one program and
stays valid while it is kept, so a decoding step that is like the last one writes nothing at all.

On the CPU, ``work`` tells the kernel how much there is to do at a place in this step, and which tokens are steered; on
other devices the kernel looks at each token's slot instead.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .packing import NOTHING, Entry, Packed, States
from .places import Place

#: columns of the table of integers: the number of entries, then (write, read, begins, gate, decides) for each
INTS = 5
#: columns of the table of floats, for each entry: gain, factor, shift, low, high
FLOATS = 5


@dataclass(frozen=True)
class Capacity:
    """How much fits.

    Attributes:
        tokens: the most tokens of one step.
        slots: different programs in one step, slot 0 not counted.
        rows: different vectors in one step.
        rank: entries of one program at one place.
        gates: conditions decided in one step.
    """

    tokens: int
    slots: int
    rows: int
    rank: int
    gates: int = 1


class Program(NamedTuple):
    """What a slot holds: a plan in certain states of its rules; with the numbers of its gates, if it decides them."""

    packed: Packed
    states: States
    gates: tuple[int, ...] = ()


class Tables:
    """The tensors, and who occupies them.

    Attributes:
        bank: float32 ``[1 + rows, width]``; row 0 is zero.
        entries: int32 ``[places, 1 + slots, 1 + 5 rank]``.
        factors: float32 ``[places, 1 + slots, 5 rank]``.
        tokens: int32 ``[tokens]``, the slot of each token of the step.
        work: int64 ``[places, 4]``: the most entries that a token has at the place; whether any of them does more than
            add; the first steered token, if the steered ones are a run, or -1; how many there are.
        index: int64 ``[tokens]``: which tokens are steered, if they are no run.
        busy: whether the op has anything to do at each place in the coming step; always, where only the kernel knows.
        gates: float32 ``[1 + gates]``: 1 where one is open, 0 where it is shut, written by the kernel; gate 0 is open.
    """

    def __init__(self, places: Sequence[Place], width: int, capacity: Capacity, device: torch.device) -> None:
        self.capacity = capacity
        self.places = {place: number for number, place in enumerate(places)}
        self.scales = dict.fromkeys(places, 1.0)
        self.device = device
        slots, rank = capacity.slots + 1, capacity.rank
        self.bank = torch.zeros(capacity.rows + 1, width, dtype=torch.float32, device=device)
        self.entries = torch.zeros(len(places), slots, 1 + INTS * rank, dtype=torch.int32, device=device)
        self.factors = torch.zeros(len(places), slots, FLOATS * rank, dtype=torch.float32, device=device)
        self.factors[:, :, ::FLOATS] = 1.0
        self.tokens = torch.zeros(capacity.tokens, dtype=torch.int32, device=device)
        self.work = torch.zeros(len(places), 4, dtype=torch.int64, device=device)
        self.index = torch.zeros(capacity.tokens, dtype=torch.int64, device=device)
        self.gates = torch.ones(capacity.gates + 1, dtype=torch.float32, device=device)
        self.busy = [device.type != "cpu"] * len(places)
        self._host = np.zeros(capacity.tokens, dtype=np.int32)
        self._slots: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._free_slots = list(range(capacity.slots, 0, -1))
        self._loads: dict[int, np.ndarray] = {}  # slot -> (entries, whether one does more than add) at each place
        self._held: dict[int, list[bytes]] = {}  # slot -> the rows it uses
        self._rows: dict[bytes, int] = {}
        self._users: dict[bytes, int] = {}
        self._free_rows = list(range(capacity.rows, 0, -1))
        self._used = 0  # tokens of the last step that may be other than 0

    # -- programs -----------------------------------------------------------------------------------------------

    def slots_for(self, wanted: Mapping[str, Program]) -> dict[str, int]:
        """The slot of each program, by its key; those that have none are written into free ones.

        Raises:
            RuntimeError: more programs or rows than there is room for; requests are bounded so that this cannot be.
        """
        for key in wanted:
            if key in self._slots:
                self._slots.move_to_end(key)
        new = [key for key in wanted if key not in self._slots]
        if new:
            self._write(new, wanted)
        return {key: self._slots[key] for key in wanted}

    def _write(self, new: list[str], wanted: Mapping[str, Program]) -> None:
        rank = self.capacity.rank
        entries = np.zeros((len(self.places), len(new), 1 + INTS * rank), dtype=np.int32)
        factors = np.zeros((len(self.places), len(new), FLOATS * rank), dtype=np.float32)
        factors[:, :, ::FLOATS] = 1.0
        fresh: dict[int, Tensor] = {}
        slots: list[int] = []
        for number, key in enumerate(new):
            while not self._free_slots:
                self._evict(wanted)
            slot = self._free_slots.pop()
            packed, states, gates = wanted[key]
            program = {place: found for place, found in packed.program(states, gates).items() if place in self.places}
            named = sorted({row for found in program.values() for entry in found for row in entry[:2] if row >= 0})
            rows = dict(zip(named, self._take([packed.rows[row] for row in named], slot, wanted, fresh), strict=True))
            loads = np.zeros((len(self.places), 2), dtype=np.int32)
            for place, found in program.items():
                at = self.places[place]
                loads[at] = len(found), any(map(_does_more, found))
                entries[at, number, 0] = len(found)
                for k, entry in enumerate(found):
                    self._put(entries[at, number], factors[at, number], k, entry, rows, self.scales[place])
            self._slots[key], self._loads[slot] = slot, loads
            slots.append(slot)
        if fresh:
            numbers = torch.tensor(list(fresh), device=self.device)
            self.bank[numbers] = torch.stack(list(fresh.values())).to(self.device)
        where = torch.tensor(slots, device=self.device)
        self.entries[:, where] = torch.from_numpy(entries).to(self.device)
        self.factors[:, where] = torch.from_numpy(factors).to(self.device)

    @staticmethod
    def _put(ints: np.ndarray, floats: np.ndarray, k: int, entry: Entry, rows: Mapping[int, int], scale: float) -> None:
        """Write an entry; where the site's value is ``scale`` times the tensor, it acts on the tensor as wanted.

        What reads nothing has a shift of 1, so that its factor is all that it adds.
        """
        factor, shift = entry.factor, entry.shift / scale
        if entry.read == NOTHING:
            factor, shift = factor * shift, 1.0
        ints[1 + INTS * k : 1 + INTS * (k + 1)] = (
            0 if entry.write == NOTHING else rows[entry.write],
            0 if entry.read == NOTHING else rows[entry.read],
            entry.begins,
            entry.gate,
            entry.decides,
        )
        floats[FLOATS * k : FLOATS * (k + 1)] = (
            entry.gain, factor, shift, entry.low / scale, entry.high / scale,
        )  # fmt: skip

    def _take(
        self, vectors: Iterable[Tensor], slot: int, wanted: Mapping[str, object], fresh: dict[int, Tensor]
    ) -> list[int]:
        keys: list[bytes] = []
        found: list[int] = []
        self._held[slot] = keys
        for vector in vectors:
            key = hashlib.blake2b(vector.numpy().tobytes(), digest_size=16).digest()
            if key not in self._rows:
                while not self._free_rows:
                    self._evict(wanted)
                self._rows[key] = self._free_rows.pop()
                fresh[self._rows[key]] = vector
            self._users[key] = self._users.get(key, 0) + 1
            keys.append(key)
            found.append(self._rows[key])
        return found

    def _evict(self, wanted: Mapping[str, object]) -> None:
        """Give up the program that was not used for longest."""
        key = next((key for key in self._slots if key not in wanted), None)
        if key is None:
            raise RuntimeError(
                f"a step needs more than {self.capacity.slots} programs or {self.capacity.rows} rows; this is a fault "
                "in the bounds that requests are held to"
            )
        slot = self._slots.pop(key)
        self._free_slots.append(slot)
        del self._loads[slot]
        for row in self._held.pop(slot):
            self._users[row] -= 1
            if self._users[row] == 0:
                del self._users[row]
                self._free_rows.append(self._rows.pop(row))

    # -- a step -------------------------------------------------------------------------------------------------

    def steer(self, runs: Sequence[tuple[int, int, int]]) -> None:
        """Say which tokens of the coming step have which slot: runs ``(first, last + 1, slot)`` of rows of the batch.

        All other tokens have none, the padding behind them included.
        """
        host, before = self._host, self._used
        host[:before] = 0
        self._used = 0
        for first, stop, slot in runs:
            host[first:stop] = slot
            self._used = max(self._used, stop)
        changed = max(before, self._used)
        self.tokens[:changed].copy_(torch.from_numpy(host[:changed].copy()), non_blocking=True)
        if self.device.type == "cpu":
            self._describe(host[: self._used].nonzero()[0], {slot for *_, slot in runs})

    def _describe(self, steered: np.ndarray, slots: Iterable[int]) -> None:
        """Say what there is to do at each place: for which tokens, ascending, of which slots."""
        count = len(steered)
        first = int(steered[0]) if count and steered[-1] - steered[0] == count - 1 else -1
        if first < 0:
            self.index[:count] = torch.from_numpy(steered)
        loads = [self._loads[slot] for slot in slots]
        work = self.work.numpy()
        work[:, :2] = np.max(loads, axis=0) if loads else 0
        work[:, 2:] = first, count
        self.busy[:] = (work[:, 0] > 0).tolist()

    def forget(self) -> None:
        """Give up every program."""
        while self._slots:
            self._evict({})

    @property
    def occupancy(self) -> dict[str, int]:
        """How many slots and rows hold something."""
        return {"slots": len(self._slots), "rows": len(self._rows)}


def _does_more(entry: Entry) -> bool:
    """Whether it does more than add a vector."""
    return entry.read != NOTHING or entry.gain != 1 or entry.gate != 0
