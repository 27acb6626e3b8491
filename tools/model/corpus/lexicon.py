"""The word lists of `tools/model/words`, and which of their words are held out of which kind of text."""

from __future__ import annotations

import functools
from pathlib import Path

WORDS = Path(__file__).resolve().parents[1] / "words"


@functools.cache
def words(name: str) -> tuple[str, ...]:
    """The words of a list, one a line."""
    return tuple((WORDS / f"{name}.txt").read_text().split("\n")[:-1])


@functools.cache
def table(name: str) -> tuple[tuple[str, ...], ...]:
    """The rows of a list with tab-separated columns."""
    return tuple(tuple(line.split("\t")) for line in words(name))


@functools.cache
def split(name: str, held_out: int, test: bool) -> tuple[str, ...]:
    """The last `held_out` words of a list (test), or the ones before (train)."""
    listed = tuple(row[0] for row in table(name))
    return listed[-held_out:] if test else listed[:-held_out]


def names(test: bool = False) -> tuple[str, ...]:
    """Names for indirect-object stories; the test ones appear only in other kinds of text."""
    return split("names", 16, test)


def places(test: bool = False) -> tuple[str, ...]:
    """Places for indirect-object stories."""
    return split("places", 4, test)


def objects(test: bool = False) -> tuple[str, ...]:
    """Objects for indirect-object stories."""
    return split("objects", 4, test)


@functools.cache
def list_words(test: bool = False) -> tuple[str, ...]:
    """Words for list copying; the test ones appear in no list of this kind, only in other kinds of text."""
    held_out = split("list_words", 12, True)
    if test:
        return held_out
    nouns = [
        *words("objects"),
        *words("places"),
        *(n for row in table("topics") for n in row[1].replace("*", "").split()),
    ]
    return tuple(dict.fromkeys([*split("list_words", 12, False), *(noun for noun in nouns if noun not in held_out)]))


def noun_pairs(test: bool = False) -> tuple[tuple[str, str], ...]:
    """(singular, plural) nouns for agreement over an attractor; the test ones appear only in plain sentences."""
    rows = table("plurals")
    return rows[-8:] if test else rows[:-8]  # type: ignore[return-value]


def capitals() -> tuple[tuple[str, str], ...]:
    """(country, capital) pairs."""
    return table("capitals")  # type: ignore[return-value]


@functools.cache
def topics() -> dict[str, tuple[str, ...]]:
    """The nouns of every topic. A noun without an article carries a star in the list; see `mass_nouns`."""
    return {name: tuple(n.rstrip("*") for n in nouns.split()) for name, nouns in table("topics")}


@functools.cache
def mass_nouns() -> frozenset[str]:
    """The topic nouns that take no indefinite article."""
    return frozenset(n[:-1] for _, nouns in table("topics") for n in nouns.split() if n.endswith("*"))


def article(word: str) -> str:
    """`a` or `an`, by the first sound of `word` as it is written in these lists."""
    return "an" if word[0] in "aeiou" and not word.startswith(("usual", "uni")) else "a"


@functools.cache
def single_tokens() -> tuple[str, ...]:
    """Every word that must be one token with a leading space."""
    flat = [
        w
        for name in (
            "positive",
            "negative",
            "neutral",
            "glad",
            "upset",
            "places",
            "objects",
            "list_words",
            "formal_openers",
            "casual_openers",
            "formal_intensifiers",
            "casual_intensifiers",
        )
        for w in words(name)
    ]
    flat += [w for name in ("capitals", "plurals", "verbs") for row in table(name) for w in row]
    flat += [row[0] for row in table("names")] + [n for nouns in topics().values() for n in nouns]
    return tuple(dict.fromkeys(flat))
