"""Whether the model still knows what it knew: facts with one right answer.

For each fact ``log p(answer | prompt)``, and whether the answer is likelier than every wrong one that is given, or,
where none is given, whether the model would say it: each of its tokens the likeliest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...data.pairs import read_jsonl
from ...errors import DataError
from ...model import SteeringModel
from ...plan import Plan
from ..arms import Comparison
from ..items import Array, Item
from ..neutral import DATA_FOLDER
from ..scoring import continuation_log_probabilities, continuation_logits
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
        base, arm = comparison.base, comparison.steered
        plans = comparison.controls[:CONTROLS]
        (right, *others), (nats, *_) = self.score(base.model, [base.plan, *plans])
        (steered_right,), (steered_nats,) = self.score(arm.model, [arm.plan])
        sources, seed = [fact.source for fact in self.facts], comparison.settings.seed
        drawn = [float(one.mean() - right.mean()) for one in others]
        control = Control("random directions", float(np.median(drawn)), len(drawn)) if drawn else None
        accuracy = mean(steered_right - right, sources, seed=seed)
        likelihood = mean(steered_nats - nats, sources, seed=seed)
        details = {"facts": len(self.facts)}
        return [
            Row("accuracy", f"accuracy on {len(self.facts)} facts", "share", float(right.mean()),
                float(steered_right.mean()), accuracy, "steered", "higher", control, change(accuracy, "higher"),
                details),
            Row("fact_nats", "log-probability of the answers", "nats", float(nats.mean()), float(steered_nats.mean()),
                likelihood, "difference", "higher", None, change(likelihood, "higher"), details),
        ]  # fmt: skip

    def score(self, model: SteeringModel, plans: Sequence[Plan]) -> tuple[Array, Array]:
        """Whether each fact is right (0 or 1), and the log-probability of its answer, ``[plans, facts]`` both."""
        tokens = model.tokens
        items = [
            Item(
                tuple(tokens.encode(fact.prompt)), (tuple(tokens.continuation(fact.answer)),),
                tuple(tuple(tokens.continuation(text)) for text in fact.wrong), number, fact.source,
            )
            for number, fact in enumerate(self.facts)
        ]  # fmt: skip
        logs = continuation_log_probabilities(model, items, plans).numpy()
        starts = np.cumsum([0, *(1 + len(item.negative) for item in items)])[:-1]
        right = np.zeros((len(plans), len(items)))
        for number, (item, start) in enumerate(zip(items, starts.tolist(), strict=True)):
            if item.negative:
                rivals = logs[:, start + 1 : start + 1 + len(item.negative)]
                right[:, number] = (logs[:, start, None] > rivals).all(1)
        unrivalled = [number for number, item in enumerate(items) if not item.negative]
        for row, plan in enumerate(plans if unrivalled else ()):
            right[row, unrivalled] = _said(model, [items[number] for number in unrivalled], plan)
        return right, logs[:, starts]


def _said(model: SteeringModel, items: Sequence[Item], plan: Plan) -> Array:
    """Whether the model would say each answer: each of its tokens the likeliest."""
    found = np.zeros(len(items))

    def receive(number: int, logits: Tensor) -> None:
        found[number] = logits.argmax(-1).tolist() == list(items[number].positive[0])

    continuation_logits(model, [(item.prompt, item.positive[0]) for item in items], receive, steer=plan)
    return found


def facts_of(value: Sequence[Fact] | str | Path | None) -> tuple[Fact, ...]:
    """Facts as given, or read from a file; the packaged capitals for None."""
    if value is None or isinstance(value, str | Path):
        return tuple(read_facts(CAPITALS if value is None else value))
    return tuple(value)
