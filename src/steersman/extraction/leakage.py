"""What tells the classes apart without any understanding: length, a first token, a single word.

A direction between such classes may be about that, and not about what they are meant to show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

#: Fewer examples of a class show nothing.
FEWEST = 8
#: From this (balanced) accuracy on, something is called a shortcut.
SHORTCUT = 0.9

Ids = Sequence[Sequence[int]]


def leakage(positive: Ids, negative: Ids, *, paired: bool, decode: Callable[[list[int]], str]) -> list[str]:
    """Warnings about examples, as sentences; none for examples that are too few.

    Args:
        positive, negative: token ids of each example.
        paired: whether the n-th belong together.
        decode: the text of token ids, for the message.
    """
    if min(len(positive), len(negative)) < FEWEST:
        return []
    start = _shared_start([*positive, *negative])
    found = [
        _length(positive, negative, paired),
        _first_token([ids[start:] for ids in positive], [ids[start:] for ids in negative]),
        _one_token(positive, negative, decode),
    ]
    return [warning for warning in found if warning is not None]


def _length(positive: Ids, negative: Ids, paired: bool) -> str | None:
    """Lengths that differ the same way in nine of ten pairs, or in nine of ten comparisons between the classes."""
    first, second = (np.array([len(ids) for ids in side]) for side in (positive, negative))
    if paired:
        share = max(float((first > second).mean()), float((first < second).mean()))
        how = f"in {share:.0%} of the pairs"
    else:
        ordered = np.sort(second)  # how many negative ones each positive one is longer than, a tie counting half
        longer_than = np.searchsorted(ordered, first, "left") + np.searchsorted(ordered, first, "right")
        above = float(longer_than.mean() / (2 * len(second)))
        share = max(above, 1 - above)
        how = f"in {share:.0%} of all comparisons"
    if share < SHORTCUT:
        return None
    means = first.mean(), second.mean()
    longer = "positive" if first.mean() > second.mean() else "negative"
    return (
        f"length: the {longer} example is the longer one {how} ({means[0]:.1f} tokens, not {means[1]:.1f}), "
        "so the direction may be about length or position; make them equally long"
    )


def _shared_start(texts: Ids) -> int:
    """How many tokens all texts begin with: special ones, a template, an instruction."""
    for index in range(min(len(ids) for ids in texts)):
        if len({ids[index] for ids in texts}) > 1:
            return index
    return min(len(ids) for ids in texts)


def _first_token(positive: Ids, negative: Ids) -> str | None:
    """The class guessed from the first token that is not common to all, by what the *other* examples with it are."""
    sides = [[ids[0] if len(ids) else -1 for ids in side] for side in (positive, negative)]
    counts = [Counter(side) for side in sides]
    right = [
        np.mean([0.5 + 0.5 * np.sign(counts[own][token] - 1 - counts[1 - own][token]) for token in side])
        for own, side in enumerate(sides)
    ]
    accuracy = float(np.mean(right))
    if accuracy < SHORTCUT:
        return None
    return (
        f"first token: the first token in which the examples differ tells the classes apart ({accuracy:.0%}); "
        "the direction may be about how they begin"
    )


def _one_token(positive: Ids, negative: Ids, decode: Callable[[list[int]], str]) -> str | None:
    """One token whose presence gives the class away."""
    counts = [Counter(token for ids in side for token in set(ids)) for side in (positive, negative)]
    sizes = len(positive), len(negative)

    def accuracy(token: int) -> float:
        balanced = (counts[0][token] / sizes[0] + 1 - counts[1][token] / sizes[1]) / 2
        return max(balanced, 1 - balanced)

    best = max(sorted(set(counts[0]) | set(counts[1])), key=accuracy)
    if accuracy(best) <= SHORTCUT:
        return None
    return (
        f"word: the presence of the token {decode([best])!r} alone tells the classes apart ({accuracy(best):.0%}); "
        "the direction may be about that word"
    )
