"""What is kept of the rows that a runner reads: all of them, their means, or the moments of two classes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .moments import Moments

#: Rows of more bytes than this are kept in a temporary file that is mapped into memory.
IN_MEMORY = 2**30
#: Rows are put in their places when this many bytes have come in.
FLUSH = 2**26


class RowGather:
    """Keeps the row of each item, in the order of the numbers it is made with; it ignores all others.

    Args:
        numbers: of the items to keep.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self.slots = {number: slot for slot, number in enumerate(numbers)}
        self.size = len(self.slots)
        self._parts: list[tuple[list[int], dict[int, Tensor]]] = []
        self._bytes = 0
        self._tensors: dict[int, Tensor] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def add(self, numbers: Sequence[int], rows: Mapping[int, Tensor | Sequence[Tensor]]) -> None:
        """See :class:`~.work.Gather`."""
        slots = [self.slots.get(number, -1) for number in numbers]
        own = cast("Mapping[int, Tensor]", rows)
        if min(slots) < 0:
            inside = [i for i, slot in enumerate(slots) if slot >= 0]
            if not inside:
                return
            slots = [slots[i] for i in inside]
            own = {layer: values[inside] for layer, values in own.items()}
        self._parts.append((slots, dict(own)))
        self._bytes += sum(values.nbytes for values in own.values())
        if self._bytes >= FLUSH and self._total(own) >= IN_MEMORY:
            self._flush()

    def add_norms(self, norms: Mapping[int, Tensor]) -> None:
        """None are asked for."""

    def empty(self, numbers: Sequence[int]) -> RowGather:
        """See :class:`~.work.Gather`."""
        found = RowGather(())
        found.slots = {number: self.slots[number] for number in numbers if number in self.slots}
        found.size = self.size
        return found

    def merge(self, other: RowGather) -> None:
        """See :class:`~.work.Gather`."""
        for slots, rows in other.parts():
            self._parts.append((slots, rows))

    def parts(self) -> list[tuple[list[int], dict[int, Tensor]]]:
        """What has come in, as (slots, layer -> rows)."""
        if self._tensors:
            self._flush()
            return [(list(range(self.size)), self._tensors)]
        return self._parts

    def pop(self, layer: int) -> Tensor:
        """The rows of a layer, ``[n, width]``, float32; they are let go of here."""
        self._flush()
        return self._tensors.pop(layer)

    def tensors(self) -> dict[int, Tensor]:
        """layer -> ``[n, width]``."""
        self._flush()
        return self._tensors

    def state(self, prefix: str) -> dict[str, Tensor]:
        """What has come in, as tensors, to be stored."""
        found: dict[str, Tensor] = {}
        for number, (slots, rows) in enumerate(self.parts()):
            found[f"{prefix}.{number}.slots"] = torch.tensor(slots, dtype=torch.float64)
            found |= {f"{prefix}.{number}.{layer}": values for layer, values in rows.items()}
        return found

    def restore(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Back from :meth:`state`."""
        number = 0
        while (slots := state.get(f"{prefix}.{number}.slots")) is not None:
            start = f"{prefix}.{number}."
            rows = {int(k.removeprefix(start)): v for k, v in state.items() if k.startswith(start) and k[-1] != "s"}
            self._parts.append((slots.long().tolist(), rows))
            number += 1

    def _total(self, rows: Mapping[int, Tensor]) -> int:
        return sum(values[0].nbytes for values in rows.values()) * self.size

    def _flush(self) -> None:
        """Put rows in their places."""
        for slots, rows in self._parts:
            if not self._tensors:
                on_disk = self._total(rows) >= IN_MEMORY
                self._tensors = {layer: self._room(layer, v, on_disk) for layer, v in rows.items()}
            for layer, values in rows.items():
                self._tensors[layer][slots] = values
        self._parts, self._bytes = [], 0

    def _room(self, layer: int, like: Tensor, on_disk: bool) -> Tensor:
        shape = (self.size, *like.shape[1:])
        if not on_disk:
            return torch.empty(shape)
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="steersman-")
        size = self.size * like[0].numel()
        path = str(Path(self._folder.name) / str(layer))
        return torch.from_file(path, shared=True, size=size, dtype=torch.float32).reshape(shape)


class CaptureGather:
    """Keeps every token that was read of every item: ``found[number][layer]`` is ``[tokens, width]``."""

    def __init__(self) -> None:
        self.found: dict[int, dict[int, Tensor]] = {}

    def add(self, numbers: Sequence[int], rows: Mapping[int, Tensor | Sequence[Tensor]]) -> None:
        """See :class:`~.work.Gather`."""
        for at, number in enumerate(numbers):
            self.found[number] = {layer: values[at] for layer, values in rows.items()}

    def add_norms(self, norms: Mapping[int, Tensor]) -> None:
        """None are asked for."""

    def empty(self, numbers: Sequence[int]) -> CaptureGather:
        """See :class:`~.work.Gather`."""
        return CaptureGather()

    def merge(self, other: CaptureGather) -> None:
        """See :class:`~.work.Gather`."""
        self.found |= other.found


class MeanGather:
    """Adds up tokens: all of them, or position by position.

    Args:
        longest: positions to tell apart; 1 for one mean over all tokens.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.sums: dict[int, Tensor] = {}
        self.counts = torch.zeros(longest, dtype=torch.float64)

    def add(self, numbers: Sequence[int], rows: Mapping[int, Tensor | Sequence[Tensor]]) -> None:
        """See :class:`~.work.Gather`."""
        for layer, items in rows.items():
            each = list(items) if self.longest > 1 else [torch.cat(list(items)).double().sum(0, keepdim=True)]
            for values in each:
                sums = self.sums.setdefault(layer, torch.zeros(self.longest, values.shape[1], dtype=torch.float64))
                sums[: len(values)] += values
        for values in next(iter(rows.values())):
            self.counts[: len(values)] += 1 if self.longest > 1 else len(values)

    def add_norms(self, norms: Mapping[int, Tensor]) -> None:
        """None are asked for."""

    def empty(self, numbers: Sequence[int]) -> MeanGather:
        """See :class:`~.work.Gather`."""
        return MeanGather(self.longest)

    def merge(self, other: MeanGather) -> None:
        """See :class:`~.work.Gather`."""
        for layer, sums in other.sums.items():
            self.sums[layer] = self.sums[layer] + sums if layer in self.sums else sums
        self.counts = self.counts + other.counts

    def means(self) -> dict[int, Tensor]:
        """layer -> ``[longest, width]``, float32."""
        return {layer: (sums / self.counts[:, None]).float() for layer, sums in self.sums.items()}


class ClassGather:
    """The moments of two classes, of the differences of their pairs if asked for, and some of their rows.

    Items below ``positives`` are the positive class, those from there on the negative one; item n and item
    ``positives + n`` are a pair.

    Args:
        positives: how many items are positive.
        kept: the numbers of the items whose rows are kept.
        order: of the moments of each class.
        differences: whether the second moments of ``positive - negative`` are wanted, pair by pair.

    Attributes:
        classes: layer -> (moments of the positive class, of the negative one).
        pairs: layer -> moments of the differences; empty unless asked for.
        kept: the rows.
        norms: layer -> norms that came in.
    """

    def __init__(self, positives: int, kept: Iterable[int], *, order: int = 1, differences: bool = False) -> None:
        self.positives, self.order, self.differences = positives, order, differences
        self.kept = RowGather(kept)
        self.classes: dict[int, tuple[Moments, Moments]] = {}
        self.pairs: dict[int, Moments] = {}
        self.norms: dict[int, list[Tensor]] = {}
        self._waiting: dict[int, dict[int, Tensor]] = {}

    def add(self, numbers: Sequence[int], rows: Mapping[int, Tensor | Sequence[Tensor]]) -> None:
        """See :class:`~.work.Gather`."""
        own = cast("Mapping[int, Tensor]", rows)
        sides = (
            [i for i, n in enumerate(numbers) if n < self.positives],
            [i for i, n in enumerate(numbers) if n >= self.positives],
        )
        for layer, values in own.items():
            for moments, side in zip(self._classes(layer, values.shape[1]), sides, strict=True):
                moments.update(values[side])
        self.kept.add(numbers, own)
        if self.differences:
            self._pair(numbers, own)

    def add_norms(self, norms: Mapping[int, Tensor]) -> None:
        """See :class:`~.work.Gather`."""
        for layer, values in norms.items():
            self.norms.setdefault(layer, []).append(values)

    def empty(self, numbers: Sequence[int]) -> ClassGather:
        """See :class:`~.work.Gather`."""
        found = ClassGather(self.positives, (), order=self.order, differences=self.differences)
        found.kept = self.kept.empty(numbers)
        return found

    def merge(self, other: ClassGather) -> None:
        """See :class:`~.work.Gather`."""
        for layer, theirs in other.classes.items():
            for mine, their in zip(self._classes(layer, len(theirs[0].mean)), theirs, strict=True):
                mine.merge(their)
        for layer, their in other.pairs.items():
            self.pairs.setdefault(layer, Moments(len(their.mean), 2)).merge(their)
        self.kept.merge(other.kept)
        self.add_norms({layer: torch.cat(values) for layer, values in other.norms.items()})
        for number, rows in other._waiting.items():
            self._pair([number], {layer: values[None] for layer, values in rows.items()})

    def median_norms(self) -> dict[int, float]:
        """layer -> the median of the norms."""
        return {layer: float(torch.cat(values).median()) for layer, values in self.norms.items()}

    def _classes(self, layer: int, width: int) -> tuple[Moments, Moments]:
        return self.classes.setdefault(layer, (Moments(width, self.order), Moments(width, self.order)))

    def _pair(self, numbers: Sequence[int], rows: Mapping[int, Tensor]) -> None:
        """Take the differences of the pairs of which both are here; the others wait for their partner."""
        firsts: list[Mapping[int, Tensor]] = []
        seconds: list[Mapping[int, Tensor]] = []
        for at, number in enumerate(numbers):
            own = {layer: values[at] for layer, values in rows.items()}
            partner = number + self.positives if number < self.positives else number - self.positives
            other = self._waiting.pop(partner, None)
            if other is None:
                self._waiting[number] = {layer: values.clone() for layer, values in own.items()}
                continue
            firsts.append(own if number < self.positives else other)
            seconds.append(other if number < self.positives else own)
        for layer, values in rows.items() if firsts else ():
            differences = torch.stack([one[layer] for one in firsts]) - torch.stack([one[layer] for one in seconds])
            self.pairs.setdefault(layer, Moments(values.shape[1], 2)).update(differences)

    def state(self) -> dict[str, Tensor]:
        """All of it, as tensors, to be stored."""
        found = self.kept.state("kept")
        for layer, (positive, negative) in self.classes.items():
            found |= positive.state(f"positive.{layer}") | negative.state(f"negative.{layer}")
        for layer, moments in self.pairs.items():
            found |= moments.state(f"pairs.{layer}")
        found |= {f"norms.{layer}": torch.cat(values) for layer, values in self.norms.items()}
        for number, rows in self._waiting.items():
            found |= {f"waiting.{number}.{layer}": values for layer, values in rows.items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Back from :meth:`state`."""
        self.kept.restore(state, "kept")
        widths: dict[int, Any] = {int(k.split(".")[1]): v for k, v in state.items() if k.startswith("positive.")
                                  and k.endswith(".mean")}  # fmt: skip
        for layer, mean in widths.items():
            for moments, name in zip(self._classes(layer, len(mean)), ("positive", "negative"), strict=True):
                moments.restore(state, f"{name}.{layer}")
            if f"pairs.{layer}.mean" in state:
                self.pairs[layer] = Moments(len(mean), 2)
                self.pairs[layer].restore(state, f"pairs.{layer}")
            if f"norms.{layer}" in state:
                self.norms[layer] = [state[f"norms.{layer}"]]
        for name, values in state.items():
            if name.startswith("waiting."):
                _, number, layer = name.split(".")
                self._waiting.setdefault(int(number), {})[int(layer)] = values
