"""Text that grows token by token, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence

from .tokens import Tokens

#: Tokens decoded together with new ones, for what their text depends on.
_OVERLAP = 8


class Growing:
    """The text of one row, decoded together with the end of its prompt.

    Decoded on their own, the first token would lose its space with some tokenizers, and a character that spans tokens
    would come out broken. What is not yet a whole character is held back.

    Args:
        tokens: the tokenizer.
        prompt: token ids of the prompt.
    """

    def __init__(self, tokens: Tokens, prompt: Sequence[int]) -> None:
        self._tokens = tokens
        self._before = list(prompt[-_OVERLAP:])  # tokens whose text is out
        self._said = self._whole = tokens.decode(self._before)  # that text
        self._new: list[int] = []

    def add(self, ids: Sequence[int]) -> str:
        """The text that is ready with these tokens; empty while a character is not whole."""
        self._new += ids
        text = self._text()
        return self._out(text) if text and not text.endswith("\ufffd") else ""

    def rest(self) -> str:
        """What was held back, however broken."""
        return self._out(self._text()) if self._new else ""

    def _text(self) -> str:
        """As :meth:`Tokens.decode_after`, with the text before decoded already."""
        self._whole = whole = self._tokens.decode([*self._before, *self._new])
        return whole[len(self._said) :] if whole.startswith(self._said) else self._tokens.decode(self._new)

    def _out(self, text: str) -> str:
        """Count the new tokens among those whose text is out; of many, only the last matter."""
        self._before, self._new = [*self._before, *self._new], []
        if len(self._before) > 4 * _OVERLAP:
            self._before = self._before[-_OVERLAP:]
            self._said = self._tokens.decode(self._before)
        else:
            self._said = self._whole
        return text


class UntilStop:
    """Passes text on up to the first stop string, which may span pieces: what could begin one is held back.

    Attributes:
        stopped: whether one was met; the text has ended then.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stopped = False
        self._stops = list(stops)
        self._longest = max((len(stop) for stop in self._stops), default=0)
        self._held = ""

    def add(self, piece: str) -> str:
        """The text that is ready with this piece."""
        self._held += piece
        ends = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        self.stopped = self.stopped or bool(ends)
        ready = min(ends) if ends else max(len(self._held) - max(self._longest - 1, 0), 0)
        found, self._held = self._held[:ready], "" if ends else self._held[ready:]
        return found

    def rest(self) -> str:
        """What was held back for a stop string that did not come."""
        found, self._held = self._held, ""
        return found
