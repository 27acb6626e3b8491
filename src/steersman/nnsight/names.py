"""The same names in every architecture: ``model.blocks[l]``, its ``attention``, ``mlp`` and ``heads``, and the sites.

Each site is a tensor of the running model that can be read, edited in place, and replaced:

    model.blocks[3].attn_out[:, -1] += v            # [batch, seq, d_model]
    model.blocks[4].heads[:, :, 1] = 0              # [batch, seq, n_heads, d_head]
    kept = model.blocks[5].resid_mid.save()
"""

from __future__ import annotations

from typing import Any, cast

from nnsight.intervention.eproperty import eproperty
from nnsight.intervention.interleaver import Mediator
from torch import Tensor

from ..errors import SteersmanError
from .layout import Layout, Spot
from .served import fitted, served
from .values import Activation, Place, in_worker


class Site(eproperty):
    """A component of the residual stream's life in a block, by Steersman's name for it."""

    def __init__(self, component: str, heads: bool = False) -> None:
        eproperty.__init__(self, key=component)
        self.name, self.component, self.heads = component, component, heads

    def _spot(self, obj: Any) -> tuple[Spot, Layout]:
        layout: Layout = obj.root.layout
        layer = int(obj.path.rpartition(".")[2])
        try:
            return layout.spot(self.component, layer), layout
        except AttributeError as error:  # a property's AttributeError would be taken for a missing name
            raise SteersmanError(str(error)) from error

    def _location(self, obj: Any) -> str:
        spot, _ = self._spot(obj)
        return f"{obj.root.path}.{spot.path}.{spot.side}"

    def __get__(self, obj: Any, owner: Any = None) -> Any:
        if obj is None:
            return self
        spot, layout = self._spot(obj)
        location = self._location(obj)
        place = obj._place("output")._replace(location=f"{obj.path}.{'heads' if self.heads else self.component}")
        if not in_worker():
            return type(obj).output.__get__(obj)  # says how to write a trace
        mediator = Mediator.current(location)
        waiting: Any = mediator.transform
        occurrence = mediator.wanted(location)
        if waiting is not None and waiting.key == (self, location, occurrence):
            return waiting.view
        value: Any = Mediator.value(location)
        found = tensor_of(value, spot.side)
        if spot.scale == 1:
            return self._view(served(found, place), layout)
        view = self._view(Activation.of(found * spot.scale, place), layout)
        mediator.transform = Back(self, view, location, occurrence, value, found, spot)  # pyright: ignore[reportAttributeAccessIssue]
        return view

    def _view(self, found: Any, layout: Layout) -> Any:
        return found.unflatten(-1, (layout.shape.n_heads, layout.shape.d_head)) if self.heads else found

    def __set__(self, obj: Any, value: Any) -> None:
        spot, _ = self._spot(obj)
        location = self._location(obj)
        place: Place = obj._place("output")._replace(location=f"{obj.path}.{self.component}")
        if not in_worker():
            type(obj).output.__get__(obj)
        old: Any = Mediator.value(location)
        found = tensor_of(old, spot.side)
        flat = value.flatten(-2) if self.heads and isinstance(value, Tensor) else value
        new = fitted(flat, found, place)
        new = new if spot.scale == 1 else new / spot.scale
        if spot.in_place:
            found.copy_(new)
            return
        Mediator.swap(location, with_tensor(old, spot.side, new))


class Back:
    """A scaled copy that a trace holds, to be put back when it moves on; what nnsight calls a write-back."""

    def __init__(
        self, site: Site, view: Any, location: str, occurrence: int | None, value: Any, found: Tensor, spot: Spot
    ) -> None:
        self.view, self.location, self.occurrence = view, location, occurrence
        self.key = (site, location, occurrence)
        self._value, self._found, self._spot = value, found, spot

    def fn(self) -> Any:
        """The value of the location, with what the trace made of the copy."""
        edited = self.view.value.reshape(self._found.shape) / self._spot.scale
        return with_tensor(self._value, self._spot.side, edited)


def tensor_of(value: Any, side: str) -> Tensor:
    """The site's tensor in what is served at its location."""
    if side == "output":
        return value[0] if isinstance(value, tuple) else value
    args, kwargs = value
    return args[0] if args else next(item for item in kwargs.values() if isinstance(item, Tensor))


def with_tensor(value: Any, side: str, new: Tensor) -> Any:
    """What was served, with another tensor in the site's place."""
    if side == "output":
        return (new, *cast("tuple[Any, ...]", value)[1:]) if isinstance(value, tuple) else new
    args, kwargs = value
    new = new.contiguous()
    if args:
        return (new, *args[1:]), kwargs
    name = next(key for key, item in kwargs.items() if isinstance(item, Tensor))
    return args, {**kwargs, name: new}
