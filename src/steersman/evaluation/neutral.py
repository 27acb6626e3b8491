"""Neutral text: what a plan is made to pass over, to see what it changes that it should not.

The text is teacher-forced, token by token as it stands. A plan whose tokens are the last of the prompt and the
generated ones (the default of an addition) has no such tokens in a bare text; the text is then split after its first
token, and the rest counts as generated. For a plan with a condition, which needs a prompt to be read on, it is split in
the middle. A plan that names other tokens of the prompt gets the whole text as prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from ..errors import DataError, NotAppliedError
from ..extraction.reading import special_ids
from ..model import SteeringModel
from ..model.tokens import Tokens
from ..plan import Plan, PlanLike
from ..positions import Positions

DATA_FOLDER = Path(str(files("steersman"))) / "evaluation" / "data"


@cache
def default_texts(model_name: str = "") -> tuple[str, ...]:
    """The packaged neutral texts: general English, or, for the model named ``demo``, texts in its vocabulary."""
    name = "neutral_demo.txt" if model_name == "demo" else "neutral.txt"
    return tuple((DATA_FOLDER / name).read_text(encoding="utf-8").split("\n")[:-1])


@dataclass(frozen=True)
class Layout:
    """One neutral text, ready to be run under a plan.

    Attributes:
        prompt, rest: its token ids; the rest counts as generated.
        first: index of the first affected token: the predictions made from here on can differ, and are counted.
    """

    prompt: tuple[int, ...]
    rest: tuple[int, ...]
    first: int

    @property
    def affected(self) -> int:
        """How many predictions are counted."""
        return len(self.prompt) + len(self.rest) - self.first


def layouts(model: SteeringModel, texts: Sequence[str], plan: PlanLike) -> list[Layout]:
    """How neutral texts are split for a plan on a model, and which of their predictions it affects.

    A prediction is affected when the plan touches its token or, through attention, one before it. Special tokens at the
    beginning (BOS) are never counted.

    Args:
        model: the model.
        texts: plain texts, each of two tokens at least.
        plan: the plan; an edited model's own is added to it.

    Raises:
        DataError: a text that is too short, or that lacks the tokens the plan names.
    """
    if not texts or isinstance(texts, str):
        raise DataError("neutral text is a list of at least one text")
    actions = (model.plan + Plan.of(plan)).actions(model.shape)
    positions = list(dict.fromkeys(action.positions for action in actions))
    conditional = any(action.when is not None for action in actions)
    found: list[Layout] = []
    for number, text in enumerate(texts):
        ids = model.tokens.encode(text)
        special = leading_special(model.tokens, ids)
        if len(ids) < special + 2:
            raise DataError(f"neutral text {number} has {len(ids) - special} tokens; give texts of at least two")
        split = _split(positions, len(ids), special, conditional)
        try:
            first = min((_first(one, ids[:split], model.tokens) for one in positions), default=0)
        except NotAppliedError as error:
            raise DataError(
                f"neutral text {number} lacks the tokens that the plan acts on ({error}); give neutral= texts that "
                "have them"
            ) from error
        found.append(Layout(tuple(ids[:split]), tuple(ids[split:]), min(max(first, special), len(ids) - 1)))
    model.check_length([[*one.prompt, *one.rest] for one in found])
    return found


def leading_special(tokens: Tokens, ids: Sequence[int]) -> int:
    """How many special tokens a text begins with."""
    special = special_ids(tokens.tokenizer)
    return next((i for i, token in enumerate(ids) if token not in special), len(ids))


def _split(positions: Sequence[Positions], length: int, special: int, conditional: bool) -> int:
    """How many tokens count as the prompt."""
    if conditional:
        return special + (length - special) // 2
    if any(one.everywhere or not one.before_last for one in positions):
        return special + 1
    return length if positions else special + 1


def _first(positions: Positions, prompt: Sequence[int], tokens: Tokens) -> int:
    """The first token that positions select, in a text with this prompt."""
    spans = positions.resolve(len(prompt), lambda marker: tokens.find_marker(prompt, marker), "the text")
    return min(span.start for span in spans)
