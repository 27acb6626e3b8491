"""When an intervention acts, and how its strength changes while it does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .errors import InterventionError
from .sites import RESIDUAL_WIDTH, layer_index
from .tensors import check_number, checked, unit
from .vector import SteeringVector

Measure = Literal["cosine", "projection"]


@dataclass(frozen=True)
class Schedule:
    """A strength for each step: entry 0 is the last prompt token, then one per generated token; the last one holds.

    A schedule begins at the last prompt token, so it needs positions that select no prompt token before that.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        values = tuple(check_number(value, "a scheduled strength") for value in self.values)
        if not values:
            raise InterventionError("a schedule needs at least one strength")
        object.__setattr__(self, "values", values)

    def at(self, step: int) -> float:
        """The strength at a step; steps past the end keep the last value."""
        return self.values[min(step, len(self.values) - 1)]


def schedule(values: Iterable[float]) -> Schedule:
    """A strength that changes with the generation: ``Add(v, strength=schedule([2.0, 1.5, 1.0]))``."""
    return Schedule(tuple(values))


Strength = float | Schedule


def check_strength(value: object) -> Strength:
    """A number, or a :class:`Schedule` (a list is read as one)."""
    if isinstance(value, Schedule):
        return value
    if isinstance(value, list | tuple):
        return schedule(value)  # pyright: ignore[reportUnknownArgumentType]
    return check_number(value, "strength")


@dataclass(frozen=True, eq=False)
class When:
    """A condition on the prompt, as in conditional activation steering (Lee et al. 2024, arXiv:2409.05907).

    It is read at the last prompt token of each row, in the residual stream after block ``layer`` as it is without
    this plan, decided once and held: the intervention then acts on that token in the layers above and on every later
    token. A plan that acts at or below ``layer`` in the prompt costs a clean pass over the prompt first.

    Attributes:
        vector: a direction ``[d_model]``, or a steering vector that has ``layer``.
        layer: the block whose output is read.
        above, below: the threshold; the condition holds when the measure is greater (less) than it. Give one.
        measure: ``"cosine"``, the signed ``cos(h, v)`` in [-1, 1]; or ``"projection"``, ``h . v/|v|`` in raw residual
            units.
    """

    vector: SteeringVector | Tensor
    layer: int
    above: float | None = None
    below: float | None = None
    measure: Measure = "cosine"

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise InterventionError("When() needs one threshold: above=... or below=...")
        threshold = self.above if self.above is not None else self.below
        name = "above" if self.above is not None else "below"
        object.__setattr__(self, name, check_number(threshold, f"When({name}=...)"))
        if self.measure not in ("cosine", "projection"):
            raise InterventionError(f'When(measure={self.measure!r}): use "cosine" or "projection"')
        layer_index(self.layer, "When(layer=...)")
        if not isinstance(self.vector, SteeringVector):
            object.__setattr__(self, "vector", checked(self.vector, "the direction of When()", (1,)))
        elif self.vector.site not in RESIDUAL_WIDTH:
            raise InterventionError(
                f"When() reads the residual stream, but {self.vector.label} is of {self.vector.site}; extract it at "
                "resid_post"
            )
        unit(self.direction(), "the direction of When()")

    def direction(self) -> Tensor:
        """The direction read, ``[d_model]``, as stored."""
        return self.vector if isinstance(self.vector, Tensor) else self.vector[self.layer]

    def holds(self, hidden: Tensor) -> Tensor:
        """Whether the condition holds for hidden states ``[..., d_model]``: booleans ``[...]``."""
        return passes(hidden, self.direction(), self.above, self.below, self.measure)


def passes(hidden: Tensor, direction: Tensor, above: float | None, below: float | None, measure: Measure) -> Tensor:
    """Whether hidden states ``[..., d_model]`` measure more than ``above``, or less than ``below``: ``[...]``."""
    hidden = hidden.to(torch.float32)
    score = hidden @ unit(direction.to(hidden.device), "the direction of When()")
    if measure == "cosine":
        score = score / hidden.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    return score > above if above is not None else score < below  # pyright: ignore[reportOperatorIssue]
