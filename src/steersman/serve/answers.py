"""Answers in the shapes of OpenAI's API, and what they say besides: the arm, and what was applied."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import __version__
from ..analysis.lens import token_text
from ..errors import NotAppliedError
from ..model import SteeringModel
from .errors import dumps
from .orders import Choice
from .stream import Piece, Token


@dataclass
class Written:
    """What a choice has come to so far."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list[Token])
    count: int = 0
    finish: str | None = None
    applied: dict[str, Any] | None = None

    def take(self, choice: Choice, piece: Piece, model: SteeringModel, count: int) -> None:
        """Add a piece; ``count`` tokens have been produced."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.count, self.finish = count, piece.finish
        if piece.finish:
            self.applied = choice.steered.applied(choice.row(model, piece.gates), count)


class Answer:
    """The answer to one request, whole or in chunks.

    Args:
        model: the model.
        name: of the model, as the request said it.
        chat: whether it is a conversation's.
        choices: the rows; their numbers are the indices of the choices.
        echoes: text to say before each choice.
        scored: the tokens of each prompt with their log probabilities, where both are asked for.
    """

    def __init__(
        self,
        model: SteeringModel,
        name: str,
        chat: bool,
        choices: Sequence[Choice],
        echoes: Sequence[str],
        scored: Sequence[Sequence[Token]] = (),
    ) -> None:
        self.model, self.name, self.chat, self.choices, self.echoes = model, name, chat, choices, echoes
        self.written = [Written() for _ in choices]
        self.id = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12)
        self.created = int(time.time())
        self._special = frozenset(model.tokenizer.all_special_ids)
        self.scored = scored or [()] * len(choices)
        self._offsets = [0 if own else len(echo) for own, echo in zip(self.scored, echoes, strict=True)]
        # every chunk begins alike
        self._opening = dumps(self._head("chat.completion.chunk" if chat else "text_completion")).removesuffix("}")

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.name,
            "system_fingerprint": f"steersman-{__version__}-{self.model.shape.fingerprint[:8]}",
        }  # fmt: skip

    def usage(self) -> dict[str, Any]:
        """Tokens of all prompts, each once, and of all choices."""
        prompts = {choice.prompt: len(choice.order.prompt) for choice in self.choices}
        read, written = sum(prompts.values()), sum(own.count for own in self.written)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    # -- whole ----------------------------------------------------------------------------------------------------

    def whole(self) -> dict[str, Any]:
        """All of it."""
        found = [self._choice(index) for index in range(len(self.choices))]
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": found, "usage": self.usage()}

    def _choice(self, index: int) -> dict[str, Any]:
        own, choice = self.written[index], self.choices[index]
        said = {
            "index": index,
            "finish_reason": own.finish,
            "logprobs": self._logprobs(index, [*self.scored[index], *own.tokens]),
        }
        more = {"arm": choice.arm, "steering": own.applied}
        if self.chat:
            return {**said, "message": {"role": "assistant", "content": own.text, "refusal": None}, **more}
        return {**said, "text": self.echoes[index] + own.text, **more}

    # -- in chunks ------------------------------------------------------------------------------------------------

    def first(self, usage: bool) -> list[str]:
        """The chunks before any text."""
        if self.chat:
            return [self._chunk(i, usage, {"role": "assistant", "content": ""}) for i in range(len(self.choices))]
        return [self._chunk(i, usage, echo, tokens=self.scored[i]) for i, echo in enumerate(self.echoes) if echo]

    def piece(self, index: int, piece: Piece, usage: bool) -> list[str]:
        """The chunks that a piece makes."""
        found: list[str] = []
        if piece.text or piece.tokens:
            said: Any = {"content": piece.text} if self.chat else piece.text
            found.append(self._chunk(index, usage, said, tokens=piece.tokens))
        if piece.finish:
            found.append(self._chunk(index, usage, {} if self.chat else "", finish=piece.finish))
        return found

    def last(self, usage: bool) -> list[str]:
        """What ends a stream."""
        end = [f'data: {self._opening},"choices":[],"usage":{dumps(self.usage())}}}\n\n'] if usage else []
        return [*end, "data: [DONE]\n\n"]

    def _chunk(
        self, index: int, usage: bool, said: Any, *, tokens: Sequence[Token] = (), finish: str | None = None
    ) -> str:
        choice = self.choices[index]
        found: dict[str, Any] = {
            "index": index, "delta" if self.chat else "text": said, "finish_reason": finish,
            "logprobs": self._logprobs(index, tokens), "arm": choice.arm,
        }  # fmt: skip
        if finish:
            found["steering"] = self.written[index].applied
        more = ',"usage":null' if usage else ""
        return f'data: {self._opening},"choices":[{dumps(found)}]{more}}}\n\n'

    # -- log probabilities ----------------------------------------------------------------------------------------

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.choices[index].order.logprobs is None or not tokens:
            return None
        return self._chat_logprobs(tokens) if self.chat else self._text_logprobs(index, tokens)

    def _chat_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        content = [
            {**self._described(token.id, token.logprob), "top_logprobs": [self._described(*one) for one in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _described(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = token_text(self.model, token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def _text_logprobs(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        offsets: list[int] = []
        for token in tokens:
            offsets.append(self._offsets[index])
            special = token.id in self._special  # which is in no text
            self._offsets[index] += 0 if special else len(token_text(self.model, token.id))
        return {
            "tokens": [token_text(self.model, token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {token_text(self.model, one): value for one, value in token.top} if token.logprob is not None else None
                for token in tokens
            ],
            "text_offset": offsets,
        }


def scored(model: SteeringModel, choice: Choice) -> list[Token]:
    """The tokens of a prompt with their log probabilities and the likeliest; the first has none."""
    ids, most = choice.order.prompt, choice.order.logprobs or 0
    try:
        logits = model.token_logits([ids], steer=choice.order.plan)[0]
    except NotAppliedError:  # a plan for generated tokens only leaves the prompt as it is
        logits = model.token_logits([ids])[0]
    found = [Token(ids[0])]
    for row, token in zip(torch.log_softmax(logits.float(), -1), ids[1:], strict=False):
        values, best = torch.topk(row, min(most, len(row)))
        found.append(Token(token, float(row[token]), tuple(zip(best.tolist(), values.tolist(), strict=True))))
    return found


def sse(document: Any) -> str:
    """A server-sent event."""
    return f"data: {dumps(document)}\n\n"
