"""Contrast pairs, read: the moments of their activations, and of a bounded sample the activations themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..data import ContrastPairs
from ..model import SteeringModel
from .checkpoint import resumed, work_digest
from .gathering import ClassGather
from .methods import Method
from .moments import Moments
from .passes import check_budget
from .progress import ProgressLike, reporting
from .reading import Item, Read, Text, prepare
from .work import RunnerLike, Work, find_runner

#: Examples per class that quality is measured on; a random choice of more.
RESERVOIR = 1024
#: Texts whose tokens the median residual norm is taken over; a random choice of more.
NORM_TEXTS = 64


class Examples:
    """The examples of an extraction.

    What is kept of them depends on the method: the means of the classes; their second moments, where the method needs
    these and they are smaller than the activations; else all activations (in a temporary file if they are many).

    Args:
        model: what reads them.
        pairs: the examples.
        layers, site, read: what is read.
        method: what will be computed.
        sample: whether a bounded sample of activations is kept, too, to measure quality on.
        seed: of the sample.
        token_budget: as of :func:`~.extract.extract`.
    """

    def __init__(
        self,
        model: SteeringModel,
        pairs: ContrastPairs,
        layers: Sequence[int],
        site: str,
        read: Read,
        method: Method,
        *,
        sample: bool,
        seed: int,
        token_budget: int | None,
    ) -> None:
        check_budget(token_budget)
        self.model, self.pairs, self.layers, self.method, self.seed = model, pairs, layers, method, seed
        texts: list[Text] = [*pairs.positive, *pairs.negative]
        self.items: list[Item] = prepare(model, texts, read)
        self.positives = len(pairs.positive)
        width = max(model.shape.width(site, layer) for layer in layers)
        self.whole = _needs_rows(method, len(texts), width)
        rng = np.random.default_rng(seed)
        self.sample = reservoir(pairs, rng) if sample else ([], [])
        kept = range(len(texts)) if self.whole else (*self.sample[0], *(self.positives + i for i in self.sample[1]))
        in_pairs = method.of_pairs is not None and not self.whole
        order = method.order if method.of_classes is not None and not self.whole else 1
        self.gather = ClassGather(self.positives, kept, order=order, differences=in_pairs)
        at_residual = site in ("resid_pre", "resid_mid", "resid_post")
        measured = rng.permutation(len(texts))[:NORM_TEXTS].tolist() if at_residual else []
        self.work = Work(
            tuple(layers), site, norms=frozenset(measured), together=self.positives if in_pairs else None,
            token_budget=token_budget,
        )  # fmt: skip

    def read(self, runner: RunnerLike, checkpoint: str | Path | None, progress: ProgressLike) -> None:
        """Run the model over them."""
        run = find_runner(runner)
        digest = "" if checkpoint is None else work_digest(self.model, self.items, self.work, self._facts())
        with (
            resumed(checkpoint, digest, self.gather, self.items) as (left, keep),
            reporting(progress, left, f"reading {len(left)} texts") as advance,
        ):

            def done(numbers: Sequence[int]) -> None:
                keep(numbers)
                advance(numbers)

            run(self.model, left, self.work, self.gather, done)
        self.norms = self.gather.median_norms()

    def direction(self, layer: int) -> Tensor:
        """What the method makes of a layer: ``[width]``, float64, of whatever length."""
        if self.whole:
            return self.method.compute(*self.rows(layer))
        if self.method.of_pairs is not None:
            return self.method.of_pairs(self.gather.pairs[layer])
        assert self.method.of_classes is not None
        return self.method.of_classes(*self.gather.classes[layer])

    def classes(self, layer: int) -> tuple[Moments, Moments]:
        """The moments of the positive and of the negative class."""
        return self.gather.classes[layer]

    def rows(self, layer: int) -> tuple[Tensor, Tensor]:
        """All positive and all negative activations, float64; for methods that need them."""
        values = self.gather.kept.tensors()[layer].double()
        return values[: self.positives], values[self.positives :]

    def sampled(self, layer: int) -> tuple[Tensor, Tensor]:
        """The positive and negative activations that quality is measured on, float64."""
        if self.whole:
            positive, negative = self.rows(layer)
            return positive[self.sample[0]], negative[self.sample[1]]
        values = self.gather.kept.tensors()[layer].double()
        return values[: len(self.sample[0])], values[len(self.sample[0]) :]

    def sampled_sources(self) -> tuple[list[str], list[str]]:
        """The source of each of these."""
        first, second = self.pairs.groups()
        return [first[i] for i in self.sample[0]], [second[i] for i in self.sample[1]]

    def ids(self) -> tuple[list[list[int]], list[list[int]]]:
        """The tokens of the positive and of the negative examples."""
        found = [item.ids for item in self.items]
        return found[: self.positives], found[self.positives :]

    def _facts(self) -> dict[str, object]:
        return {"positives": self.positives, "kept": len(self.gather.kept.slots), "sample": self.sample,
                "order": self.gather.order, "differences": self.gather.differences}  # fmt: skip


def reservoir(pairs: ContrastPairs, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """A random choice of ``RESERVOIR`` examples per class (all, if there are no more), pairs kept together."""

    def choose(count: int) -> list[int]:
        return sorted(rng.permutation(count)[:RESERVOIR].tolist())

    first = choose(len(pairs.positive))
    return first, first if pairs.paired else choose(len(pairs.negative))


def _needs_rows(method: Method, examples: int, width: int) -> bool:
    """Whether all activations are kept: the method has no other form, or they are smaller than second moments."""
    if method.of_classes is None and method.of_pairs is None:
        return True
    return (method.of_pairs is not None or method.order > 1) and examples <= 2 * width
