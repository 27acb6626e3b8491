"""Generated texts as token ids, drawn so that both arms of a comparison meet the same random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..model import SteeringModel
from ..model.tokens import Prompt
from ..plan import PlanLike
from .scoring import batches

#: New tokens in flight at once, padding included.
TOKENS_AT_ONCE = 16384


@dataclass(frozen=True)
class Sampling:
    """How texts are drawn.

    Attributes:
        texts: how many at least, spread evenly over the prompts.
        max_new_tokens: of each.
        temperature, top_p: of the draw; a temperature of None is greedy, one text for each prompt.
    """

    texts: int = 64
    max_new_tokens: int = 40
    temperature: float | None = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, eq=False)
class Samples:
    """Generated texts.

    Attributes:
        prompts: token ids of the prompt of each.
        tokens: the new token ids of each, that which ended it included.
        ended: whether a text came to its end by itself.
        sources: of each.
        texts: as people read them.
    """

    prompts: list[tuple[int, ...]]
    tokens: list[list[int]]
    ended: list[bool]
    sources: list[str]
    texts: list[str]


def draw(
    model: SteeringModel,
    prompts: Sequence[Prompt],
    plan: PlanLike,
    sampling: Sampling,
    seed: int,
    sources: Sequence[str] | None = None,
) -> Samples:
    """Draw texts; text ``k`` of prompt ``i`` depends on the seed, k and i alone, not on batches."""
    ids = [tuple(model.tokens.encode(prompt)) for prompt in prompts]
    greedy = sampling.temperature is None
    each = 1 if greedy else max(1, -(-sampling.texts // len(ids)))
    names = [str(i) for i in range(len(ids))] if sources is None else list(sources)
    found: list[list[int]] = [[]] * (len(ids) * each)
    settings: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens}
    if not greedy:
        settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
    numbers = [i for i in range(len(ids)) for _ in range(each)]
    lengths = [len(ids[i]) + sampling.max_new_tokens for i in numbers]
    for group in batches(lengths, TOKENS_AT_ONCE):
        if not greedy:
            settings["seed"] = [seed + one * 1_000_003 for one in group]
        new = model.generate_tokens([ids[numbers[one]] for one in group], steer=plan, **settings)
        for one, tokens in zip(group, new, strict=True):
            found[one] = tokens
    ends = ending_ids(model)
    return Samples(
        prompts=[ids[i] for i in numbers],
        tokens=found,
        ended=[bool(tokens) and tokens[-1] in ends for tokens in found],
        sources=[names[i] for i in numbers],
        texts=[model.tokens.decode_after(ids[i], tokens) for i, tokens in zip(numbers, found, strict=True)],
    )


def ending_ids(model: SteeringModel) -> set[int]:
    """The tokens that end a text."""
    hf: Any = model.architecture.hf
    ends: Any = getattr(hf.generation_config, "eos_token_id", None)
    return {ends} if isinstance(ends, int) else set(ends or ())
