"""How long the residual stream is, layer by layer: the yardstick of a steering strength."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..charts import bars, write
from ..errors import DataError
from ..extraction.activations import resolve_layers, visit
from ..extraction.reading import Read
from ..model import SteeringModel
from ..model.tokens import Prompts, listed
from ..sites import Indices

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Norms:
    """The length of activations by layer; ``norms[10]`` is the median of layer 10.

    Attributes:
        median: layer -> median over tokens, the first of each text excluded.
        quartiles: layer -> the lower and the upper quartile.
        tokens: how many tokens were measured.
        site: the component.
    """

    median: dict[int, float]
    quartiles: dict[int, tuple[float, float]]
    tokens: int
    site: str

    def __getitem__(self, layer: int) -> float:
        return self.median[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self.median)

    def __len__(self) -> int:
        return len(self.median)

    def frame(self) -> pd.DataFrame:
        """One row per layer: median, lower and upper quartile."""
        import pandas as pd

        rows = [
            {"layer": layer, "median": median, "lower": self.quartiles[layer][0], "upper": self.quartiles[layer][1]}
            for layer, median in self.median.items()
        ]
        return pd.DataFrame(rows).set_index("layer")

    def svg(self, path: str | Path | None = None) -> str:
        """The medians, with quartiles as whiskers, as an SVG; written to ``path`` if given."""
        figure = bars(
            [f"layer {layer}" for layer in self],
            list(self.median.values()),
            intervals=list(self.quartiles.values()),
            interval_label="quartiles",
            value_label="median norm (residual units)",
            title=f"Norm of {self.site} by layer",
            subtitle=f"{self.tokens} tokens, the first of each text excluded",
        )
        return write(figure, path)


def norms(
    model: SteeringModel,
    texts: Prompts,
    *,
    layers: str | Indices = "all",
    site: str = "resid_post",
    token_budget: int | None = None,
) -> Norms:
    """The median norm of each layer's activations over the tokens of texts.

    Padding never counts, nor does the first token of a text, which in most models is an attention sink many times as
    long as the others.

    Args:
        model: the model.
        texts: texts or chats.
        layers: indices, a range ``"4-8"``, or ``"all"``.
        site: the component.
        token_budget: padded tokens per forward pass; measured unless given.

    Raises:
        PromptError, MismatchError: before any forward pass.
        DataError: no text has a token beyond its first.
    """
    items, _ = listed(texts)
    chosen = resolve_layers(model, layers, site)
    if all(len(model.tokens.encode(item)) < 2 for item in items):
        raise DataError("no text has a token beyond its first, and that one is left out")
    found: dict[int, list[Tensor]] = {layer: [] for layer in chosen}
    visit(model, items, chosen, site, Read.parse("last"), _ignore, norms=found, token_budget=token_budget)
    lengths = {layer: torch.cat(each).double() for layer, each in found.items()}
    return Norms(
        median={layer: float(each.median()) for layer, each in lengths.items()},
        quartiles={layer: (float(each.quantile(0.25)), float(each.quantile(0.75))) for layer, each in lengths.items()},
        tokens=len(lengths[chosen[0]]),
        site=site,
    )


def _ignore(number: int, layer: int, values: Tensor) -> None:
    """What is read at the last token is not needed."""
