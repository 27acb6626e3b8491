"""Whether the model still knows what it knew: facts with one right answer.

For each fact ``log p(answer | prompt)``, and whether the answer is likelier than every wrong one that is given, or, where
none is given, whether the model would say it: each of its tokens the likeliest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.pairs import read_jsonl
from ...errors import DataError
from ...plan import Plan
from ..arms import Arm, Comparison
from ..items import Array
from ..neutral import DATA_FOLDER
from ..scoring import continuation_logits
from ..statistics import mean
from .base import Control, Metric, Row, change

#: Capitals of 69 countries, which the embedded model knows, and any model of some size.
CAPITALS = DATA_FOLDER / "capitals.jsonl"
#: Random directions whose accuracy is measured.
CONTROLS = 10


@dataclass(frozen=True)
class Fact:
    """A prompt with its right answer, and perhaps wrong ones; texts that follow it directly."""

    prompt: str
    answer: str
    wrong: tuple[str, ...] = ()
    source: str = ""


def read_facts(path: str | Path) -> list[Fact]:
    """Facts from a file of JSON lines: ``prompt``, ``answer``, and if wanted ``wrong`` (a list) and ``source``.

    Raises:
        DataError: a line that is no fact, by its number.
    """
    return [_fact(row, number, str(path)) for number, row in enumerate(read_jsonl(path), 1)]


def _fact(row: Mapping[str, Any], number: int, origin: str) -> Fact:
    wrong = row.get("wrong", [])
    texts = [row.get("prompt"), row.get("answer"), *(wrong if isinstance(wrong, list) else [None])]  # pyright: ignore[reportUnknownArgumentType]
    if not all(isinstance(text, str) and text for text in texts):
        raise DataError(
            f'{origin}, line {number} is no fact; it needs texts "prompt" and "answer", and if it has "wrong", a list '
            "of texts"
        )
    return Fact(row["prompt"], row["answer"], tuple(wrong), str(row.get("source", number)))


@dataclass(frozen=True)
class Capability(Metric):
    """Accuracy and log-probability of facts, paired.

    Attributes:
        facts: what is asked.
    """

    facts: tuple[Fact, ...]

    name = "accuracy"

    def rows(self, comparison: Comparison) -> list[Row]:
        """Accuracy, and the log-probability of the right answers."""
        right, nats = self.score(comparison.base)
        steered_right, steered_nats = self.score(comparison.steered)
        sources, seed = [fact.source for fact in self.facts], comparison.settings.seed
        drawn = [
            float(self.score(Arm(comparison.base.model, plan))[0].mean() - right.mean())
            for plan in comparison.controls[:CONTROLS]
        ]
        control = Control("random directions", float(np.median(drawn)), len(drawn)) if drawn else None
        accuracy = mean(steered_right - right, sources, seed=seed)
        likelihood = mean(steered_nats - nats, sources, seed=seed)
        details = {"facts": len(self.facts)}
        return [
            Row("accuracy", f"accuracy on {len(self.facts)} facts", "share", float(right.mean()),
                float(steered_right.mean()), accuracy, "steered", "higher", control, change(accuracy), details),
            Row("fact_nats", "log-probability of the answers", "nats", float(nats.mean()), float(steered_nats.mean()),
                likelihood, "difference", "higher", None, change(likelihood), details),
        ]  # fmt: skip

    def score(self, arm: Arm) -> tuple[Array, Array]:
        """Whether each fact is right (0 or 1), and the log-probability of its answer."""
        tokens = arm.model.tokens
        pairs: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for number, fact in enumerate(self.facts):
            prompt = tokens.encode(fact.prompt)
            for text in (fact.answer, *fact.wrong):
                pairs.append((prompt, tokens.continuation(text)))
                owners.append(number)
        sums, said = np.zeros(len(pairs)), np.zeros(len(pairs), bool)

        def receive(number: int, logits: Tensor) -> None:
            ids = torch.tensor(pairs[number][1], device=logits.device)
            logs = torch.log_softmax(logits.double(), -1).gather(-1, ids[:, None])
            sums[number] = float(logs.sum())
            said[number] = bool((logits.argmax(-1) == ids).all())

        continuation_logits(arm.model, pairs, receive, steer=Plan.of(arm.plan))
        first = [owners.index(number) for number in range(len(self.facts))]
        right = np.zeros(len(self.facts))
        for number, (fact, at) in enumerate(zip(self.facts, first, strict=True)):
            rivals = sums[at + 1 : at + 1 + len(fact.wrong)]
            right[number] = bool((sums[at] > rivals).all()) if fact.wrong else said[at]
        return right, sums[first]


def facts_of(value: Sequence[Fact] | str | Path | None) -> tuple[Fact, ...]:
    """Facts as given, or read from a file; the packaged capitals for None."""
    if value is None or isinstance(value, str | Path):
        return tuple(read_facts(CAPITALS if value is None else value))
    return tuple(value)
