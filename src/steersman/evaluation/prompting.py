"""Asking in words: the rival that every steering vector has to be compared with (Wu et al. 2025, arXiv:2501.17148)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..model.tokens import Prompt, Tokens


def prefaced(prompt: Prompt, preface: str | None, tokens: Tokens) -> Prompt:
    """A prompt with an instruction before it.

    Before a text it stands as a sentence of its own; in a chat it becomes the system message, or joins the one that is
    there. Where the chat template refuses or drops system messages, it opens the first message instead.

    Args:
        prompt: a text or a chat.
        preface: the instruction; None leaves the prompt as it is.
        tokens: those of the model, whose chat template is asked what it does with a system message.
    """
    if not preface:
        return prompt
    if isinstance(prompt, str):
        return f"{preface}{'' if preface[-1].isspace() else ' '}{prompt}"
    messages = [dict(message) for message in prompt]
    if messages[0]["role"] == "system":
        messages[0]["content"] = f"{preface}\n\n{messages[0]['content']}"
        return messages
    instructed = [{"role": "system", "content": preface}, *messages]
    if _renders(tokens, instructed, preface):
        return instructed
    messages[0]["content"] = f"{preface}\n\n{messages[0]['content']}"
    return messages


def _renders(tokens: Tokens, messages: Sequence[Mapping[str, Any]], text: str) -> bool:
    """Whether the chat template writes a text of these messages; templates refuse roles by raising."""
    from jinja2.exceptions import TemplateError

    try:
        return text.strip() in tokens.tokenizer.apply_chat_template(list(messages), tokenize=False)
    except TemplateError:
        return False


def quoted(texts: Sequence[str], most: int = 3) -> str:
    """Some texts as an enumeration: ``great, wonderful or lovely``."""
    words = [text.strip() for text in texts[:most]]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
