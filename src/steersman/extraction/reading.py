"""Which tokens of a text an activation is read at.

==================  ===============================================================================================
``"last"``          the last token
``"mean"``          the mean over all tokens but special ones
an index            that token, counted from the first (special tokens included), or from the end if negative
``"answer"``        the answer's token: the last one that holds a letter or a digit, so the letter of ``"... (A)"``
``after("text")``   the first token after the last occurrence of a text
``"response"``      the mean over the response, special tokens excluded
==================  ===============================================================================================

The response is the assistant's last turn, of a chat that ends with one (its content; the tokens by which the template
closes the turn are not there), or the second part of a ``(prompt, response)`` tuple. ``"answer"`` looks for the answer
within the response where there is one, else in the whole text; a chat without a response has no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..data.pairs import Continued, is_continued
from ..errors import DataError, InterventionError
from ..model import SteeringModel
from ..model.tokens import Prompt, Prompts, Tokens, listed
from ..positions import After, Positions

#: A text, a chat, or a prompt with the response to it.
Text = Prompt | Continued
Texts = Prompts | Sequence[Text]
ReadLike = str | int | Positions

_WORDS = ("last", "mean", "answer", "response")
_USE = 'use "last", "mean", "answer", "response", after("a text"), or the index of a token'


@dataclass(frozen=True)
class Item:
    """One text, ready to be run: its tokens, and the indices of those that are read."""

    number: int
    ids: list[int]
    read: list[int]

    def at(self, number: int) -> Item:
        """The same under another number."""
        return Item(number, self.ids, self.read)


@dataclass(frozen=True)
class Encoded:
    """The tokens of a text, and where the response to its prompt begins, if it was given apart."""

    text: Text
    ids: list[int]
    response: int | None

    @classmethod
    def of(cls, tokens: Tokens, text: Text) -> Encoded:
        """A response is tokenised by itself, as it is when it continues the prompt."""
        return cls.all(tokens, [text])[0]

    @classmethod
    def all(cls, tokens: Tokens, texts: Sequence[Text]) -> list[Encoded]:
        """The same for many texts, tokenised together."""
        prompts = [cast(Continued, text)[0] if is_continued(text) else cast(Prompt, text) for text in texts]
        found: list[Encoded] = []
        for text, ids in zip(texts, tokens.encode_all(prompts), strict=True):
            if is_continued(text):
                found.append(cls(text, [*ids, *tokens.continuation(cast(Continued, text)[1])], len(ids)))
            else:
                found.append(cls(text, ids, None))
        return found


@dataclass(frozen=True)
class Read:
    """How a text is read; see the table above.

    Attributes:
        kind: ``"last"``, ``"mean"``, ``"index"``, ``"answer"``, ``"after"`` or ``"response"``.
        index: for ``"index"``.
        marker: for ``"after"``.
    """

    kind: str
    index: int = -1
    marker: str = ""

    @classmethod
    def parse(cls, value: Any) -> Read:
        """From a word, an integer, ``after("text")`` as an object or as text, or a ``Read``.

        Raises:
            DataError: for anything else.
        """
        if isinstance(value, Read):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return cls("index", value)
        if value in _WORDS:
            return cls(str(value))
        terms = _terms(value)
        if len(terms) == 1 and isinstance(terms[0], After):
            return cls("after", marker=terms[0].marker)
        raise DataError(f"read={value if isinstance(value, Positions) else repr(value)}: {_USE}")

    def __str__(self) -> str:
        return {"index": str(self.index), "after": str(After(self.marker))}.get(self.kind, self.kind)

    def tokens(self, tokens: Tokens, text: Encoded, what: str) -> list[int]:
        """The indices of the tokens read; several are averaged.

        Raises:
            DataError: there is no such token in this text, which ``what`` names.
        """
        ids = text.ids
        if self.kind == "last":
            return [len(ids) - 1]
        if self.kind == "mean":
            return _plain(tokens, ids, 0, f"{what} has no token but special ones, so there is nothing to average")
        if self.kind == "response":
            start = _response_start(tokens, text, what)
            return _plain(tokens, ids, start, f"the response of {what} has no token but special ones")
        if self.kind == "answer":
            return [_answer(tokens, text, what)]
        if self.kind == "after":
            return [_first_after(tokens, ids, self.marker, what)]
        if not -len(ids) <= self.index < len(ids):
            raise DataError(f"{what} has {len(ids)} tokens, so none at index {self.index}")
        return [self.index % len(ids)]


def prepare(model: SteeringModel, texts: Sequence[Text], read: Read | None) -> list[Item]:
    """The tokens of texts and which of them are read (all if None); everything is checked here, before any pass."""
    encoded = Encoded.all(model.tokens, texts)
    model.check_length([text.ids for text in encoded])
    return [
        Item(i, text.ids, list(range(len(text.ids))) if read is None else read.tokens(model.tokens, text, f"text {i}"))
        for i, text in enumerate(encoded)
    ]


def listed_texts(texts: Texts) -> list[Text]:
    """Texts as a list, checked to be texts, chats or ``(prompt, response)`` tuples; a bare tuple lists texts.

    Raises:
        PromptError: nothing given, or something else.
    """
    given = list(cast("Sequence[Text]", texts)) if isinstance(cast(object, texts), Sequence) else []
    if not any(is_continued(text) for text in given):
        return cast("list[Text]", listed(cast(Prompts, texts))[0])
    listed(cast(Prompts, [text[0] if is_continued(text) else text for text in given]))
    return given


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The ids of a tokenizer's special tokens."""
    return frozenset(getattr(tokenizer, "all_special_ids", None) or ())


def _terms(value: object) -> tuple[object, ...]:
    if isinstance(value, str) and value.lstrip().startswith("after("):
        try:
            return Positions.parse(value).terms
        except InterventionError as error:
            raise DataError(f"read={value!r}: {error}") from None
    return value.terms if isinstance(value, Positions) else ()


def _plain(tokens: Tokens, ids: Sequence[int], start: int, otherwise: str) -> list[int]:
    special = special_ids(tokens.tokenizer)
    kept = [i for i in range(start, len(ids)) if ids[i] not in special]
    if not kept:
        raise DataError(otherwise)
    return kept


def _answer(tokens: Tokens, text: Encoded, what: str) -> int:
    start = 0 if isinstance(text.text, str) else _response_start(tokens, text, what)
    for index in range(len(text.ids) - 1, start - 1, -1):
        if any(c.isalnum() for c in tokens.decode([text.ids[index]])):  # special tokens decode to nothing
            return index
    raise DataError(f"{what} has no answer: no token with a letter or a digit")


def _first_after(tokens: Tokens, ids: Sequence[int], marker: str, what: str) -> int:
    found = tokens.find_marker(ids, marker)
    if found is None:
        raise DataError(f"{what} does not contain the text {marker!r}")
    if found == len(ids):
        raise DataError(f"{what} ends with {marker!r}; there is no token after it to read")
    return found


def _response_start(tokens: Tokens, text: Encoded, what: str) -> int:
    """The index of the first token that holds a part of the response."""
    if text.response is not None:
        return text.response
    chat: Any = text.text
    if isinstance(chat, str) or chat[-1]["role"] != "assistant":
        raise DataError(
            f"{what} has no response; give a chat that ends with the assistant's turn, or a (prompt, response) tuple"
        )
    content = chat[-1]["content"]
    content = content.strip() if isinstance(content, str) else ""
    if not content:
        raise DataError(f"the response of {what} is empty")
    whole = _decode(tokens, text.ids)
    at = whole.rfind(content)
    if at < 0 or whole[at + len(content) :].strip():
        raise DataError(
            f"the response of {what} cannot be found in what the chat template makes of it; give a (prompt, response) "
            "tuple instead"
        )
    low, high = 1, len(text.ids)  # the shortest beginning that reaches into the response
    while low < high:
        middle = (low + high) // 2
        if len(_decode(tokens, text.ids[:middle])) > at:
            high = middle
        else:
            low = middle + 1
    return low - 1


def _decode(tokens: Tokens, ids: Sequence[int]) -> str:
    """The text of tokens as it was, without the spaces before punctuation that some tokenizers take away."""
    text: str = tokens.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
