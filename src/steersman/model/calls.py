"""What one call of a model is made of, checked before anything runs: rows, their tokens, and the plan of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ..errors import MismatchError, PromptError
from ..plan import Plan, PlanLike
from .generation import Generation
from .hooks import Row
from .tokens import Batch, Prompts, listed

if TYPE_CHECKING:
    from .steering_model import SteeringModel

#: One plan for all prompts, or a list with one (or None) for each.
Steer = PlanLike | Sequence[PlanLike]


@dataclass(frozen=True)
class Call:
    """One call of a model.

    Attributes:
        rows: what the engine knows of each row.
        batch: their tokens, padded on the left.
        plans: the distinct plans; each row names its own by number.
    """

    rows: list[Row]
    batch: Batch
    plans: list[Plan]


def prepare(
    model: SteeringModel, prompts: Prompts, steer: Steer, continuation: str | Sequence[str] | None,
    own: Generation | None = None,
) -> Call:  # fmt: skip
    """A call on texts or chats.

    Args:
        continuation: text after each prompt (one, or one for each) that counts as generated.
        own: the settings of a generation, if it is one.

    Raises:
        PromptError, MismatchError, UnsupportedError: before any forward pass.
    """
    items, _ = listed(prompts)
    ids = [model.tokens.encode(item) for item in items]
    return prepare_tokens(model, ids, steer, _continuations(model, continuation, len(ids)), own)


def prepare_tokens(
    model: SteeringModel, prompts: Sequence[Sequence[int]], steer: Steer,
    continuations: Sequence[Sequence[int]] | None, own: Generation | None = None,
) -> Call:  # fmt: skip
    """The same on token ids."""
    if not prompts or not all(prompts):
        raise PromptError("there must be at least one prompt, and at least one token in each")
    plans, numbers = _plans(model, steer, len(prompts))
    copies = own.copies if own else 1
    rows = [
        Row(len(row), tuple(row), model.tokens.find_marker, f"prompt {i}", numbers[i])
        for i, row in enumerate(prompts)
        for _ in range(copies)
    ]
    extra = continuations if continuations is not None else [()] * len(prompts)
    sequences = [[*row, *more] for row, more in zip(prompts, extra, strict=True) for _ in range(copies)]
    model.check_length(sequences, own.max_new_tokens if own else 0)
    if own:
        own.check_config(model.architecture.hf.generation_config)
    return Call(rows, model.tokens.batch(sequences), plans)


def _continuations(model: SteeringModel, continuation: str | Sequence[str] | None, rows: int) -> list[list[int]]:
    if continuation is None:
        return [[] for _ in range(rows)]
    texts = [continuation] * rows if isinstance(continuation, str) else list(continuation)
    if len(texts) != rows:
        raise PromptError(f"{len(texts)} continuations for {rows} prompts; give one for all, or one for each")
    return [model.tokens.continuation(text) for text in texts]


def _plans(model: SteeringModel, steer: Steer, rows: int) -> tuple[list[Plan], list[int]]:
    """The distinct plans of a call, what always acts before each, and the number of the plan of each row."""
    always = model.always
    if not isinstance(steer, list | tuple):
        return [always + cast(PlanLike, steer)], [0] * rows
    items = cast("Sequence[PlanLike]", steer)
    if len(items) != rows:
        raise MismatchError(
            f"steer= lists {len(items)} plans for {rows} prompts; give one for each, or one Plan([...]) for all"
        )
    numbers: dict[int, int] = {}
    plans: list[Plan] = []
    for item in items:
        if id(item) not in numbers:
            numbers[id(item)] = len(plans)
            plans.append(always + item)
    return plans, [numbers[id(item)] for item in items]
