"""The seam between what is learnt and what runs the model.

    texts -> items -> a **runner** -> a **gather** -> moments, rows, means -> vector, activations

An :class:`~.reading.Item` is a text as token ids with the indices of the tokens that are read. A :class:`Work` says
what is read of all items. A :class:`Runner` is whatever turns the two into rows: the local one (:mod:`.local`) runs
forward passes of the model at hand, :mod:`.ray_runner` does that on many workers, and another engine plugs in by doing
the same its own way. A :class:`Gather` takes the rows in, in whatever order and grouping they come, and keeps only what
it needs: moments, a bounded sample, or files.

All three are plain data, or hold nothing else: they can be sent to another process. An engine that runs the model
elsewhere fills ``gather.empty(numbers)`` there and merges it here; merging is exact, so the result does not depend on
how items were shared out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ..errors import DataError
from ..model import SteeringModel
from ..plan import Plan
from .reading import Item

#: Called with the numbers of items once what was read of them has been gathered.
Done = Callable[[Sequence[int]], None]


@dataclass(frozen=True)
class Work:
    """What is read of each item.

    Attributes:
        layers: ascending, each of which has the site.
        site: the component.
        average: hand over one row per item, the mean over the tokens it is read at; else all these tokens.
        norms: numbers of the items of which the norm of every token but the first is wanted, too.
        together: items ``n`` and ``n + together`` are a pair, and best read at about the same time; None for no pairs.
        steer: a plan in force meanwhile.
        token_budget: padded tokens per forward pass; measured if None. Other engines batch as they like.
    """

    layers: tuple[int, ...]
    site: str
    average: bool = True
    norms: frozenset[int] = frozenset()
    together: int | None = None
    steer: Plan = field(default_factory=Plan)
    token_budget: int | None = None


class Gather(Protocol):
    """Takes in what was read."""

    def add(self, numbers: Sequence[int], rows: Mapping[int, Tensor | Sequence[Tensor]]) -> None:
        """Take in some items, each exactly once.

        Args:
            numbers: which items these are.
            rows: layer -> float32 on the CPU, ``[len(numbers), width]``; where the work says not to average, a
                sequence of ``[tokens read, width]``. Heads come flat.
        """
        ...

    def add_norms(self, norms: Mapping[int, Tensor]) -> None:
        """Take in the norms of tokens, layer -> ``[any number]``, of items that :attr:`Work.norms` names."""
        ...

    def empty(self, numbers: Sequence[int]) -> Gather:
        """One of the same kind that has seen nothing, and will see these items only; to be filled elsewhere."""
        ...

    def merge(self, other: Any) -> None:
        """Take in all that another one of the same kind has seen: exactly as if it had been added here."""
        ...


class Runner(Protocol):
    """Runs a model over items and hands over what is read."""

    def __call__(self, model: SteeringModel, items: Sequence[Item], work: Work, gather: Gather, done: Done) -> None:
        """Read all items, in any order, adding each to ``gather``, or merging what was filled elsewhere into it.

        ``done`` is called with the numbers of items right after they were gathered: what it was called for is not run
        again when interrupted work is resumed, and drives the progress bar.

        Raises:
            UnsupportedError: this runner cannot do this work; before any of it.
        """
        ...


#: What a user may pass as ``runner=``.
RunnerLike = str | Runner | None


def find_runner(runner: RunnerLike) -> Runner:
    """``None`` or ``"local"``, ``"ray"``, ``"vllm"``, or a runner object such as ``RayRunner(workers=4)``.

    Raises:
        DataError: for an unknown name.
    """
    if runner is None or runner == "local":
        from .local import run

        return run
    if callable(runner):
        return runner
    if runner == "ray":
        from .ray_runner import RayRunner

        return RayRunner()
    if runner == "vllm":
        from .vllm_runner import VLLMRunner

        return VLLMRunner()
    raise DataError(f'runner={runner!r}: use "local", "ray", "vllm", or a runner object')


__all__ = ["Done", "Gather", "Runner", "RunnerLike", "Work", "find_runner"]
