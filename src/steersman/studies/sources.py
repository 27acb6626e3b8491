"""What is put in the place of a component: nothing, a mean, or its value in another run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import DataError, MismatchError
from ..extraction import mean_activations
from ..model import SteeringModel
from ..model.hooks import read_sites
from ..model.tokens import Prompts, listed
from ..operations import Intervention, Mean, Zero
from ..positions import Positions
from ..sites import Sites
from ..values import LayerValues
from .components import Component, Part, Place
from .groups import Group, places


class Source(ABC):
    """Gives the values that are put in, for one group of prompts at a time.

    Attributes:
        shared: whether all prompts get the same.
    """

    shared = True

    def prepare(self, group: Group, wanted: Sequence[Place]) -> None:  # noqa: B027
        """Compute what is needed at these places; called before anything is asked for a group."""

    @abstractmethod
    def at(self, place: Place, group: Group) -> Tensor:
        """Float32 values of a place, broadcastable to ``[rows, columns, width]``."""

    @abstractmethod
    def intervention(self, part: Part, group: Group, row: int, positions: Positions | None) -> Intervention:
        """The same for one row as an ordinary intervention."""

    def check(self, group: Group, positions: Positions | None) -> None:  # noqa: B027
        """Raise what would fail later; called for every group before any work."""


class Zeros(Source):
    """Nothing: zero ablation."""

    def at(self, place: Place, group: Group) -> Tensor:
        """The values put in at a place."""
        return torch.zeros(1, 1, 1)

    def intervention(self, part: Part, group: Group, row: int, positions: Positions | None) -> Intervention:
        """Those of one row, as an intervention."""
        return Zero(part.sites, positions=positions)


class Means(Source):
    """Means over a reference corpus, one for all positions or one for each."""

    def __init__(self, means: Mapping[str, LayerValues], by_position: bool) -> None:
        self.means = means
        self.by_position = by_position

    @classmethod
    def over(
        cls, model: SteeringModel, reference: Prompts, components: Sequence[Component], by_position: bool, budget: int
    ) -> Means:
        """Computed from texts of any lengths; padding never counts."""
        wanted: dict[str, set[int]] = {}
        for component in components:
            for part in component.parts:
                wanted.setdefault(part.site, set()).add(part.layer)
        return cls(
            {
                name: mean_activations(
                    model, reference, sites=Sites(name, tuple(sorted(layers))), by_position=by_position,
                    token_budget=budget,
                )
                for name, layers in wanted.items()
            },
            by_position,
        )  # fmt: skip

    def at(self, place: Place, group: Group) -> Tensor:
        """The values put in at a place."""
        name, layer = place
        found = self.means[name][layer]
        if not self.by_position:
            return found.flatten()
        return found.flatten(1)[group.batch.position_ids]

    def intervention(self, part: Part, group: Group, row: int, positions: Positions | None) -> Intervention:
        """Those of one row, as an intervention."""
        return Mean(part.sites, self.means[part.site], positions=positions)

    def check(self, group: Group, positions: Positions | None) -> None:
        """Refuse prompts that are longer than the positions there are means for."""
        if not self.by_position:
            return
        known = min(len(values[layer]) for values in self.means.values() for layer in values)
        for number, ids in zip(group.numbers, group.ids, strict=True):
            chosen = range(len(ids)) if positions is None else places(group.model, positions, ids)
            if chosen and chosen[-1] >= known:
                raise MismatchError(
                    f"the reference has means for {known} positions, but prompt {number} is touched at position "
                    f"{chosen[-1]}; give longer reference texts, or use by_position=False"
                )


class OtherRun(Source):
    """The values of the same tokens' places in another run: of a counterpart of each prompt, of equal length.

    Args:
        counterparts: the token ids of each prompt's counterpart, by the prompt's number. A longer one counts up to the
            prompt's length; what follows cannot be seen from there.
    """

    shared = False

    def __init__(self, model: SteeringModel, counterparts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.counterparts = counterparts
        self._found: dict[Place, Tensor] = {}

    def ids(self, group: Group) -> list[list[int]]:
        """The counterparts of a group, as long as its prompts."""
        return [
            list(self.counterparts[number][: len(ids)]) for number, ids in zip(group.numbers, group.ids, strict=True)
        ]

    def prepare(self, group: Group, wanted: Sequence[Place]) -> None:
        """Run the counterparts of a group."""
        ids = self.ids(group)
        with (
            self.model.forward_only(None, ids) as forward,
            read_sites(self.model.architecture, wanted, group.columns) as seen,
        ):
            forward(self.model.tokens.batch(ids))
        self._found = {place: values.float() for place, values in seen.items()}

    def at(self, place: Place, group: Group) -> Tensor:
        """The values put in at a place."""
        return self._found[place]

    def intervention(self, part: Part, group: Group, row: int, positions: Positions | None) -> Intervention:
        """Those of one row, as an intervention."""
        own = self._found[part.place][row, group.columns - len(group.ids[row]) :]
        values = LayerValues({part.layer: own if part.site != "z" else own.reshape(len(own), self.model.n_heads, -1)})
        return Mean(part.sites, values, positions=positions)


def drawn(model: SteeringModel, ids: Sequence[Sequence[int]], reference: Prompts | None, seed: int) -> list[list[int]]:
    """For each prompt a text of the reference that is at least as long, drawn at random; another prompt without one.

    Raises:
        DataError: no such text.
    """
    texts = [list(row) for row in ids] if reference is None else [model.tokens.encode(t) for t in listed(reference)[0]]
    draw = torch.Generator().manual_seed(seed)
    found: list[list[int]] = []
    for number, row in enumerate(ids):
        able = [text for text in texts if len(text) >= len(row) and text[: len(row)] != list(row)]
        if not able:
            what = "other prompt" if reference is None else "text of the reference"
            raise DataError(
                f'mode="resample": no {what} is as long as prompt {number} ({len(row)} tokens) and differs from it; '
                "give a reference= with longer texts"
            )
        found.append(able[int(torch.randint(len(able), (1,), generator=draw))])
    return found
