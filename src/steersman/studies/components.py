"""What a study touches: heads, attentions, MLPs, neurons, blocks, or groups of these, each as one component."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..errors import InterventionError
from ..operations.base import columns_of
from ..shape import ModelShape
from ..sites import FORWARD_ORDER, Sites, attention, heads, mlp, neurons, site

#: (component, layer), as the hook engine names a place in the model.
Place = tuple[str, int]
SitesLike = Sites | str | Sequence["Sites | str"] | Mapping[str, "Sites | Sequence[Sites]"]

_WORDS = {"heads": heads, "attention": attention, "mlp": mlp, "neurons": neurons}


@dataclass(frozen=True)
class Part:
    """A place, whole or some of its units.

    Attributes:
        site, layer: the place.
        units: head or neuron indices, None for all of it.
    """

    site: str
    layer: int
    units: tuple[int, ...] | None = None

    @property
    def place(self) -> Place:
        """Where it is."""
        return self.site, self.layer

    @property
    def sites(self) -> Sites:
        """As interventions take it."""
        return Sites(self.site, (self.layer,), self.units)

    @property
    def start(self) -> int:
        """The first block that has to be run again when it changes; what leaves a block enters the next."""
        return self.layer + (self.site == "resid_post")

    def columns(self, shape: ModelShape) -> Tensor:
        """``[width]`` bool: which values of a token it is."""
        width = shape.width(self.site, self.layer)
        chosen = columns_of(self.units, shape.d_head if self.site == "z" else 1)
        found = torch.zeros(width, dtype=torch.bool)
        found[slice(None) if chosen is None else chosen] = True
        return found


@dataclass(frozen=True)
class Component:
    """What is touched at once, and counts as one.

    Attributes:
        label: how tables call it: ``L4H1``, ``attention 4``, or the name of a group.
        parts: what it consists of.
        kind: what it is compared with: the site, or ``"group"``.
    """

    label: str
    parts: tuple[Part, ...]
    kind: str

    @property
    def layer(self) -> int | None:
        """Its layer; None of a group over several."""
        layers = {part.layer for part in self.parts}
        return layers.pop() if len(layers) == 1 else None

    @property
    def unit(self) -> int | None:
        """Its head or neuron, if it is one."""
        units = self.parts[0].units if len(self.parts) == 1 else None
        return units[0] if units is not None and len(units) == 1 else None

    @property
    def start(self) -> int:
        """The first block that has to be run again."""
        return min(part.start for part in self.parts)


def components(shape: ModelShape, sites: SitesLike, what: str) -> list[Component]:
    """One component for each head, neuron or layer named, one for each entry of a mapping.

    Args:
        shape: of the model.
        sites: :func:`heads`, :func:`attention`, ... or their names (``"heads"``), or the name of a site
            (``"resid_mid"``); several in a list; or a mapping name -> sites that are touched together.
        what: for messages.

    Raises:
        InterventionError, MismatchError: nothing named, named twice, or not in this model.
    """
    if isinstance(sites, Mapping):
        found = [_group(shape, str(name), group, what) for name, group in sites.items()]
    else:
        several = cast("Sequence[Sites | str]", [sites] if isinstance(sites, Sites | str) else sites)
        found = [one for item in several for one in _single(shape, item, what)]
    if not found:
        raise InterventionError(f'{what} names no site; for example sites=heads("all")')
    labels = [one.label for one in found]
    twice = (
        next((label for label in labels if labels.count(label) > 1), None) if len(set(labels)) < len(labels) else None
    )
    if twice is not None:
        raise InterventionError(f"{what} names {twice} twice")
    return found


def _single(shape: ModelShape, item: Sites | str, what: str) -> Iterable[Component]:
    choice = _sites(item, what)
    for layer, units in shape.expand(choice, what):
        if choice.component not in ("z", "mlp_post"):
            yield Component(label_of(choice.component, layer, None), (Part(choice.component, layer),), choice.component)
            continue
        for unit in range(shape.units(choice.component, layer)) if units is None else units:
            part = Part(choice.component, layer, (unit,))
            yield Component(label_of(choice.component, layer, unit), (part,), choice.component)


def _group(shape: ModelShape, name: str, group: Sites | Sequence[Sites], what: str) -> Component:
    several = [group] if isinstance(group, Sites) else list(group)
    parts = [
        Part(choice.component, layer, units)
        for choice in (_sites(item, what) for item in several)
        for layer, units in shape.expand(choice, what)
    ]
    merged: dict[Place, Part] = {}
    for part in parts:
        before = merged.get(part.place)
        units = None if part.units is None else part.units
        if before is not None:
            whole = before.units is None or units is None
            units = None if whole else tuple(dict.fromkeys((*(before.units or ()), *(units or ()))))
        merged[part.place] = Part(part.site, part.layer, units)
    if not merged:
        raise InterventionError(f"{what}: the group {name!r} names no site")
    ordered = sorted(merged.values(), key=lambda part: (part.layer, FORWARD_ORDER[part.site]))
    return Component(name, tuple(ordered), "group")


def _sites(item: object, what: str) -> Sites:
    if isinstance(item, Sites):
        return item
    if isinstance(item, str):
        return _WORDS[item]("all") if item in _WORDS else site(item)
    raise InterventionError(f'{what}: name sites by heads("all"), mlp(), "resid_post", ..., got {item!r}')


def label_of(component: str, layer: int, unit: int | None) -> str:
    """``L4H1``, ``L3N90``, ``attention 4``, ``resid_post 7``."""
    if component in ("z", "mlp_post"):
        letter = "H" if component == "z" else "N"
        return f"L{layer}" if unit is None else f"L{layer}{letter}{unit}"
    return f"{ {'attn_out': 'attention', 'mlp_out': 'mlp'}.get(component, component) } {layer}"
