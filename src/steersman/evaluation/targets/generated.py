"""Targets of generated text: a function that scores texts, or a regular expression that counts."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import DataError
from ...model import SteeringModel
from ...model.tokens import Prompts
from ...plan import PlanLike
from ..items import Array
from ..prompting import prefaced
from ..samples import Sampling, draw
from .base import Measurement, Target, as_values, prompt_sources, required
from .contrast import text_of


class TextTarget(Target):
    """A target of what is generated after prompts; the texts of one prompt are averaged.

    Subclasses say what a text is worth. ``sampling`` says how texts are drawn (greedily if its temperature is None),
    and ``seed`` by which numbers, the same under every plan.
    """

    kind = "text"
    sampling: Sampling
    seed: int

    @property
    def unit(self) -> str:
        """A score."""
        return "score"

    @abstractmethod
    def score_texts(self, prompts: Sequence[str], texts: Sequence[str]) -> Array:
        """One number per text ``[n]``, given the prompt of each."""

    def measure(
        self,
        model: SteeringModel,
        prompts: Prompts | None = None,
        *,
        steer: PlanLike = None,
        sources: Sequence[str] | None = None,
        preface: str | None = None,
    ) -> Measurement:
        """Generate, and score what was generated."""
        given = required(prompts, self)
        groups = prompt_sources(sources, len(given))
        asked = [prefaced(prompt, preface, model.tokens) for prompt in given]
        samples = draw(model, asked, steer, self.sampling, self.seed)
        each = len(samples.texts) // len(given)
        of = [text_of(prompt) for prompt in given for _ in range(each)]
        values = as_values(self.score_texts(of, samples.texts), len(samples.texts), type(self).__name__)
        return Measurement(values.reshape(len(given), each).mean(1), tuple(groups), tuple(samples.texts))

    def describe(self) -> dict[str, Any]:
        """What it measures, as JSON-able values."""
        own = self.sampling
        return {
            **super().describe(), "texts": own.texts, "max_new_tokens": own.max_new_tokens,
            "temperature": own.temperature, "seed": self.seed,
        }  # fmt: skip


def _one_greedy() -> Sampling:
    return Sampling(texts=1, temperature=None)


@dataclass(frozen=True)
class Classifier(TextTarget):
    """The score of a function of texts: a sentiment classifier, a reward model, anything.

    Attributes:
        function: texts -> one number for each.
        name: what to call it.
        sampling, seed: how texts are drawn; one greedy text per prompt unless given.
        instruction: asks for a higher score in words.
    """

    function: Callable[[list[str]], Any]
    name: str = "classifier"
    sampling: Sampling = field(default_factory=_one_greedy)
    seed: int = 0
    instruction: str | None = None

    kind = "classifier"

    def score_texts(self, prompts: Sequence[str], texts: Sequence[str]) -> Array:
        """What the function returns."""
        return as_values(self.function(list(texts)), len(texts), self.name)

    def describe(self) -> dict[str, Any]:
        """What it measures, as JSON-able values."""
        return {**super().describe(), "name": self.name}

    def in_words(self) -> str | None:
        """The instruction given."""
        return self.instruction


@dataclass(frozen=True)
class RegexRate(TextTarget):
    """The share of generated texts in which a regular expression is found.

    Attributes:
        pattern: a Python regular expression; ``(?i)`` at its start ignores case.
        sampling, seed: how texts are drawn; one greedy text per prompt unless given.
        instruction: asks for it in words.
    """

    pattern: str
    sampling: Sampling = field(default_factory=_one_greedy)
    seed: int = 0
    instruction: str | None = None

    kind = "regex"

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise DataError(f"{self.pattern!r} is no regular expression: {error}") from error

    @property
    def unit(self) -> str:
        """A share."""
        return "share of texts"

    def score_texts(self, prompts: Sequence[str], texts: Sequence[str]) -> Array:
        """1 where it is found, else 0."""
        pattern = re.compile(self.pattern)
        return np.array([float(pattern.search(text) is not None) for text in texts])

    def describe(self) -> dict[str, Any]:
        """What it measures, as JSON-able values."""
        return {**super().describe(), "pattern": self.pattern}

    def in_words(self) -> str | None:
        """The instruction given."""
        return self.instruction
