"""Where the sites of a model are, as nnsight's locations: plain data that can be sent with a trace."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import ArchitectureError
from ..model.architecture import Architecture
from ..model.architecture.architecture import named_modules, submodule
from ..shape import ModelShape


@dataclass(frozen=True)
class Spot:
    """Where one site lives: the path of a module from the root, and which side of it; see ``Tap``."""

    path: str
    side: str
    scale: float
    in_place: bool


@dataclass(frozen=True)
class Layout:
    """The parts of a model by their paths from the root.

    Attributes:
        shape: dimensions and missing sites.
        decoder, blocks: the module that owns the blocks, and their list.
        parameters: names of the decoder's arguments, in order.
        attention, mlp: of each layer.
        spots: of each (component, layer).
    """

    shape: ModelShape
    decoder: str
    blocks: str
    parameters: tuple[str, ...]
    attention: tuple[str, ...]
    mlp: tuple[str, ...]
    spots: dict[tuple[str, int], Spot]

    def spot(self, component: str, layer: int) -> Spot:
        """Where a site lives; SiteUnavailableError with the reason if the model has no such site."""
        layer = self.shape.layer(layer, f"the site {component!r}")
        self.shape.require(component, layer)
        return self.spots[component, layer]


def layout_of(architecture: Architecture) -> Layout:
    """The layout of a model from its architecture; the root is ``architecture.hf``."""
    paths: dict[int, str] = {}
    for path, module in named_modules(architecture.hf).items():
        paths.setdefault(id(module), path)
    decoder = architecture.decoder
    blocks = submodule(decoder, architecture.layout.blocks)
    layers = range(architecture.shape.n_layers)
    return Layout(
        shape=architecture.shape,
        decoder=_path(paths, decoder),
        blocks=_path(paths, blocks),
        parameters=tuple(inspect.signature(type(decoder).forward).parameters)[1:],
        attention=tuple(_path(paths, architecture.attention(layer)) for layer in layers),
        mlp=tuple(_path(paths, architecture.mlp(layer)) for layer in layers),
        spots={
            site: Spot(_path(paths, tap.module), tap.side, tap.scale, tap.in_place)
            for site, tap in architecture.taps.items()
        },
    )


def _path(paths: dict[int, str], module: Any) -> str:
    if not isinstance(module, nn.Module) or id(module) not in paths:
        raise ArchitectureError(f"a {type(module).__name__} of this model is not in its module tree")
    return paths[id(module)]
