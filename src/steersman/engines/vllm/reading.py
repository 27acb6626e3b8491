"""Reading activations out of an engine: what the tokens of some requests have at some places.

An engine that is to read is started for it (the setting ``capture``): at each of the places a second op copies what the
forward pass has there, after any steering, into a buffer as long as the longest step. After the pass the rows of the
tokens that were asked for are taken from it. Buffers are allocated once, and the op does the same whatever the step
holds, so that a recorded graph reads, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ...errors import SpecError
from .places import Place
from .settings import KEY

#: In a request's extra arguments: what is to be read of it.
READ = f"{KEY}.read"


@dataclass(frozen=True)
class Reading:
    """What is read of one request.

    Attributes:
        key: under which it is fetched.
        tokens: positions in the prompt, each once.
        average: whether only their mean is wanted.
        norms: whether the norm of every prompt token but the first is wanted, too.
    """

    key: str
    tokens: tuple[int, ...]
    average: bool
    norms: bool

    def plain(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {"key": self.key, "tokens": list(self.tokens), "average": self.average, "norms": self.norms}

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any] | None) -> Reading | None:
        """From a request's extra arguments; None if nothing is to be read.

        Raises:
            SpecError: it is not what :meth:`plain` gives.
        """
        given = (extra or {}).get(READ)
        if given is None:
            return None
        try:
            found = cast("dict[str, Any]", given)
            tokens = tuple(int(token) for token in found["tokens"])
            return cls(str(found["key"]), tokens, bool(found["average"]), bool(found["norms"]))
        except (TypeError, KeyError, ValueError):
            raise SpecError(f"{READ!r} must hold 'key', 'tokens', 'average' and 'norms', got {given!r}") from None

    def check(self, prompt_length: int) -> None:
        """Raise :class:`SpecError` unless the prompt has these tokens."""
        if not self.tokens or min(self.tokens) < 0 or max(self.tokens) >= prompt_length:
            raise SpecError(f"{READ!r} names tokens {list(self.tokens)}, and the prompt has {prompt_length}")
        if len(set(self.tokens)) < len(self.tokens):
            raise SpecError(f"{READ!r} names a token twice: {list(self.tokens)}")


@dataclass
class _Open:
    """A request of which not all has been read."""

    reading: Reading
    length: int
    rows: dict[Place, Tensor] = field(default_factory=lambda: {})
    norms: dict[Place, Tensor] = field(default_factory=lambda: {})
    read: set[int] = field(default_factory=lambda: set())

    @property
    def wanted(self) -> set[int]:
        """Every position that must pass by."""
        return set(self.reading.tokens) | (set(range(1, self.length)) if self.reading.norms else set())


class Readings:
    """The buffers of a worker's places, and what has been read of its requests.

    Args:
        places: with, for each, what the tensor there is to be multiplied by to be the site's value.
        tokens: the most of a step.
    """

    def __init__(self, places: Mapping[Place, float], width: int, tokens: int, device: torch.device) -> None:
        self.scales = dict(places)
        self.stores = {place: torch.zeros(tokens, width, dtype=torch.float32, device=device) for place in places}
        #: Whether anything is read in the coming pass; looked at on the CPU only.
        self.wanted = torch.zeros(1, dtype=torch.int32, device=device)
        self._open: dict[str, _Open] = {}
        self._done: dict[str, dict[str, Tensor]] = {}
        self._due: list[tuple[_Open, list[int], list[int]]] = []  # request, positions, rows of the batch

    def begin(self, name: str, reading: Reading, length: int) -> None:
        """Take note of a request, and of how many tokens its prompt has."""
        self._open[name] = _Open(reading, length)

    def end(self, name: str) -> None:
        """Forget a request of which not all was read: it was given up."""
        self._open.pop(name, None)

    def expect(self, names: Sequence[str], counts: Sequence[int], starts: Sequence[int]) -> None:
        """Say which tokens the coming pass holds; arguments as of ``WorkerSteering.step``."""
        self._due = []
        first = 0
        for name, count, start in zip(names, counts, starts, strict=True):
            request = self._open.get(name)
            if request is not None:
                here = sorted(position for position in request.wanted if start <= position < start + count)
                if here:
                    self._due.append((request, here, [first + position - start for position in here]))
            first += count
        self.wanted[0] = bool(self._due)

    def collect(self) -> None:
        """Take what the pass left in the buffers."""
        due, self._due = self._due, []
        if not due:
            return
        at = torch.tensor([row for *_, rows in due for row in rows])
        counts = [len(rows) for *_, rows in due]
        for place, store in self.stores.items():
            found = store[at.to(store.device)].cpu() * self.scales[place]
            for (request, positions, _), values in zip(due, found.split(counts), strict=True):
                _keep(request, place, positions, values)
        for request, positions, _ in due:
            request.read.update(positions)
        for name in [name for name, request in self._open.items() if request.wanted <= request.read]:
            request = self._open.pop(name)
            self._done[request.reading.key] = _finished(request)

    def forget(self) -> None:
        """Say that nothing is read in the coming pass."""
        self._due = []
        self.wanted[0] = 0

    def take(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """What was read under these keys, as ``key/component.layer`` and ``key/component.layer/norms``; then let go."""
        return {f"{key}/{name}": tensor for key in keys for name, tensor in self._done.pop(key, {}).items()}


def _keep(request: _Open, place: Place, positions: Sequence[int], values: Tensor) -> None:
    rank = {position: number for number, position in enumerate(request.reading.tokens)}
    own = [(rank[position], row) for row, position in enumerate(positions) if position in rank]
    if own:
        rows = request.rows.setdefault(place, torch.zeros(len(rank), values.shape[1]))
        to, chosen = zip(*own, strict=True)
        rows[list(to)] = values[list(chosen)]
    if request.reading.norms:
        norms = request.norms.setdefault(place, torch.zeros(max(request.length - 1, 0)))
        but_first = [(position - 1, row) for row, position in enumerate(positions) if position > 0]
        if but_first:
            to, chosen = zip(*but_first, strict=True)
            norms[list(to)] = values[list(chosen)].norm(dim=-1)


def _finished(request: _Open) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for place, rows in request.rows.items():
        found[name_of(place)] = rows.double().mean(0, keepdim=True).float() if request.reading.average else rows
    return found | {f"{name_of(place)}/norms": norms for place, norms in request.norms.items()}


def name_of(place: Place) -> str:
    """``component.layer``."""
    return f"{place[0]}.{place[1]}"


def read(hidden: Tensor, residual: Tensor | None, store: Tensor, wanted: Tensor) -> None:
    """The op: copy what is at a place into its buffer, summed in float32.

    Args:
        hidden, residual: ``[tokens, width]``; the value is their sum.
        store: ``[at least tokens, width]``.
        wanted: whether anything is read in this pass, ``[1]``.
    """
    if not hidden.is_cuda and not int(wanted[0]):
        return
    count = min(hidden.shape[0], store.shape[0])
    store[:count].copy_(hidden[:count])
    if residual is not None:
        store[:count].add_(residual[:count])
