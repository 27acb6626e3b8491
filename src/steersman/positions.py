"""Which tokens an intervention touches, as positions in the whole sequence.

======================  ===========================================================================================
``last``                the last prompt token, which produces the first output token
``generation``          the tokens produced after the prompt
``last+generation``     both: what ``[:, -1, :]`` at every generation step does
``prompt``              the tokens given, BOS and chat template included
``all``                 everything
``prompt[a:b]``         Python indices and slices within the prompt; ``prompt[-3]``, ``prompt[0]`` (the BOS token)
``generation[a:b]``     the same within the generated tokens; no negative indices, the end being unknown
``after("marker")``     every token after the last occurrence of a text in the prompt, generated ones included
======================  ===========================================================================================

Terms are joined with ``+``. Positions are absolute: with a cache or without, alone or in a batch, under any padding,
whole or in chunks, they name the same tokens. A mapping ``{"prompt": [0, 3], "generation": [0]}`` lists indices.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from .errors import InterventionError, NotAppliedError

#: Longer than any sequence: the end of what may still be generated.
ENDLESS = 1 << 40

_TERM = re.compile(
    r'\s*(?:(?P<word>last|all)|(?P<part>prompt|generation)(?:\[(?P<index>[^\]]*)\])?|after\((?P<marker>"(?:[^"\\]|\\.)*"'
    r"|'(?:[^'\\]|\\.)*')\))\s*",
    re.DOTALL,
)
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_ESCAPE = re.compile(r"""\\.|\"""", re.DOTALL)


@dataclass(frozen=True)
class Span:
    """A slice of the prompt or of the generation; ``single`` marks an index rather than a slice."""

    part: Literal["prompt", "generation"]
    start: int | None = None
    stop: int | None = None
    step: int = 1
    single: bool = False

    def __post_init__(self) -> None:
        if self.step < 1:
            raise InterventionError(f"positions {self}: the step of a slice must be at least 1")
        if self.part == "generation" and any(bound is not None and bound < 0 for bound in (self.start, self.stop)):
            raise InterventionError(
                f"positions {self}: a negative index counts from the end, and the end of a generation is not known "
                "while it runs; count from its start"
            )

    def __str__(self) -> str:
        if self.single:
            return "last" if (self.part, self.start) == ("prompt", -1) else f"{self.part}[{self.start}]"
        if (self.start, self.stop, self.step) == (None, None, 1):
            return self.part
        bounds = ":".join("" if bound is None else str(bound) for bound in (self.start, self.stop))
        return f"{self.part}[{bounds}{'' if self.step == 1 else f':{self.step}'}]"

    def resolve(self, prompt_length: int) -> range:
        """The absolute positions of this span in a sequence whose prompt has ``prompt_length`` tokens."""
        whole = range(prompt_length) if self.part == "prompt" else range(prompt_length, ENDLESS)
        if not self.single:
            return whole[self.start : self.stop : self.step]
        index = cast(int, self.start)
        return whole[index : index + 1 or None] if -len(whole) <= index < len(whole) else range(0)


@dataclass(frozen=True)
class After:
    """Everything after the last occurrence of ``marker`` in the prompt."""

    marker: str

    def __str__(self) -> str:
        return f"after({json.dumps(self.marker, ensure_ascii=False)})"


Term = Span | After
#: Given a marker, the index of the first prompt token after its last occurrence, or None if it does not occur.
MarkerEnd = Callable[[str], int | None]

_LAST = Span("prompt", -1, single=True)
_WHOLE = (Span("prompt"), Span("generation"))


@dataclass(frozen=True)
class Positions:
    """A union of terms; equal when the terms are, and everything when prompt and generation are both among them."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise InterventionError("positions lists no index")
        terms = tuple(dict.fromkeys(self.terms))
        object.__setattr__(self, "terms", _WHOLE if set(_WHOLE) <= set(terms) else terms)

    @classmethod
    def parse(cls, value: PositionsLike) -> Positions:
        """Read a string, a mapping of index lists, or a ``Positions``; :class:`InterventionError` otherwise."""
        if isinstance(value, Positions):
            return value
        if isinstance(value, str):
            return cls(tuple(_parse(value)))
        if isinstance(value, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            return cls(tuple(_listed(value)))
        raise InterventionError(
            f'positions={value!r} is neither a string such as "last+generation" nor a mapping such as {{"prompt": [0]}}'
        )

    def __str__(self) -> str:
        return "all" if self.everywhere else "+".join(str(term) for term in self.terms)

    def __add__(self, other: PositionsLike) -> Positions:
        return Positions((*self.terms, *Positions.parse(other).terms))

    @property
    def everywhere(self) -> bool:
        """Whether every token is meant, so that nobody needs to know where the prompt ends."""
        return self.terms == _WHOLE

    @property
    def before_last(self) -> bool:
        """Whether a prompt token before the last one may be meant."""
        return any(isinstance(term, After) or (term.part == "prompt" and term != _LAST) for term in self.terms)

    @property
    def in_prompt(self) -> bool:
        """Whether any prompt token may be meant."""
        return any(isinstance(term, After) or term.part == "prompt" for term in self.terms)

    def generated(self, prompt_length: int) -> list[range]:
        """The absolute positions of the terms that name generated tokens."""
        return [
            term.resolve(prompt_length) for term in self.terms if isinstance(term, Span) and term.part == "generation"
        ]

    def resolve(self, prompt_length: int, marker_end: MarkerEnd, row: str = "the prompt") -> tuple[range, ...]:
        """The absolute positions meant in a row, one range per term.

        Raises:
            NotAppliedError: when a term that names prompt tokens, or a marker, selects none of this row.
        """
        found: list[range] = []
        for term in self.terms:
            if isinstance(term, After):
                first = marker_end(term.marker)
                if first is None:
                    raise NotAppliedError(f"positions {term}: {row} does not contain the text {term.marker!r}")
                found.append(range(first, ENDLESS))
                continue
            span = term.resolve(prompt_length)
            if not span:
                raise NotAppliedError(
                    f"positions {term} select no token of {row}, which has {prompt_length} tokens "
                    "(beginning-of-sequence token and chat template included)"
                )
            found.append(span)
        return tuple(found)


PositionsLike = str | Mapping[str, Iterable[int]] | Positions

ALL = Positions(_WHOLE)
LAST_AND_GENERATION = Positions((_LAST, Span("generation")))


def after(marker: str) -> Positions:
    """Every token after the last occurrence of ``marker`` in the prompt, for example the end of a user's turn."""
    if not marker:
        raise InterventionError("after() needs a text to look for, got an empty one")
    return Positions((After(marker),))


def select(spans: tuple[range, ...], start: int, stop: int) -> Sequence[int]:
    """The positions of ``spans`` that lie in ``[start, stop)``, ascending, each once."""
    found: list[range] = []
    for span in spans:
        first = span.start if span.start >= start else start + (span.start - start) % span.step
        if first < min(stop, span.stop):
            found.append(range(first, min(stop, span.stop), span.step))
    if len(found) <= 1:
        return found[0] if found else range(0)
    return sorted(set().union(*found))


def _parse(text: str) -> Iterable[Term]:
    at, terms = 0, list[Term]()
    while True:
        match = _TERM.match(text, at)
        if match is None:
            break
        if match["word"]:
            terms.extend(_WHOLE if match["word"] == "all" else (_LAST,))
        elif match["part"]:
            terms.append(_span(match["part"], match["index"], text))
        else:
            terms.extend(after(_unquoted(match["marker"], text)).terms)
        at = match.end()
        if at == len(text):
            return terms
        if text[at] != "+":
            break
        at += 1
    raise InterventionError(
        f"positions={text!r} cannot be read at {text[at:]!r}; write last, generation, last+generation, prompt, all, "
        'prompt[a:b], prompt[-3], generation[0:8] or after("text"), joined with +'
    )


def _unquoted(quoted: str, text: str) -> str:
    """The text between quotes of either kind, its escapes read as JSON reads them."""
    inner = quoted[1:-1]
    if quoted[0] == "'":
        inner = _ESCAPE.sub(lambda found: {"\\'": "'", '"': '\\"'}.get(found[0], found[0]), inner)
    try:
        return json.loads(f'"{inner}"', strict=False)
    except json.JSONDecodeError as error:
        raise InterventionError(f"positions={text!r}: {quoted} cannot be read: {error.msg}") from None


def _span(part: str, index: str | None, text: str) -> Span:
    name = cast(Literal["prompt", "generation"], part)
    if index is None:
        return Span(name)
    parts = [part.strip() for part in index.split(":")]
    if len(parts) > 3 or parts == [""] or not all(part == "" or _NUMBER.fullmatch(part) for part in parts):
        raise InterventionError(f"positions={text!r}: [{index}] is no Python index or slice")
    numbers = [int(part) if part else None for part in parts]
    if len(numbers) == 1:
        return Span(name, numbers[0], single=True)
    start, stop, step = (*numbers, None)[:3]
    return Span(name, start, stop, 1 if step is None else step)


def _listed(value: Mapping[str, Iterable[int]]) -> Iterable[Term]:
    terms: list[Term] = []
    for part, indices in value.items():
        if part not in ("prompt", "generation"):
            raise InterventionError(f'positions lists indices under {part!r}; use "prompt" or "generation"')
        if not isinstance(indices, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InterventionError(f"positions[{part!r}] must list integers, got {indices!r}")
        for index in indices:
            try:
                terms.append(Span(part, operator.index(index), single=True))
            except TypeError:
                raise InterventionError(f"positions[{part!r}] must list integers, got {index!r}") from None
    return terms
