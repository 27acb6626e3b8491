"""A look at which tokens are read, before any of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data import ContrastPairs
from ..model import SteeringModel
from ..model.tokens import Tokens
from .reading import Encoded, Read, ReadLike, Text, Texts, listed_texts

if TYPE_CHECKING:
    from rich.text import Text as RichText

#: Longer stretches of text are shortened to their beginning and their end.
HEAD, TAIL = 40, 60


@dataclass(frozen=True)
class Shown:
    """One text: its tokens as stretches of text, and which of them are read.

    Attributes:
        label: which text.
        stretches: (text, whether it is read), in order; together the whole text.
        read: the indices of the tokens read.
        length: how many tokens it has.
    """

    label: str
    stretches: tuple[tuple[str, bool], ...]
    read: tuple[int, ...]
    length: int

    @property
    def place(self) -> str:
        """``"index 7 of 8 tokens"``, or how many are averaged."""
        if len(self.read) == 1:
            return f"index {self.read[0]} of {self.length} tokens"
        return f"mean of {len(self.read)} of {self.length} tokens"


@dataclass(frozen=True)
class ReadView:
    """What :func:`show_read` returns; shown as text by ``print``, as rich text by a rich console.

    Attributes:
        read: how the texts are read.
        texts: some of them.
        total: how many there are.
    """

    read: str
    texts: tuple[Shown, ...]
    total: int

    def __str__(self) -> str:
        lines = [self._headline()]
        for shown in self.texts:
            pieces = (f"⟦{_short(text)}⟧" if read else _short(text) for text, read in shown.stretches)
            lines.append(f"{shown.label} ({shown.place}): {''.join(pieces)}")
        return "\n".join(lines)

    __repr__ = __str__

    def __rich__(self) -> RichText:
        from rich.text import Text as RichText

        shown_as = RichText(self._headline())
        for shown in self.texts:
            shown_as.append(f"\n{shown.label} ({shown.place}): ", style="dim")
            for text, read in shown.stretches:
                shown_as.append(_short(text), style="bold reverse" if read else "")
        return shown_as

    def _headline(self) -> str:
        return f"read={self.read}, {len(self.texts)} of {self.total} texts shown; what is read is in ⟦brackets⟧"


def show_read(
    model: SteeringModel, texts: ContrastPairs | Texts, *, read: ReadLike = "last", count: int = 3
) -> ReadView:
    """Show at which tokens texts are read; no forward pass is made.

    Args:
        model: the model, of which the tokenizer is used.
        texts: contrast pairs, or texts.
        read: as of :func:`steersman.extract`.
        count: how many texts to show (of each class); all of them are checked.

    Raises:
        DataError, PromptError: a text that cannot be read so.
    """
    how = Read.parse(read)
    if isinstance(texts, ContrastPairs):
        sides: list[tuple[str, Sequence[Text]]] = [("positive", texts.positive), ("negative", texts.negative)]
    else:
        sides = [("text", listed_texts(texts))]
    shown: list[Shown] = []
    for side, items in sides:
        for number, item in enumerate(items):
            encoded = Encoded.of(model.tokens, item)
            indices = how.tokens(model.tokens, encoded, f"{side} {number}")
            if number < count:
                shown.append(_shown(model.tokens, f"{side} {number}", encoded.ids, indices))
    return ReadView(str(how), tuple(shown), sum(len(items) for _, items in sides))


def _shown(tokens: Tokens, label: str, ids: Sequence[int], read: Sequence[int]) -> Shown:
    chosen = set(read)
    edges = [0, *(i for i in range(1, len(ids)) if (i in chosen) != (i - 1 in chosen)), len(ids)]
    whole = tokens.decode(ids, special=True)
    ends = [len(tokens.decode(ids[:edge], special=True)) for edge in edges[1:-1]]
    cuts = [0, *ends, len(whole)]
    stretches = tuple((whole[a:b], edge in chosen) for a, b, edge in zip(cuts, cuts[1:], edges, strict=False))
    return Shown(label, stretches, tuple(read), len(ids))


def _short(text: str) -> str:
    plain = text.replace("\n", "⏎")
    return plain if len(plain) <= HEAD + TAIL else f"{plain[:HEAD]} … {plain[-TAIL:]}"
