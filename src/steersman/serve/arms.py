"""vLLM's answers with what this server adds: the arm of each choice, and what was applied to it; two answers as one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from anyio import CancelScope

from ..applied import touched_by
from .answers import sse
from .errors import ApiError

#: What vLLM says of tokens when asked to, which clients did not ask for.
_IDS = ("token_ids", "prompt_token_ids")


@dataclass(frozen=True, eq=False)
class Understood:
    """The plan of an arm, as vLLM's front end understood it.

    Attributes:
        interventions: what each comes to on the model.
        digest: of the plan.
        preset: the preset it came from, if it did.
    """

    interventions: Sequence[Mapping[str, Any]] = ()
    digest: str | None = None
    preset: str | None = None

    def applied(self, prompt: int | None, generated: int) -> dict[str, Any]:
        """What was done to a choice; ``tokens`` is null where only the engine knows them.

        Args:
            prompt: the number of its prompt tokens, if it is known.
            generated: the number of its generated tokens.
        """
        found = [_applied(item, prompt, generated) for item in self.interventions]
        return {"digest": self.digest, "preset": self.preset, "interventions": found}


def _applied(item: Mapping[str, Any], prompt: int | None, generated: int) -> dict[str, Any]:
    said = {name: value for name, value in item.items() if name != "conditional"}
    if prompt is None or item["conditional"] or item["positions"] is None:
        return said | {"tokens": None}
    return said | {"tokens": touched_by(item["positions"], prompt, generated)}


@dataclass(eq=False)
class Arm:
    """One of the answers that a request is given.

    Attributes:
        name: ``steered`` or ``baseline``.
        plan: its plan.
        first: the index of its first choice.
        shown: whether the client asked for token ids itself.
    """

    name: str
    plan: Understood
    first: int = 0
    shown: bool = False
    _prompts: dict[int | None, int] = field(default_factory=dict[int | None, int])
    _counts: dict[int, int] = field(default_factory=dict[int, int])

    def document(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """An answer, or a chunk of one, as this server says it."""
        self._learn(None, document)
        found = self._without_ids(document)
        return found | {"choices": [self._choice(choice) for choice in document.get("choices") or ()]}

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        index = choice["index"]
        self._learn(index, choice)
        self._counts[index] = self._counts.get(index, 0) + len(choice.get("token_ids") or ())
        found = self._without_ids(choice) | {"index": self.first + index, "arm": self.name}
        if found.get("finish_reason"):
            prompt = self._prompts.get(index, self._prompts.get(None))
            found["steering"] = self.plan.applied(prompt, self._counts[index])
        return found

    def _learn(self, index: int | None, said: Mapping[str, Any]) -> None:
        """A completion's choices have a prompt each, those of a chat (None) share one."""
        if said.get("prompt_token_ids"):
            self._prompts[index] = len(said["prompt_token_ids"])

    def _without_ids(self, said: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in said.items() if self.shown or name not in _IDS}


def whole(arms: Sequence[Arm], answers: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """The answers of all arms as one."""
    found = [arm.document(answer) for arm, answer in zip(arms, answers, strict=True)]
    choices = [choice for answer in found for choice in answer["choices"]]
    return {**found[0], "model": name, "choices": choices, "usage": _usage(answer.get("usage") for answer in answers)}


async def streamed(
    arms: Sequence[Arm], streams: Sequence[AsyncIterator[str]], name: str, usage: bool
) -> AsyncGenerator[str]:
    """The streams of all arms as one, chunk by chunk as they come.

    Args:
        arms: whose they are.
        streams: their lines.
        name: of the model, as the request said it.
        usage: whether the client wants to know it.
    """
    counted: list[Mapping[str, Any] | None] = [None] * len(arms)
    head: dict[str, Any] = {}
    async with aclosing(_together(streams)) as news:
        async for number, document in news:
            if "error" in document:
                yield sse(document)
                return
            if not head:
                head = {key: document[key] for key in ("id", "object", "created") if key in document}
            counted[number] = document.get("usage") or counted[number]
            chunk: dict[str, Any] = {**arms[number].document(document), **head, "model": name}
            chunk.pop("usage", None)
            if any(_says(choice) for choice in chunk["choices"]):
                yield sse(chunk | ({"usage": None} if usage else {}))
    if usage:
        yield sse({**head, "model": name, "choices": [], "usage": _usage(counted)})
    yield "data: [DONE]\n\n"


def _says(choice: Mapping[str, Any]) -> bool:
    """Whether a chunk is more than tokens whose text is still to come."""
    said = choice.get("delta") if "delta" in choice else choice.get("text")
    return bool(said or choice.get("finish_reason") or choice.get("logprobs"))


async def _together(streams: Sequence[AsyncIterator[str]]) -> AsyncGenerator[tuple[int, Any]]:
    """The documents of several streams of events as they come, each with the number of its stream."""
    news: asyncio.Queue[tuple[int, Any]] = asyncio.Queue(maxsize=64)

    async def read(number: int, lines: AsyncIterator[str]) -> None:
        try:
            async for line in lines:
                data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                if data and data != "[DONE]":
                    await news.put((number, json.loads(data)))
        except ValueError:
            await news.put((number, ApiError(502, "upstream_failed", "vLLM sent a stream that is none").body()))
        except ApiError as error:
            await news.put((number, error.body()))
        await news.put((number, None))

    readers = [asyncio.ensure_future(read(number, lines)) for number, lines in enumerate(streams)]
    left = len(readers)
    try:
        while left:
            number, document = await news.get()
            left -= document is None
            if document is not None:
                yield number, document
    finally:
        for reader in readers:
            reader.cancel()
        with CancelScope(shield=True):  # cancelled again while they let go, they would leave their connections open
            await asyncio.gather(*readers, return_exceptions=True)


def _usage(each: Iterable[Mapping[str, Any] | None]) -> dict[str, int]:
    """Tokens of all prompts, each once, and of the choices of all arms."""
    found = [one for one in each if one]
    read = found[0]["prompt_tokens"] if found else 0
    written = sum(one.get("completion_tokens") or 0 for one in found)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
