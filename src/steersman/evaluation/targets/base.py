"""What a target is: something measured about a model, one number per item, of which an effect is a change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ...errors import DataError
from ...model import SteeringModel
from ...model.tokens import Prompt, Prompts, listed
from ...plan import PlanLike
from ..items import Array, Item, Measure, Scores
from ..scoring import TOKEN_BUDGET, score


@dataclass(frozen=True, eq=False)
class Measurement:
    """One value per item.

    Attributes:
        values: ``[units]`` float64.
        sources: where each unit comes from; units of one source are resampled together.
        texts: what was generated for each, of targets that generate.
    """

    values: Array
    sources: tuple[str, ...]
    texts: tuple[str, ...] = field(default=())


class Target(ABC):
    """Something measured about a model under a plan, higher being more of it.

    A target is one of three kinds: a :class:`LogitTarget` compares continuations by their log-probabilities, a
    :class:`TextTarget` scores what is generated, an :class:`ActivationTarget` reads activations.
    """

    #: what it is, in JSON and tables
    kind: ClassVar[str]

    @property
    @abstractmethod
    def unit(self) -> str:
        """What its values are counted in."""

    @abstractmethod
    def measure(
        self,
        model: SteeringModel,
        prompts: Prompts | None = None,
        *,
        steer: PlanLike = None,
        sources: Sequence[str] | None = None,
        preface: str | None = None,
    ) -> Measurement:
        """Measure a model.

        Args:
            model: the model.
            prompts: strings or chats; None for a target that brings its own.
            steer: a plan in force meanwhile.
            sources: where each prompt comes from (its template); each its own unless given.
            preface: an instruction put before each prompt: steering by words.

        Raises:
            DataError, PromptError, MismatchError: before any forward pass.
        """

    def describe(self) -> dict[str, Any]:
        """What it measures, as JSON-able values."""
        return {"kind": self.kind, "unit": self.unit}

    def in_words(self) -> str | None:
        """An instruction that asks for more of it, for the prompt baseline; None where words are not known."""
        return None


class LogitTarget(Target):
    """A target of next-token probabilities: continuations of two sides, weighed against each other.

    Engines that have a faster way than :func:`steersman.evaluation.scoring.score` take :meth:`items`, score them their
    own way, and hand the scores to :meth:`values`.
    """

    kind = "logits"
    measure_by: Measure = "propensity"

    @property
    def unit(self) -> str:
        """Nats for the propensity, else probability."""
        return "nats" if self.measure_by == "propensity" else "probability"

    @abstractmethod
    def items(
        self,
        model: SteeringModel,
        prompts: Prompts | None = None,
        *,
        sources: Sequence[str] | None = None,
        preface: str | None = None,
    ) -> list[Item]:
        """What is to be scored, as token ids. Arguments and errors as :meth:`measure`."""

    def values(self, scores: Scores) -> Array:
        """One value per unit, ``[..., units]``, in the measure this target reports."""
        return scores.values(self.measure_by)

    def measure(
        self,
        model: SteeringModel,
        prompts: Prompts | None = None,
        *,
        steer: PlanLike = None,
        sources: Sequence[str] | None = None,
        preface: str | None = None,
        token_budget: int = TOKEN_BUDGET,
    ) -> Measurement:
        """Score all items in plain batches."""
        items = self.items(model, prompts, sources=sources, preface=preface)
        found = score(model, items, steer=steer, token_budget=token_budget)
        return Measurement(self.values(found), found.sources)

    def describe(self) -> dict[str, Any]:
        """What it measures, as JSON-able values."""
        return {**super().describe(), "measure": self.measure_by}


def required(prompts: Prompts | None, target: Target) -> list[Prompt]:
    """The prompts as a list; DataError if a target that needs them got none."""
    if prompts is None:
        raise DataError(f"{type(target).__name__} measures what follows prompts; give prompts=[...]")
    return listed(prompts)[0]


def prompt_sources(sources: Sequence[str] | None, count: int) -> list[str]:
    """The source of each prompt, each its own unless given; DataError for another number of them."""
    if sources is None:
        return [str(number) for number in range(count)]
    if len(sources) != count:
        raise DataError(f"{len(sources)} sources for {count} prompts; give one for each")
    return [str(source) for source in sources]


def as_values(values: Any, count: int, what: str) -> Array:
    """Numbers from a user's function as ``[count]`` float64; DataError if they are not that."""
    try:
        found = np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} must return one number per text, got {values!r:.80}") from error
    if len(found) != count or not np.isfinite(found).all():
        bad = f"{len(found)} numbers" if len(found) != count else "a number that is not finite"
        raise DataError(f"{what} returned {bad} for {count} texts; one finite number for each is needed")
    return found
