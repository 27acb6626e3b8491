"""How a text lies along a direction, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..charts import Figure
from ..errors import InterventionError, PromptError
from ..extraction import capture
from ..model import SteeringModel
from ..model.hooks import read_sites
from ..model.tokens import Prompts, listed
from ..plan import PlanLike
from ..tensors import unit
from .directions import Direction, choose
from .lens import token_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Projections:
    """The projection of each token's activation on a unit direction.

    Attributes:
        tokens: the text of each token, special ones included.
        values: ``r . h`` of each, raw residual units.
        between: of each, where it lies between the class means: 0 at the negative, 1 at the positive. None for a vector
            that stores no class projections.
        classes: these (negative, positive), or None.
        layer, name: of the direction.
    """

    tokens: list[str]
    values: list[float]
    between: list[float] | None
    classes: tuple[float, float] | None
    layer: int
    name: str

    def __len__(self) -> int:
        return len(self.tokens)

    def frame(self) -> pd.DataFrame:
        """One row per token: token, value, and between where there are classes."""
        import pandas as pd

        columns = {"token": self.tokens, "value": self.values}
        return pd.DataFrame(columns | ({"between": self.between} if self.between is not None else {}))

    def svg(self, path: str | Path | None = None) -> str:
        """The text, its tokens coloured, as an SVG; written to ``path`` if given."""
        return self.figure().svg(path)

    def figure(self) -> Figure:
        """The text and its projections, before they are drawn."""
        arguments = {
            "tokens": self.tokens, "values": self.values, "classes": self.classes,
            "title": f"Projection on {self.name}, layer {self.layer}", "value_label": "projection (residual units)",
        }  # fmt: skip
        return Figure("token_projections", arguments)


def projections(
    model: SteeringModel,
    text: Prompts,
    vector: Direction,
    layer: int | None = None,
    *,
    steer: PlanLike = None,
    continuation: str | None = None,
) -> Projections:
    """Project each token of a text on the unit direction of a layer.

    Args:
        model: the model.
        text: one text or chat.
        vector: a steering vector, read at its own site; or a tensor ``[d_model]`` for ``resid_post``.
        layer: by default the vector's chosen one.
        steer: a plan in force meanwhile, to see what it does there.
        continuation: text after it that counts as generated, to see what the plan does there.

    Raises:
        MismatchError, InterventionError, PromptError: before any forward pass.
    """
    items, _ = listed(text)
    if len(items) > 1:
        raise PromptError(f"projections() takes one text at a time, got {len(items)}")
    chosen = choose(model, vector, layer, "projections()")
    if chosen.layer is None:
        raise InterventionError("projections() reads the model at a layer: name it with layer=")
    along = unit(chosen.tensor.flatten().double(), chosen.name)
    ids = model.tokens.encode(items[0])
    if continuation is None:
        hidden = capture(model, items[0], site=chosen.site, layers=chosen.layer, steer=steer)[chosen.layer]
    else:
        new = model.tokens.continuation(continuation)
        with read_sites(model.architecture, [(chosen.site, chosen.layer)], len(ids) + len(new)) as found:
            model.token_logits([ids], [new], steer=steer, keep=1)
        ids, hidden = [*ids, *new], found[chosen.site, chosen.layer][0].float().cpu()
    values: list[float] = (hidden.flatten(1).double() @ along).tolist()
    tokens = [token_text(model, token) for token in ids]
    between = None
    if chosen.ends is not None and chosen.ends[1] != chosen.ends[0]:
        low, high = chosen.ends
        between = [(value - low) / (high - low) for value in values]
    return Projections(tokens, values, between, chosen.ends, chosen.layer, chosen.name)
