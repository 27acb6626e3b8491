"""What travels with ``remote=True``: the block, small tensors, and the source of what they need from this package.

nnsight sends a traced block as source, with the objects that it names; the model stays where it is. A server that does
not have Steersman gets what the block needs of it by value (nnsight's ``register``). For as long as a trace is being
written for sending,

- a plan is written as what it was compiled to for this model: its maps, a few vectors;
- a steering vector as its directions, layer -> tensor;
- a model as its running half, without what loads one.

The values that nnsight's pickler does not know how to write (its own descriptors) are taught to it below.
"""

from __future__ import annotations

import copyreg
import functools
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any, cast

from cloudpickle.cloudpickle import register_pickle_by_value, unregister_pickle_by_value
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.intervention.serialization import reduce_block
from torch import Tensor

from ..conditions import When
from ..errors import TraceError
from ..model import SteeringModel
from ..operations import Intervention
from ..plan import Plan
from ..vector import SteeringVector
from .compiling import compiled
from .envoys import Handoff
from .layout import Layout
from .names import Site
from .served import Outputs
from .steering import Condition
from .unsaved import bound, known_names, leave_notes
from .values import Activation

PACKAGE = __name__.partition(".")[0]


@contextmanager
def sending(tracer: Any) -> Generator[None]:
    """While a trace is written for a server, and its answer is read.

    Raises:
        TraceError: the block names what cannot travel.
    """
    frame, node, backend = tracer.info.frame, tracer.node, tracer.backend
    model = tracer.model
    check_names(reduce_block(node, frame.f_globals, dict(frame.f_locals)))
    known = known_names(frame)
    with _written_for(model.layout):
        yield
    if isinstance(backend, LocalSimulationBackend) or not getattr(backend, "blocking", True):
        return  # run here, where the trace itself brought its values out; or not answered yet
    answered(frame, node, known)


def answered(frame: FrameType, node: Any, known: set[str]) -> None:
    """Give what came back its ``.value``, and leave a note for each name that did not."""
    from nnsight.tracing.util import push

    names = {name for name, _ in bound(node.body)}
    push(frame, {name: kept(frame.f_locals[name]) for name in names if name in frame.f_locals and name not in known})
    leave_notes(frame, node, known)


def kept(value: Any) -> Any:
    """A value that came back from a server, as a trace here would have kept it."""
    if isinstance(value, Tensor) and not isinstance(value, Activation):
        return Activation.of(value, None)
    if type(value) is tuple:
        return Outputs(kept(item) for item in cast("tuple[Any, ...]", value))
    return [kept(item) for item in cast("list[Any]", value)] if type(value) is list else value


def check_names(reduced: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    """Refuse a block that needs this whole package, or another model, at the other end.

    Raises:
        TraceError: with what to do instead.
    """
    for name, value in {**reduced[1], **reduced[2]}.items():
        if isinstance(value, ModuleType) and value.__name__.partition(".")[0] == PACKAGE:
            raise TraceError(
                f"the block uses the module {name!r} ({value.__name__}), which is not on the server; make plans and "
                "vectors above the block, and name them in it: apply(plan, model)"
            )
        if isinstance(value, SteeringModel):
            raise TraceError(
                f"the block uses {name!r}, a SteeringModel, whose weights would have to be sent; use the "
                "LanguageModel whose trace this is"
            )


@contextmanager
def _written_for(layout: Layout) -> Generator[None]:
    """Pickle this package by value, and its plans for a model."""

    def plan(given: Any) -> Any:
        made = compiled(given, layout)
        return type(made), tuple(made)

    def vector(given: SteeringVector) -> Any:
        return dict, ({layer: given[layer] for layer in given.layers},)

    def condition(given: When) -> Any:
        return Condition, (given.direction(), given.layer, given.above, given.below, given.measure)

    reducers: dict[Any, Callable[[Any], Any]] = {Plan: plan, SteeringVector: vector, When: condition}
    reducers[functools.cached_property] = _cached
    reducers |= dict.fromkeys(_kinds(Intervention), plan)
    before = {kind: copyreg.dispatch_table.get(kind) for kind in reducers}
    copyreg.dispatch_table.update(reducers)
    module = sys.modules[PACKAGE]
    register_pickle_by_value(module)
    try:
        yield
    finally:
        unregister_pickle_by_value(module)
        for kind, reducer in before.items():
            if reducer is None:
                del copyreg.dispatch_table[kind]
            else:
                copyreg.dispatch_table[kind] = reducer


def _kinds(base: type) -> Iterator[type]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


def _cached(found: functools.cached_property[Any]) -> Any:
    return functools.cached_property, (found.func,), {"attrname": found.attrname}


def _rebuilt(kind: Any, state: dict[str, Any]) -> Any:
    """A descriptor from its parts; properties are not pickled by themselves."""
    found = kind.__new__(kind)
    found.__dict__.update(state)
    return found


def _handed_off(found: Any) -> Any:
    return _rebuilt, (type(found), dict(found.__dict__))


copyreg.pickle(Handoff, _handed_off)
copyreg.pickle(Site, _handed_off)
