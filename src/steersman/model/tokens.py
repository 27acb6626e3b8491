"""Prompts into tokens and back, without touching the user's tokenizer.

Rows are padded on the left, so that ``[:, -1]`` is the last token of each; position ids always follow the attention
mask. A chat is rendered by its template, which brings its own special tokens; nothing is added to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import PromptError

Message = Mapping[str, Any]
Chat = Sequence[Message]
Prompt = str | Chat
Prompts = Prompt | Sequence[Prompt]

#: Texts tokenised at a time: a tokenizer keeps a hundred bytes or more of each token until it has finished.
TOGETHER = 512


@dataclass(frozen=True)
class Batch:
    """Tokens of several rows, left-padded.

    Attributes:
        input_ids, attention_mask, position_ids: ``[rows, columns]``.
        lengths: real tokens of each row.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(
            self.input_ids.to(device), self.attention_mask.to(device), self.position_ids.to(device), self.lengths
        )


def listed(prompts: Prompts) -> tuple[list[Prompt], bool]:
    """The prompts as a list, and whether only one was given.

    Raises:
        PromptError: nothing given, or something that is neither text nor a chat.
    """
    single = isinstance(prompts, str) or _is_chat(prompts)
    items = [cast(Prompt, prompts)] if single else _sequence(prompts)
    if not items:
        raise PromptError("no prompt given")
    for number, item in enumerate(items):
        if isinstance(item, str):
            if not item:
                raise PromptError(
                    f"prompt {number} is empty; to start from the beginning-of-sequence token alone, pass its text"
                )
        elif not _is_chat(item):
            raise PromptError(
                f"prompt {number} is a {type(item).__name__}; a prompt is a string, or a chat: a list of "
                '{"role": ..., "content": ...}'
            )
    return items, single


def _sequence(prompts: object) -> list[Prompt]:
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes):
        raise PromptError(f"prompts must be a string, a chat, or a list of these, got {type(prompts).__name__}")
    return list(cast("Sequence[Prompt]", prompts))


def _is_chat(value: object) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        return False
    messages = cast("Sequence[object]", value)
    return all(isinstance(m, Mapping) and {"role", "content"} <= set(cast(Message, m)) for m in messages)


class Tokens:
    """A tokenizer as this package uses it: read only."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @property
    def pad_id(self) -> int:
        """What fills padding: the tokenizer's own choice, else any valid token (it is masked)."""
        for name in ("pad_token_id", "eos_token_id"):
            found: int | None = getattr(self.tokenizer, name, None)
            if found is not None:
                return found
        return 0

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of one prompt: text with the tokenizer's special tokens, a chat through its template.

        A chat whose last message is the assistant's is continued, any other gets the assistant's turn opened.

        Raises:
            PromptError: the tokenizer has no chat template, or the prompt has no token.
        """
        ids = self._text(prompt) if isinstance(prompt, str) else self._chat(prompt)
        if not ids:
            raise PromptError(f"the prompt {prompt!r} has no token")
        return ids

    def encode_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The token ids of each prompt, as :meth:`encode` gives them, tokenised together: many times as fast.

        Raises:
            PromptError: as :meth:`encode`.
        """
        found: list[list[int]] = [[] for _ in prompts]
        for kind in (True, False):
            which = [i for i, prompt in enumerate(prompts) if isinstance(prompt, str) is kind]
            for start in range(0, len(which), TOGETHER):
                part = which[start : start + TOGETHER]
                texts = [cast(str, prompts[i]) if kind else self._rendered(cast(Chat, prompts[i])) for i in part]
                for i, ids in zip(part, self.tokenizer(texts, add_special_tokens=kind)["input_ids"], strict=True):
                    found[i] = self._once(list(ids)) if kind else list(ids)
        for prompt, ids in zip(prompts, found, strict=True):
            if not ids:
                raise PromptError(f"the prompt {prompt!r} has no token")
        return found

    def continuation(self, text: str) -> list[int]:
        """The token ids of text that follows a prompt: no special tokens."""
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PromptError(f"a continuation must be text, got {type(text).__name__}")
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise PromptError("the continuation is empty")
        return list(ids)

    def _text(self, text: str) -> list[int]:
        return self._once(list(self.tokenizer(text)["input_ids"]))

    def _once(self, ids: list[int]) -> list[int]:
        """The ids with no second beginning-of-sequence token."""
        start: int | None = getattr(self.tokenizer, "bos_token_id", None)
        doubled = start is not None and ids[:2] == [start, start]
        return ids[1:] if doubled else ids

    def _chat(self, chat: Chat) -> list[int]:
        return list(self.tokenizer(self._rendered(chat), add_special_tokens=False)["input_ids"])

    def _rendered(self, chat: Chat) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise PromptError("this tokenizer has no chat template; write the prompt as text, or set a template")
        continued = chat[-1]["role"] == "assistant"
        rendered: str = self.tokenizer.apply_chat_template(
            [dict(message) for message in chat],
            tokenize=False,
            add_generation_prompt=not continued,
            continue_final_message=continued,
        )
        return rendered

    def batch(self, rows: Sequence[Sequence[int]]) -> Batch:
        """Left-pad rows of token ids; position ids count the real tokens of each row."""
        columns = max(len(row) for row in rows)
        ids = torch.full((len(rows), columns), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), columns), dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, columns - len(row) :] = torch.tensor(row, dtype=torch.long)
            mask[number, columns - len(row) :] = 1
        return Batch(ids, mask, (mask.cumsum(1) - 1).clamp_min(0), tuple(len(row) for row in rows))

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids, special tokens left out unless asked for."""
        return cast(str, self.tokenizer.decode(list(ids), skip_special_tokens=not special))

    def decode_after(self, prompt: Sequence[int], new: Sequence[int]) -> str:
        """The text that ``new`` adds to ``prompt``; decoded together, since some tokenizers drop a first space."""
        before = self.decode(prompt)
        whole = self.decode([*prompt, *new])
        return whole[len(before) :] if whole.startswith(before) else self.decode(new)

    def find_marker(self, ids: Sequence[int], marker: str) -> int | None:
        """The index of the first token after the last occurrence of a text in the prompt, or None."""
        at = self.decode(ids, special=True).rfind(marker)
        if at < 0:
            return None
        end, low, high = at + len(marker), 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            if len(self.decode(ids[:middle], special=True)) >= end:
                high = middle
            else:
                low = middle + 1
        return low
