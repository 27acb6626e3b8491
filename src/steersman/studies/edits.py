"""Values put in at a place, in several copies of the prompts at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model import SteeringModel
from .components import Place
from .groups import Group
from .sources import Source

if TYPE_CHECKING:
    from .measuring import Trial


@dataclass(frozen=True, eq=False)
class Edit:
    """Puts values in where it is told to, and leaves all else as it is.

    Attributes:
        values: broadcast to ``[*shape, width]``, as the tensor at the tap holds them.
        chosen: bool, likewise.
        shape: the copies, rows and tokens that the tensor's batch and tokens are.
    """

    values: Tensor
    chosen: Tensor
    shape: tuple[int, int, int]
    thread: int = field(default_factory=threading.get_ident)

    def __call__(self, found: Tensor) -> Tensor | None:
        """The tensor at the tap with the values in place; its batch may lie flat. Other threads' passes are left."""
        return self.of(found) if threading.get_ident() == self.thread else None

    def of(self, found: Tensor) -> Tensor:
        """The same in whatever thread."""
        values, chosen = self.values.to(found.device, found.dtype), self.chosen.to(found.device)
        return torch.where(chosen, values, found.reshape(*self.shape, found.shape[-1])).reshape(found.shape)


def edits(
    model: SteeringModel, group: Group, forks: Sequence[Trial], source: Source, window: Tensor | None = None
) -> dict[Place, Edit]:
    """What several trials put in at each place.

    Args:
        group: the prompts.
        forks: the trials, a copy of the prompts for each.
        source: gives the values.
        window: ``[rows, width]`` the padded columns that are run of each row, where these are not all: then the copies
            of a row lie together, ``(rows, forks, width)``; else all rows of a copy do, ``(forks, rows, columns)``.
    """
    alike = all(trial.positions == forks[0].positions for trial in forks)
    tokens = torch.stack([group.selected(trial.positions) for trial in (forks[:1] if alike else forks)])
    if window is not None:
        tokens = tokens.gather(2, window.clamp_min(0)[None].expand(len(tokens), -1, -1)).transpose(0, 1)
        tokens = tokens & (window >= 0)[:, None]
    first, rows, columns = len(forks) if window is None else len(tokens), tokens.shape[1], tokens.shape[2]
    shape = (first, rows if window is None else len(forks), columns)
    found: dict[Place, Edit] = {}
    for place in dict.fromkeys(place for trial in forks for place in trial.places):
        values, scale = source.at(place, group), model.architecture.tap(*place).scale
        units = _columns(model, place, forks)
        units = units[:, None, None] if window is None else units[None, :, None]
        values = values if window is None else _windowed(values, window)
        found[place] = Edit(values if scale == 1 else values / scale, tokens[..., None] & units, shape)
    return found


def _windowed(values: Tensor, window: Tensor) -> Tensor:
    """Of values that broadcast to ``[rows, columns, width]`` those in the window, as ``[rows, 1, window, width]``."""
    if values.dim() < 3 or values.shape[1] == 1:
        return values
    at = window.clamp_min(0)[..., None].to(values.device).expand(-1, -1, values.shape[2])
    return values.expand(len(window), -1, -1).gather(1, at)[:, None]


def _columns(model: SteeringModel, place: Place, forks: Sequence[Trial]) -> Tensor:
    """``[forks, width]`` bool: which values of a token each trial sets."""
    found = torch.zeros(len(forks), model.shape.width(*place), dtype=torch.bool)
    for number, trial in enumerate(forks):
        for part in trial.component.parts:
            if part.place == place:
                found[number] |= part.columns(model.shape)
    return found
