"""Choosing the next token so that a row's draws depend on its seed alone.

Sampling inverts the distribution function at one uniform number per row and step, from a generator of the row's own.
So the global random state is left alone, calls in different threads do not disturb each other, and steered and
unsteered runs of one seed meet the same numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..errors import PromptError


@dataclass(frozen=True)
class Sampling:
    """How to sample; None means greedy.

    Attributes:
        temperature: above 0.
        top_k: keep that many tokens; 0 keeps all.
        top_p: keep the smallest set with that probability.
        seeds: one per row.
    """

    temperature: float
    top_k: int
    top_p: float
    seeds: tuple[int, ...]

    def processors(self) -> Any:
        """The logits processors that leave the drawn token as the only possible one."""
        found: list[Any] = []
        if self.temperature != 1:
            found.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k:
            found.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            found.append(TopPLogitsWarper(self.top_p))
        return LogitsProcessorList([*found, Draw(self.seeds)])


def wanted(
    do_sample: bool | None, temperature: float | None, top_k: int | None, top_p: float | None
) -> tuple[float, int, float] | None:
    """The sampling parameters, or None for greedy: sampling is on when asked for, or when one of them is given.

    Raises:
        PromptError: a value out of range, or a parameter of sampling together with ``do_sample=False``.
    """
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    named = [name for name, value in given.items() if value is not None]
    if do_sample is False and named:
        raise PromptError(f"{', '.join(named)} given, but do_sample=False; leave one of them out")
    if not (do_sample or named):
        return None
    temperature = 1.0 if temperature is None else temperature
    top_k = 0 if top_k is None else top_k
    top_p = 1.0 if top_p is None else top_p
    if not temperature > 0:
        raise PromptError(f"temperature must be above 0, got {temperature}; for greedy decoding leave it out")
    if top_k < 0 or not 0 < top_p <= 1:
        raise PromptError(f"top_k must be at least 0 and top_p in (0, 1], got {top_k} and {top_p}")
    return temperature, top_k, top_p


def row_seeds(seed: int | Sequence[int] | None, rows: int) -> tuple[int, ...]:
    """A seed for each row: those given, or spread from one; without a seed, from the global random state.

    Raises:
        PromptError: another number of seeds than rows.
    """
    if not isinstance(seed, int | None):
        if len(seed) != rows:
            raise PromptError(f"{len(seed)} seeds for {rows} rows; give one for each, or one number for all")
        return tuple(seed)
    start = int(torch.randint(0, 2**31, ()).item()) if seed is None else seed
    return tuple(start + row * 1_000_003 for row in range(rows))


class Draw(LogitsProcessor):
    """Draws one token per row and rules out all others."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores ``[rows, vocab]`` with all but the drawn token at minus infinity."""
        cumulative = torch.softmax(scores.double(), dim=-1).cumsum(-1)
        draws = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self.generators])
        targets = draws.to(scores.device)[:, None] * cumulative[:, -1:]
        chosen = (cumulative > targets).int().argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def forked_random_state(seed: int | None) -> Generator[None]:
    """Seed the global random state inside and restore it afterwards; nothing is done without a seed.

    For sampling inside beam search, which draws from the global state. Such calls wait for each other.
    """
    if seed is None:
        yield
        return
    with _ONE_AT_A_TIME, torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
