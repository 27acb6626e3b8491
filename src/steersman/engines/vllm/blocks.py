"""What a block of the prefix cache must be known by, besides its tokens, when its request is steered.

Keys and values of a token depend on how that token and those before it were steered. A block's parent is part of its
hash, so each block needs only its own part: the segments clipped to it, counted from its start, each named by what its
program does. A block without a steered token has no such key and is shared with unsteered requests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from .packing import States
from .segments import Steering

#: (start, stop, program) of each steered run of a block, positions counted from its first token
BlockKey = tuple[str, tuple[tuple[int, int, str], ...]]


def program_key(plan: str, states: States) -> str:
    """A name for what a program does: the plan's digest, and the state of each of its rules."""
    text = json.dumps([plan, [None if state is None else list(state) for state in states]], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def program_keys(plan: str, programs: Sequence[States]) -> tuple[str, ...]:
    """The key of each program of a request."""
    return tuple(program_key(plan, states) for states in programs)


def block_key(steering: Steering, keys: Sequence[str], start: int, stop: int) -> BlockKey | None:
    """The key of the block of tokens ``[start, stop)``; None if none of them is steered."""
    runs = tuple(
        (segment.start - start, segment.stop - start, keys[segment.program])
        for segment in steering.overlapping(start, stop)
    )
    return ("steersman", runs) if runs else None
