"""Many plans over the same texts: the logits where they are scored, by the cheapest way that is exact.

Three ways, all the same numbers:

- ``branches``: what comes before the first touched token is computed once for all plans, and each plan runs the few
  tokens after it, beside the others under one mask;
- ``resume``: what lies below the first touched layer is computed once, and each plan runs the layers above;
- ``plain``: whole forward passes, where the model allows neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..evaluation.scoring import batches
from ..model import SteeringModel
from ..model.branches import Branching, Stem
from ..model.hooks import Row
from ..model.resume import Resumable
from ..plan import Plan

log = logging.getLogger(__name__)

Way = Literal["branches", "resume", "plain"]
#: Tokens of a forward pass, plans counted.
TOKENS = 4096
#: Tokens of a line of branches: a mask over it is quadratic.
LINE = 96
#: Logits handed over at once.
LOGITS = 1 << 24
#: Called with the numbers of some plans, the numbers of some texts, and their logits ``[plans, scored, vocab]``: the
#: scored tokens of those texts, one text after the other.
Receive = Callable[[list[int], list[int], Tensor], None]


@dataclass(frozen=True)
class Text:
    """One text to run.

    Attributes:
        prompt, rest: token ids; the rest counts as generated.
        first: the first token whose logits are scored; all after it are too.
    """

    prompt: tuple[int, ...]
    rest: tuple[int, ...]
    first: int

    @property
    def length(self) -> int:
        """Its tokens."""
        return len(self.prompt) + len(self.rest)

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return self.length - self.first


class Passes:
    """Texts prepared for plans that touch the same tokens.

    Attributes:
        way: how they are run.
        why: why not a cheaper way.

    Args:
        model: the model.
        texts: what is run.
        like: a plan with the positions and conditions of all that will be run.
        keep: the layers that plans will act in.
        way: a way to insist on; the cheapest exact one unless given.

    Raises:
        NotAppliedError: when the plan touches no token of a text.
        UnsupportedError: when a way is insisted on that is not exact here.
    """

    def __init__(
        self, model: SteeringModel, texts: Sequence[Text], like: Plan, keep: Sequence[int], way: Way | None = None
    ) -> None:
        self.model, self.texts = model, list(texts)
        self.why: str | None = None
        actions = like.actions(model.shape)
        whens = {a.when.layer + 1 for a in actions if a.when is not None}
        self._keep = sorted({model.n_layers, *whens, *keep, *(layer + 1 for layer in keep)})
        self._starts = self._first_touched(like)
        self.way: Way = self._choose(way)
        self._batches: list[tuple[list[int], Any]] = list(self._recorded())

    def _first_touched(self, like: Plan) -> list[int]:
        """The first token that a plan touches in each text."""
        starts: list[int] = []
        for number, text in enumerate(self.texts):
            row = Row(len(text.prompt), text.prompt, self.model.tokens.find_marker, f"text {number}")
            spans = [span for a in like.actions(self.model.shape) for span in row.spans(a.positions)]
            starts.append(min((span.start for span in spans if len(span)), default=text.length - 1))
        return starts

    def _choose(self, way: Way | None) -> Way:
        if way != "plain":
            try:
                self.resumable = Resumable(self.model)
                if way == "resume" or self._branches(way):
                    return "resume" if way == "resume" else "branches"
                return "resume"
            except UnsupportedError as error:
                if way is not None:
                    raise
                self.why = str(error)
        return "plain"

    def _branches(self, way: Way | None) -> bool:
        """Whether branches are exact here, and run fewer tokens."""
        try:
            branching = Branching(self.resumable)
            stems = [self._stem(number) for number in range(len(self.texts))]
            self.why = branching.why_not(stems)
        except UnsupportedError as error:
            self.why = str(error)
        else:
            after = sum(text.length - stem.start for text, stem in zip(self.texts, stems, strict=True))
            if self.why is None and (way == "branches" or 2 * after < sum(text.length for text in self.texts)):
                self.branching = branching
                return True
            self.why = self.why or "it begins early, so there is little to share"
        if way == "branches":
            raise UnsupportedError(f"branches are not exact here: {self.why}")
        return False

    # -- recording ------------------------------------------------------------------------------------------------

    def _recorded(self) -> Iterator[tuple[list[int], Any]]:
        """The texts in batches, each with what is computed once for all plans."""
        if self.way != "branches":
            for group in batches([text.length for text in self.texts], TOKENS // 2):
                chosen = [self.texts[number] for number in group]
                base = None
                if self.way == "resume":
                    ids = [[*text.prompt, *text.rest] for text in chosen]
                    base = self.resumable.record(ids, [len(text.prompt) for text in chosen], keep=self._keep)
                yield group, base
            return
        for group in batches([text.length for text in self.texts], TOKENS):
            stems = [self._stem(number) for number in group]
            yield group, self.branching.record(stems, keep=self._keep)

    def _stem(self, number: int) -> Stem:
        text = self.texts[number]
        start = min(self._starts[number], text.first, len(text.prompt) - 1)
        return Stem(text.prompt, start, (text.rest,))

    # -- running --------------------------------------------------------------------------------------------------

    def run(self, plans: Sequence[Plan], receive: Receive) -> None:
        """Run plans over all texts; those that begin in the same layer together."""
        groups: dict[int, list[int]] = {}
        for number, plan in enumerate(plans):
            layer = 0 if self.way == "plain" else self.resumable.first_layer([plan])
            groups.setdefault(layer, []).append(number)
        for texts, base in self._batches:
            for numbers in groups.values():
                for some in _parts(numbers, self._at_once(texts)):
                    receive(some, texts, self._logits(texts, base, [plans[number] for number in some]))

    def _at_once(self, texts: list[int]) -> int:
        """How many plans fit in one pass."""
        chosen = [self.texts[number] for number in texts]
        config: Any = self.model.architecture.hf.config
        vocabulary: int = config.get_text_config().vocab_size
        most = LOGITS // (vocabulary * sum(text.scored for text in chosen))
        if self.way == "branches":
            width = max(text.length - self._stem(number).start for number, text in zip(texts, chosen, strict=True))
            most = min(most, LINE // width, 4 * TOKENS // (width * len(texts)))
        else:
            most = min(most, TOKENS // (len(texts) * max(text.length for text in chosen)))
        return max(1, most)

    def _logits(self, texts: list[int], base: Any, plans: list[Plan]) -> Tensor:
        chosen = [self.texts[number] for number in texts]
        with torch.inference_mode():
            if self.way == "plain":
                return torch.stack([self._whole(chosen, plan) for plan in plans])
            if self.way == "branches":
                stream = self.branching.run(base, plans)[:, :, 0]  # [stems, plans, width, d]
                parts = []
                for row, (number, text) in enumerate(zip(texts, chosen, strict=True)):
                    start = self._stem(number).start
                    parts.append(stream[row, :, text.first - start : text.length - start])
                return self.resumable.logits(torch.cat(parts, dim=1))
            stream = self.resumable.run(base, plans, few=max(text.scored for text in chosen))
            stream = stream.reshape(len(plans), len(chosen), *stream.shape[1:])
            scored = [stream[:, row, -text.scored :] for row, text in enumerate(chosen)]
            return self.resumable.logits(torch.cat(scored, dim=1))

    def _whole(self, chosen: list[Text], plan: Plan) -> Tensor:
        keep = max(text.scored for text in chosen)
        found = self.model.token_logits([t.prompt for t in chosen], [t.rest for t in chosen], steer=plan, keep=keep)
        return torch.cat([found[row, -text.scored :] for row, text in enumerate(chosen)])


def _parts(numbers: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
