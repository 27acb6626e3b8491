"""Two sets of continuations weighed against each other after prompts."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from ...model import SteeringModel
from ...model.tokens import Prompts
from ..items import MEASURES, Ids, Item, Measure
from ..prompting import prefaced, quoted
from .base import LogitTarget, prompt_sources, required

log = logging.getLogger(__name__)


class ContinuationTarget(LogitTarget):
    """A target of the same continuations after each prompt."""

    @abstractmethod
    def tokens(self, model: SteeringModel) -> tuple[tuple[Ids, ...], tuple[Ids, ...]]:
        """The continuations of both sides as token ids."""

    def items(
        self,
        model: SteeringModel,
        prompts: Prompts | None = None,
        *,
        sources: Sequence[str] | None = None,
        preface: str | None = None,
    ) -> list[Item]:
        """One item per prompt."""
        given = required(prompts, self)
        groups = prompt_sources(sources, len(given))
        positive, negative = self.tokens(model)
        found: list[Item] = []
        for number, (prompt, source) in enumerate(zip(given, groups, strict=True)):
            ids = tuple(model.tokens.encode(prefaced(prompt, preface, model.tokens)))
            found.append(Item(ids, positive, negative, number, source, text_of(prompt)))
        return found


@dataclass(frozen=True)
class Contrast(ContinuationTarget):
    """``m(x) = log sum_{y in Y+} p(y|x) - log sum_{y in Y-} p(y|x)``; made by :func:`contrast`.

    Attributes:
        positive, negative: the continuations Y+ and Y-, as texts.
        measure_by: ``"propensity"`` (m, nats), ``"preference"`` (sigma(m)) or ``"balance"`` (P(Y+) - P(Y-)).
        instruction: asks for the positive side in words, for the prompt baseline.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    measure_by: Measure = "propensity"
    instruction: str | None = None

    kind = "contrast"

    def tokens(self, model: SteeringModel) -> tuple[tuple[Ids, ...], tuple[Ids, ...]]:
        """The continuations of both sides as token ids.

        One that begins with another of its own side is left out, since the shorter one's probability holds it already.

        Raises:
            DataError: when one begins with, or equals, one of the other side: the sides would not exclude each other.
        """
        positive, negative = (
            shortest({tuple(model.tokens.continuation(text)): text for text in side})
            for side in (self.positive, self.negative)
        )
        for one, mine in positive.items():
            for other, theirs in negative.items():
                if one[: len(other)] == other or other[: len(one)] == one:
                    raise DataError(
                        f"{mine!r} and {theirs!r} begin with the same tokens, so they do not exclude each other; make "
                        "the continuations of the two sides differ from their first token, or take one out"
                    )
        return tuple(positive), tuple(negative)

    def describe(self) -> dict[str, Any]:
        """What it measures, as JSON-able values."""
        return {**super().describe(), "positive": list(self.positive), "negative": list(self.negative)}

    def in_words(self) -> str:
        """The instruction given, or one that names some of the continuations."""
        if self.instruction is not None:
            return self.instruction
        return f"Continue with words such as {quoted(self.positive)}, not {quoted(self.negative)}."


def contrast(
    positive: str | Sequence[str],
    negative: str | Sequence[str],
    *,
    measure: Measure = "propensity",
    instruction: str | None = None,
) -> Contrast:
    """A target that weighs continuations against each other: ``contrast(positive=[" great"], negative=[" awful"])``.

    Continuations are texts that may follow a prompt directly, so words usually begin with a space. They may be of any
    length: single tokens are read off the next-token distribution, longer ones are scored by their log-probability.

    Args:
        positive, negative: the continuations of each side.
        measure: ``"propensity"``: the difference of log-probabilities, nats; ``"preference"``: its sigmoid, in [0, 1];
            ``"balance"``: the difference of probabilities, in [-1, 1].
        instruction: asks for the positive side in words; the prompt baseline uses it.

    Raises:
        DataError: an empty side, a continuation that is no text, or the same one on both sides.
    """
    sides: list[tuple[str, ...]] = []
    for name, given in (("positive", positive), ("negative", negative)):
        side = (given,) if isinstance(given, str) else tuple(given)
        if not side or not all(isinstance(text, str) and text for text in side):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DataError(f"contrast({name}=...) needs at least one text, each not empty, got {given!r}")
        sides.append(tuple(dict.fromkeys(side)))
    both = set(sides[0]) & set(sides[1])
    if both:
        raise DataError(f"contrast(): {sorted(both)[0]!r} stands on both sides; take it out of one")
    if measure not in MEASURES:
        raise DataError(f"contrast(measure={measure!r}): use one of {', '.join(MEASURES)}")
    return Contrast(sides[0], sides[1], measure, instruction)


def shortest(texts: dict[Ids, str]) -> dict[Ids, str]:
    """Continuations without those that begin with another."""
    kept: dict[Ids, str] = {}
    for ids in sorted(texts, key=len):
        shorter = next((own for own in kept if ids[: len(own)] == own), None)
        if shorter is None:
            kept[ids] = texts[ids]
        else:
            log.warning(
                "%r begins with the tokens of %r, whose probability holds it already; it is left out",
                texts[ids], kept[shorter],
            )  # fmt: skip
    return {ids: kept[ids] for ids in texts if ids in kept}


def text_of(prompt: Any) -> str:
    """A prompt as one line for people."""
    if isinstance(prompt, str):
        return prompt
    return " / ".join(f"{message['role']}: {message['content']}" for message in prompt)
