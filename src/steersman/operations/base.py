"""What every intervention is: an operation at sites, on tokens, under a condition, with a strength.

An intervention is engine-neutral data. ``actions(shape)`` resolves it for a model of that shape into the single steps
an engine carries out, and is where everything is checked that can only be checked against a model.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..conditions import Schedule, Strength, When, check_strength
from ..errors import InterventionError, MismatchError
from ..positions import ALL, LAST_AND_GENERATION, Positions, PositionsLike
from ..shape import ModelShape
from ..sites import check_component, layer_indices
from ..tensors import check_number, checked
from ..vector import SteeringVector
from .maps import Map

Direction = SteeringVector | Tensor
#: None: not named. A mapping layer -> weight, weights 1 unless given; ``"all"``: every layer.
Layers = Mapping[int, float] | Literal["all"] | None
LayersLike = int | Iterable[int] | Mapping[int, float] | str | None

__all__ = [
    "ALL", "LAST_AND_GENERATION", "Action", "Direction", "Intervention", "Layers", "LayersLike", "ModelShape",
    "Positions", "PositionsLike", "Strength", "When",
]  # fmt: skip


@dataclass(frozen=True)
class Action:
    """One step of a plan on one model: a map at one site of one layer.

    ``strength`` scales the whole change, ``h + s (op(h) - h)``; ``source`` names the intervention in messages.
    """

    component: str
    layer: int
    map: Map
    strength: Strength
    positions: Positions
    when: When | None
    source: str


class Intervention(ABC):
    """Base of all operations. Subclasses are frozen dataclasses that hold the five fields below and their own.

    Two interventions are equal when their parameters and tensors are; :meth:`digest` is the SHA-256 over both.
    """

    operation: ClassVar[str]
    default_positions: ClassVar[Positions | None] = ALL
    #: fields that hold tensors or vectors, in the order they are hashed and saved
    tensors: ClassVar[tuple[str, ...]] = ("vector",)
    #: fields that hold plain values, as the spec names them
    plain: ClassVar[tuple[str, ...]] = ()

    strength: Strength
    layers: Layers
    site: str | None
    positions: Positions
    when: When | None

    def __post_init__(self) -> None:
        self._set(strength=check_strength(self.strength), layers=check_layers(self.layers))
        self._set(positions=self._check_positions(self.positions))
        if self.site is not None:
            self._set(site=check_component(self.site, writers=True))
        if self.when is not None and not isinstance(self.when, When):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InterventionError(f"when= takes a When(...), got {type(self.when).__name__}")
        if isinstance(self.strength, Schedule) and self.positions.before_last:
            raise InterventionError(
                f"{self.label}: a schedule begins at the last prompt token, but positions {self.positions} reach "
                'further back; use "last+generation", or two interventions'
            )

    def _check_positions(self, value: PositionsLike | None) -> Positions:
        value = self.default_positions if value is None else value
        if value is None:
            raise InterventionError(f'{self.label} needs positions=, for example positions="last"')
        return Positions.parse(value)

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def label(self) -> str:
        """How messages call it."""
        return type(self).__name__

    @property
    def dropped(self) -> bool:
        """Whether it does nothing at all, its strength being zero throughout; engines never see it then."""
        if isinstance(self.strength, Schedule):
            return not any(self.strength.values)
        weights = self.layers.values() if isinstance(self.layers, Mapping) else (1.0,)
        return self.strength == 0 or not any(weights)

    @abstractmethod
    def maps(self, shape: ModelShape) -> Iterable[tuple[str, int, Map, float]]:
        """``(component, layer, map, weight)`` of each site; the weight multiplies the strength."""

    def actions(self, shape: ModelShape) -> list[Action]:
        """The steps for a model of this shape, each site checked to exist.

        Raises:
            MismatchError, SiteUnavailableError: when it does not fit.
        """
        if self.when is not None:
            self._check_condition(shape)
        found: list[Action] = []
        for component, layer, operation, weight in self.maps(shape):
            shape.require(component, layer)
            strength = _times(self.strength, weight)
            if strength != 0:
                found.append(Action(component, layer, operation, strength, self.positions, self.when, self.label))
        return [] if self.dropped else found

    def _check_condition(self, shape: ModelShape) -> None:
        assert self.when is not None
        shape.layer(self.when.layer, "When()")
        if isinstance(self.when.vector, SteeringVector):
            self.when.vector.check(shape)
        width = self.when.direction().numel()
        if width != shape.d_model:
            raise MismatchError(f"the direction of When() has width {width}, but {shape.name} has {shape.d_model}")

    # -- helpers for the subclasses -----------------------------------------------------------------------------

    def _check_direction(self, name: str = "vector", dims: tuple[int, ...] = (1, 2)) -> None:
        value = getattr(self, name)
        if not isinstance(value, SteeringVector):
            if value is None:
                raise InterventionError(f"{self.label} needs a {name}")
            self._set(**{name: checked(value, f"the {name} of {self.label}", dims)})

    def _weighted_layers(self, shape: ModelShape, vector: Direction | None) -> list[tuple[int, float]]:
        """The layers acted on, resolved and in order, with their weights."""
        if isinstance(vector, SteeringVector):
            vector.check(shape)
        layers = self.layers
        if layers is None:
            if not isinstance(vector, SteeringVector):
                raise InterventionError(f"{self.label}: a bare tensor does not say where; name the layers=")
            if vector.layer is None:
                raise InterventionError(
                    f"{self.label}: {vector.label} has no chosen layer (its quality was not measured); name the "
                    f"layers=, among {', '.join(str(layer) for layer in vector.layers)}"
                )
            return [(vector.layer, 1.0)]
        if layers == "all":
            return [(i, 1.0) for i in (vector.layers if isinstance(vector, SteeringVector) else range(shape.n_layers))]
        assert isinstance(layers, Mapping)
        resolved = [(shape.layer(layer, self.label), weight) for layer, weight in layers.items()]
        if len({layer for layer, _ in resolved}) < len(resolved):
            raise InterventionError(f"{self.label} names a layer twice: {list(layers)}")
        return sorted(resolved)

    def _at(self, vector: Direction, layer: int, component: str, shape: ModelShape) -> Tensor:
        """The direction for one layer, flat: ``[width]`` of the component."""
        direction = vector[layer] if isinstance(vector, SteeringVector) else vector
        width = shape.width(component, layer)
        per_unit = component == "z" and tuple(direction.shape) == (shape.n_heads, shape.d_head)
        if (direction.dim() != 1 and not per_unit) or direction.numel() != width:
            name = "d_model" if width == shape.d_model else f"the width of {component}"
            raise MismatchError(
                f"{self.label}: the direction has shape {tuple(direction.shape)}, but {name} of {shape.name} is "
                f"{width}; it must be [{width}]"
            )
        return direction.flatten()

    def _component(self, vector: Direction | None = None) -> str:
        if self.site is not None:
            return self.site
        return vector.site if isinstance(vector, SteeringVector) else "resid_post"

    # -- identity -----------------------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON-able values under the spec's names."""
        strength = list(self.strength.values) if isinstance(self.strength, Schedule) else self.strength
        found: dict[str, Any] = {"operation": self.operation, "strength": strength}
        if isinstance(self.layers, Mapping):
            plain = all(weight == 1 for weight in self.layers.values())
            weighted = {str(k): v for k, v in self.layers.items()}
            found["layers"] = list(self.layers) if plain else weighted
        elif self.layers is not None:
            found["layers"] = self.layers
        if self.site is not None:
            found["site"] = self.site
        found["positions"] = str(self.positions)
        found |= {name: getattr(self, name) for name in self.plain if getattr(self, name) is not None}
        return found

    def named_tensors(self) -> dict[str, Any]:
        """role -> tensor, vector or other tensor-bearing value; the condition's direction under ``when``."""
        found = {name: getattr(self, name) for name in self.tensors if getattr(self, name) is not None}
        return found if self.when is None else {**found, "when": self.when.vector}

    def digest(self) -> str:
        """SHA-256 over all that decides what it does, hex: names and notes of a vector are left out."""
        hasher = hashlib.sha256(json.dumps([self.parameters(), condition(self.when)], sort_keys=True).encode())
        for role, value in self.named_tensors().items():
            facts = None if isinstance(value, Tensor) else value.facts()
            hasher.update(json.dumps([role, facts], sort_keys=True).encode())
            for name, tensor in leaves(value):
                hasher.update(f"{name}/{tuple(tensor.shape)}".encode())
                hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()

    @property
    def requires_grad(self) -> bool:
        """Whether any of its tensors does."""
        return any(t.requires_grad for value in self.named_tensors().values() for _, t in leaves(value))

    def __eq__(self, other: object) -> bool:
        return self.digest() == other.digest() if isinstance(other, Intervention) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest())


def leaves(value: Any) -> list[tuple[str, Tensor]]:
    """The tensors inside a tensor-bearing value, named and in a fixed order."""
    return [("", value)] if isinstance(value, Tensor) else value.leaves()


def condition(when: When | None) -> dict[str, Any] | None:
    """A condition without its direction, as the spec writes it."""
    if when is None:
        return None
    facts = {"layer": when.layer, "above": when.above, "below": when.below, "measure": when.measure}
    return {name: value for name, value in facts.items() if value is not None}


def check_layers(value: LayersLike) -> Layers:
    """Normalise what users may pass as ``layers=``."""
    if value is None or value == "all":
        return value  # pyright: ignore[reportReturnType]
    if not isinstance(value, Mapping):
        return dict.fromkeys(sorted(layer_indices(value) or ()), 1.0)
    weights = [
        (layer, check_number(weight, f"the weight of layer {layer}"))
        for key, weight in value.items()
        for layer in layer_indices(key) or _refuse_all()
    ]
    if not weights:
        raise InterventionError("layers={} names no layer")
    if len(dict(weights)) < len(weights):
        raise InterventionError(f"layers={value!r} weighs a layer twice")
    return dict(sorted(weights))


def _refuse_all() -> tuple[int, ...]:
    raise InterventionError('layers={"all": ...} cannot be weighed; name the layers, or multiply the strength')


def _times(strength: Strength, weight: float) -> Strength:
    if isinstance(strength, Schedule):
        return Schedule(tuple(value * weight for value in strength.values)) if weight else 0.0
    return strength * weight


def columns_of(units: tuple[int, ...] | None, size: int) -> Tensor | None:
    """The flat indices of some heads (``size`` = d_head) or neurons (``size`` = 1); None for all."""
    if units is None:
        return None
    return torch.cat([torch.arange(unit * size, (unit + 1) * size) for unit in units])
