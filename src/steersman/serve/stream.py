"""One row of text under way: its next token, its text, and why it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..model import SteeringModel
from ..model.growing import Growing, UntilStop
from ..model.sampling import Sampling
from ..plan import Plan
from .errors import ApiError

Finish = Literal["stop", "length"]


@dataclass(frozen=True, eq=False)
class Order:
    """What a row is to be.

    Attributes:
        prompt: its token ids.
        plan: what steers it.
        new_tokens: at most.
        ends: token ids that end it.
        sampling: how to draw, with one seed; None is greedy.
        stops: texts to end before.
        logprobs: how many alternatives to report beside each token; None for no log probabilities.
        frequency, presence: what each earlier use of a token, or its having been used, takes off its logit.
        bias: what is added to the logits of token ids.
        deadline: in the time of ``time.monotonic``.
    """

    prompt: tuple[int, ...]
    plan: Plan
    new_tokens: int
    ends: frozenset[int]
    deadline: float
    sampling: Sampling | None = None
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    frequency: float = 0.0
    presence: float = 0.0
    bias: Mapping[int, float] = field(default_factory=lambda: {})


@dataclass(frozen=True)
class Token:
    """A token that was produced: its id, its log probability and those of the likeliest, where asked for."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Piece:
    """What a row has to say after a step.

    Attributes:
        text: that is ready, perhaps none.
        tokens: those whose text it is.
        finish: why the row has ended, if it has.
        gates: whether each condition of its plan held; with the end.
        error: why it failed.
    """

    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish: Finish | None = None
    gates: Mapping[Any, bool] = field(default_factory=lambda: {})
    error: ApiError | None = None

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.finish is not None or self.error is not None


class Stream:
    """A row, from its order to its end. Advanced by the engine's thread; ``cancelled`` may be set by any.

    Attributes:
        order: what it is to be.
        whole: whether its reader waits for the end; then it says nothing between its first text and its last.
        tokens: produced so far.
        cancelled: nobody wants it any longer.
    """

    def __init__(self, model: SteeringModel, order: Order, whole: bool = False, deliver: Any = None) -> None:
        self.order, self.whole = order, whole
        self.deliver = deliver
        self.tokens: list[int] = []
        self.cancelled = False
        self._text = Growing(model.tokens, order.prompt)
        self._until = UntilStop(order.stops)
        self._draw = None if order.sampling is None else order.sampling.processors()
        self._decoded = 0  # of its tokens
        self._ready = ""  # text that is not said yet
        self._unsaid: list[Token] = []
        self._begun = False
        self._counts: dict[int, int] = {}
        self._bias = torch.tensor(list(order.bias)), torch.tensor(list(order.bias.values()))

    @property
    def plain(self) -> bool:
        """Whether its next token is the likeliest one, and no more is asked."""
        order = self.order
        return self._draw is None and order.logprobs is None and not (order.bias or order.frequency or order.presence)

    def advance(self, likeliest: int, logits: Tensor | None, speak: bool = True) -> Piece | None:
        """Take the next token.

        Args:
            likeliest: the token with the largest logit.
            logits: ``[vocab]`` float32; not needed if it is :attr:`plain`.
            speak: whether to say what is ready. Its first text and its last are said in any case.

        Returns:
            What is new for the reader, or None if nothing is.
        """
        token = Token(likeliest) if logits is None else self._choose(logits)
        self.tokens.append(token.id)
        ended = token.id in self.order.ends
        if not ended:
            self._unsaid.append(token)
        full = len(self.tokens) >= self.order.new_tokens
        speak = (speak and not self.whole) or not self._begun or ended or full
        if speak or self.order.stops:  # which have to be looked for in every token's text
            self._decode()
        finish: Finish | None = "stop" if self._until.stopped or ended else "length" if full else None
        if finish and not self._until.stopped:
            self._ready += self._until.add(self._text.rest()) + self._until.rest()
        if finish is None and not (speak and self._ready):
            return None
        return self._said(finish)

    def _decode(self) -> None:
        """Make text of the tokens that are not text yet, up to a stop string."""
        self._ready += self._until.add(self._text.add(self.tokens[self._decoded :]))
        self._decoded = len(self.tokens)

    def _said(self, finish: Finish | None) -> Piece:
        piece = Piece(self._ready, tuple(self._unsaid), finish)
        self._begun, self._ready, self._unsaid = True, "", []
        return piece

    def _choose(self, logits: Tensor) -> Token:
        scores = self._weighed(logits)
        drawn = scores if self._draw is None else self._draw(None, scores[None])[0]
        chosen = int(drawn.argmax())
        if self.order.frequency or self.order.presence:
            self._counts[chosen] = self._counts.get(chosen, 0) + 1
        if self.order.logprobs is None:
            return Token(chosen)
        logprobs = torch.log_softmax(logits, -1)
        values, ids = torch.topk(logprobs, min(self.order.logprobs, len(logprobs)))
        return Token(chosen, float(logprobs[chosen]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))

    def _weighed(self, logits: Tensor) -> Tensor:
        order, device = self.order, logits.device
        if order.bias:
            ids, amounts = (one.to(device) for one in self._bias)
            logits = logits.index_add(0, ids, amounts.to(logits.dtype))
        if self._counts:
            used = torch.tensor(list(self._counts), device=device)
            counts = torch.tensor(list(self._counts.values()), dtype=logits.dtype, device=device)
            logits = logits.index_add(0, used, counts, alpha=-order.frequency)
            logits = logits.index_add(0, used, torch.ones_like(counts), alpha=-order.presence)
        return logits


def ends_of(model: SteeringModel) -> frozenset[int]:
    """The token ids with which a model's texts end."""
    found: int | Sequence[int] | None = getattr(model.architecture.hf.generation_config, "eos_token_id", None)
    if found is None:
        return frozenset()
    return frozenset([found] if isinstance(found, int) else found)
