"""Questions with lettered answers, in the form of Anthropic's model-written evaluations (Perez et al. 2022,
arXiv:2212.09251).

One JSON object a line: ``question`` (with the choices in it, `` (A) ...``, one a line), ``answer_matching_behavior``
(such as ``" (A)"``) and ``answer_not_matching_behavior``; ``source`` groups questions. Models prefer letters and places
for no good reason, so each question is asked twice, its choices the second time in reverse, and the two are averaged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ...data.pairs import read_jsonl
from ...errors import DataError
from ...model import SteeringModel
from ...model.tokens import Prompt, Prompts
from ..items import MEASURES, Ids, Item, Measure
from ..prompting import prefaced
from .base import LogitTarget

_CHOICE = re.compile(r"^(?P<before>[ \t]*\()(?P<letter>[A-Z])(?P<after>\)[ \t]*)(?P<text>\S.*)$", re.MULTILINE)
_LETTER = re.compile(r"\(?([A-Z])\)?")
Form = Literal["auto", "chat", "plain"]


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        text: with its choices.
        matching, other: the answers that show the behaviour, and those that do not, as they follow the question.
        source: where it comes from.
    """

    text: str
    matching: tuple[str, ...]
    other: tuple[str, ...]
    source: str

    def reversed(self) -> Question | None:
        """The same question, its choices in reverse order and answers relettered; None without lettered choices."""
        found = list(_CHOICE.finditer(self.text))
        letters = [choice["letter"] for choice in found]
        answers = [*self.matching, *self.other]
        named = [_LETTER.fullmatch(answer.strip()) for answer in answers]
        if len(found) < 2 or len(set(letters)) < len(letters) or not all(n and n[1] in letters for n in named):
            return None
        swap = dict(zip(letters, reversed(letters), strict=True))
        parts: list[str] = []
        at = 0
        for choice, opposite in zip(found, reversed(found), strict=True):
            parts += [self.text[at : choice.start("text")], opposite["text"]]
            at = choice.end()
        text = "".join([*parts, self.text[at:]])

        def reletter(answer: str) -> str:
            return _LETTER.sub(lambda match: match[0].replace(match[1], swap[match[1]]), answer, count=1)

        matching, other = (tuple(reletter(answer) for answer in side) for side in (self.matching, self.other))
        return Question(text, matching, other, self.source)


@dataclass(frozen=True)
class MultipleChoice(LogitTarget):
    """``m = log P(matching answers) - log P(other answers)``, both orders of the choices averaged.

    Attributes:
        questions: what is asked.
        measure_by: as of :func:`steersman.contrast`; ``"preference"`` is the mean probability of the matching answer
            among the two, as in Rimsky et al. (2023, arXiv:2312.06681).
        form: ``"chat"``: the question is a user's message and the answer the model's turn; ``"plain"``: the question
            is followed by ``Answer:``; ``"auto"``: chat where the model has a template.
        instruction: asks for the behaviour in words.
    """

    questions: tuple[Question, ...]
    measure_by: Measure = "propensity"
    form: Form = "auto"
    instruction: str | None = None

    kind = "multiple_choice"

    def items(
        self,
        model: SteeringModel,
        prompts: Prompts | None = None,
        *,
        sources: Sequence[str] | None = None,
        preface: str | None = None,
    ) -> list[Item]:
        """Two items for each question, one where its choices have no order to turn."""
        if prompts is not None:
            raise DataError("multiple choice brings its own questions; leave prompts= out")
        names = [question.source for question in self.questions] if sources is None else list(sources)
        if len(names) != len(self.questions):
            raise DataError(f"{len(names)} sources for {len(self.questions)} questions; give one for each")
        found: list[Item] = []
        for number, (question, source) in enumerate(zip(self.questions, names, strict=True)):
            forms = [form for form in (question, question.reversed()) if form is not None]
            found += [self._item(model, form, number, source, preface) for form in forms]
        return found

    def _item(self, model: SteeringModel, question: Question, unit: int, source: str, preface: str | None) -> Item:
        chat = self.form == "chat" or (self.form == "auto" and bool(getattr(model.tokenizer, "chat_template", None)))
        prompt: Prompt = [{"role": "user", "content": question.text}] if chat else f"{question.text}\n\nAnswer:"
        ids = tuple(model.tokens.encode(prefaced(prompt, preface, model.tokens)))

        def answers(texts: tuple[str, ...]) -> tuple[Ids, ...]:
            return tuple(tuple(model.tokens.continuation(text.lstrip() if chat else text)) for text in texts)

        return Item(ids, answers(question.matching), answers(question.other), unit, source, question.text)

    def describe(self) -> dict[str, Any]:
        """What it measures, as JSON-able values."""
        turned = sum(question.reversed() is not None for question in self.questions)
        return {**super().describe(), "questions": len(self.questions), "both_orders": turned, "form": self.form}

    def in_words(self) -> str | None:
        """The instruction given."""
        return self.instruction


def multiple_choice(
    questions: str | Path | Sequence[Mapping[str, Any]],
    *,
    measure: Measure = "propensity",
    form: Form = "auto",
    instruction: str | None = None,
) -> MultipleChoice:
    """A target from a file of questions, or from its rows.

    Args:
        questions: a ``.jsonl`` file, or mappings with its columns.
        measure: ``"propensity"`` (nats), ``"preference"`` (share of probability) or ``"balance"``.
        form: ``"auto"``, ``"chat"`` or ``"plain"``.
        instruction: asks for the behaviour in words; the prompt baseline uses it.

    Raises:
        DataError: a row without the columns, by its number.
    """
    if measure not in MEASURES:
        raise DataError(f"multiple_choice(measure={measure!r}): use one of {', '.join(MEASURES)}")
    if form not in ("auto", "chat", "plain"):
        raise DataError(f'multiple_choice(form={form!r}): use "auto", "chat" or "plain"')
    origin = str(questions) if isinstance(questions, str | Path) else "the questions"
    rows = read_jsonl(questions) if isinstance(questions, str | Path) else list(questions)
    if not rows:
        raise DataError(f"{origin}: there is no question")
    return MultipleChoice(tuple(_question(row, i, origin) for i, row in enumerate(rows)), measure, form, instruction)


def _question(row: Mapping[str, Any], number: int, origin: str) -> Question:
    text = row.get("question")
    sides = [_texts(row.get(f"answer_{name}_behavior")) for name in ("matching", "not_matching")]
    if not isinstance(text, str) or not text.strip() or not all(sides) or set(sides[0]) & set(sides[1]):
        raise DataError(
            f"{origin}: item {number} is no question; it needs the texts question, answer_matching_behavior and "
            "answer_not_matching_behavior, the answers different"
        )
    return Question(text, sides[0], sides[1], str(row.get("source", number)))


def _texts(value: object) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        return ()
    texts = cast("Sequence[object]", items)
    return tuple(str(text) for text in texts) if all(isinstance(text, str) and text.strip() for text in texts) else ()
