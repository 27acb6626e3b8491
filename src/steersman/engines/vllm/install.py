"""Finding the places of a loaded vLLM model, and putting the steering op there.

A module at a place gets a subclass of its own class that calls the op before or after the original ``forward``; no
file and no weight of vLLM is touched. What the op reads are buffers of the module, so they enter a compiled graph as
inputs, equal for all layers, and are never folded into it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ...errors import ArchitectureError
from ...model.architecture.architecture import number, submodule
from ...model.architecture.families import Family
from ...shape import ModelShape
from .places import Place, places
from .reading import Readings, read
from .tables import Tables

#: Names of lists of decoder blocks.
_LISTS = ("layers", "h", "blocks")
_HIDDEN = ("hidden_states", "x", "hidden")


@dataclass(frozen=True, eq=False)
class Spot:
    """Where a place is: a module, before or after it.

    Attributes:
        scale: the site's value is ``scale`` times the tensor there.
        stream: whether it is the residual stream, of which a second tensor may hold a part.
    """

    place: Place
    module: nn.Module
    side: str
    scale: float
    stream: bool


def blocks_of(model: nn.Module, n_layers: int) -> list[nn.Module]:
    """The decoder blocks of a vLLM model, all of them; those of other pipeline stages are placeholders.

    Raises:
        ArchitectureError: there is no such list, or more than one.
    """
    root: Any = model.get_language_model() if hasattr(model, "get_language_model") else model  # pyright: ignore[reportCallIssue]
    found = {
        name: module
        for name, module in root.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers and name.rpartition(".")[2] in _LISTS
    }
    if len(found) != 1:
        raise ArchitectureError(
            f"{type(model).__name__} has {len(found)} lists of {n_layers} decoder blocks "
            f"({', '.join(found) or 'none'}); exactly one is needed to know where to steer"
        )
    return list(cast(nn.ModuleList, next(iter(found.values()))))  # pyright: ignore[reportUnnecessaryCast]


def is_own(block: nn.Module) -> bool:
    """Whether a block is on this rank, and not a placeholder for one of another pipeline stage."""
    return type(block).__name__ != "PPMissingLayer"


def spots(blocks: Sequence[nn.Module], shape: ModelShape, layout: Family | None) -> list[Spot]:
    """The places of this rank, in forward order.

    Raises:
        ArchitectureError: a block lacks a module that its family has.
    """
    found: list[Spot] = []
    for component, layer in places(shape):
        block = blocks[layer]
        if is_own(block):
            found.append(_spot((component, layer), block, layout))
    return found


def _spot(place: Place, block: nn.Module, layout: Family | None) -> Spot:
    component = place[0]
    if component in ("resid_pre", "resid_post"):
        return Spot(place, block, "input" if component == "resid_pre" else "output", 1.0, True)
    assert layout is not None
    path, side = {
        "attn_out": (layout.attention_out or layout.attention, "output"),
        "mlp_out": (layout.mlp_out or layout.mlp, "output"),
        "resid_mid": (layout.middle or "", "input"),
    }[component]
    module = submodule(block, path)
    if module is None:
        raise ArchitectureError(
            f"{type(block).__name__} has no module {path!r}, where {component!r} should be; set "
            "STEERSMAN_SITES=resid_post to steer between blocks only, or STEERSMAN_VLLM=off"
        )
    scale = number(block, layout.scale) if layout.scale and component != "resid_mid" else 1.0
    return Spot(place, module, side, scale, component == "resid_mid")


def install(found: Sequence[Spot], tables: Tables, readings: Readings | None) -> None:
    """Put the op at every spot that the tables have, and the one that reads at every spot that is read."""
    sides: dict[nn.Module, list[_Side]] = {}
    for spot in found:
        steers, reads = spot.place in tables.places, readings is not None and spot.place in readings.stores
        buffers: dict[str, Tensor] = {}
        if steers:
            tables.scales[spot.place] = spot.scale
            at = tables.places[spot.place]
            own = {"bank": tables.bank, "entries": tables.entries[at], "factors": tables.factors[at]}
            buffers |= own | {"tokens": tables.tokens, "gates": tables.gates}
            buffers |= {"work": tables.work[at], "index": tables.index}
            setattr(spot.module, f"steersman_{spot.side}_busy", partial(tables.busy.__getitem__, at))
        if readings is not None and reads:
            readings.scales[spot.place] = spot.scale
            buffers |= {"store": readings.stores[spot.place], "wanted": readings.wanted}
        for key, tensor in buffers.items():
            spot.module.register_buffer(f"steersman_{spot.side}_{key}", tensor, persistent=False)
        if buffers:
            sides.setdefault(spot.module, []).append(_Side(spot.side, spot.stream, steers, reads))
    for module, own_sides in sides.items():
        module.__class__ = _steered(type(module), tuple(own_sides))


class _Side(NamedTuple):
    """What is done on one side of a module."""

    name: str
    stream: bool
    steers: bool
    reads: bool


_CLASSES: dict[tuple[type, tuple[_Side, ...]], type] = {}


def _steered(base: Any, sides: tuple[_Side, ...]) -> type:
    """The subclass of a module's class that steers on these sides; one for all modules that are alike."""
    if (base, sides) not in _CLASSES:
        named = {side.name: side for side in sides}
        before, after = named.get("input"), named.get("output")
        where = _arguments(base.forward) if before is not None else None

        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if before is not None and where is not None:
                _before(self, before, args, kwargs, where)
            output = base.forward(self, *args, **kwargs)
            if after is not None:
                _after(self, after, output)
            return output

        _CLASSES[base, sides] = type(f"Steered{base.__name__}", (base,), {"forward": forward})
    return _CLASSES[base, sides]


def _arguments(forward: Callable[..., Any]) -> tuple[int, str, int, str]:
    """Where a forward takes the hidden states and the residual: position and name of each (-1: not at all)."""
    names = [name for name in inspect.signature(forward).parameters if name != "self"]
    hidden = next((name for name in _HIDDEN if name in names), names[0])
    residual = "residual" if "residual" in names else ""
    return names.index(hidden), hidden, names.index(residual) if residual else -1, residual


def _before(
    module: Any, side: _Side, args: tuple[Any, ...], kwargs: dict[str, Any], where: tuple[int, str, int, str]
) -> None:
    at, name, beside, residual_name = where
    hidden = args[at] if len(args) > at else kwargs[name]
    residual = None
    if beside >= 0:
        residual = args[beside] if len(args) > beside else kwargs.get(residual_name)
    if side.steers and (torch.compiler.is_compiling() or module.steersman_input_busy()):
        torch.ops.steersman.steer(
            hidden,
            residual,
            module.steersman_input_bank,
            module.steersman_input_entries,
            module.steersman_input_factors,
            module.steersman_input_tokens,
            module.steersman_input_gates,
            module.steersman_input_work,
            module.steersman_input_index,
        )
    if side.reads:
        torch.ops.steersman.read(hidden, residual, module.steersman_input_store, module.steersman_input_wanted)


def _after(module: Any, side: _Side, output: Any) -> None:
    hidden, residual = output, None
    if not isinstance(output, Tensor):
        if not (isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], Tensor)):
            raise ArchitectureError(
                f"{type(module).__name__} does not return its output, or its output and the residual stream; this "
                "model cannot be steered in vLLM yet. Set STEERSMAN_VLLM=off to run it unsteered"
            )
        hidden = output[0]
        residual = output[1] if side.stream else None
    if side.steers and (torch.compiler.is_compiling() or module.steersman_output_busy()):
        torch.ops.steersman.steer(
            hidden,
            residual,
            module.steersman_output_bank,
            module.steersman_output_entries,
            module.steersman_output_factors,
            module.steersman_output_tokens,
            module.steersman_output_gates,
            module.steersman_output_work,
            module.steersman_output_index,
        )
    if side.reads:
        torch.ops.steersman.read(hidden, residual, module.steersman_output_store, module.steersman_output_wanted)


def register_ops(register: Callable[..., None], library: Any) -> None:
    """Make ``torch.ops.steersman.steer`` and ``read``, once in a process, through vLLM's own way of registering."""
    if hasattr(torch.ops.steersman, "steer"):
        return
    from .kernel import steer

    arguments = ("hidden", "residual", "bank", "entries", "factors", "tokens", "gates", "work", "index")
    typed = {
        "steer": (_typed(steer, arguments), ["hidden", "gates"]),
        "read": (_typed(read, ("hidden", "residual", "store", "wanted")), ["store"]),
    }
    for name, (function, written) in typed.items():
        register(name, function, mutates_args=written, fake_impl=_nothing, target_lib=library)


def _typed(function: Callable[..., None], names: Sequence[str]) -> Callable[..., None]:
    """The same function with annotations that are types and not text, as torch's schema inference wants them."""

    def call(*args: Any) -> None:
        function(*args)

    hints: dict[str, Any] = {name: Tensor | None if name == "residual" else Tensor for name in names}
    call.__annotations__ = {**hints, "return": None}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation=hint) for name, hint in hints.items()]
    setattr(call, "__signature__", inspect.Signature(parameters, return_annotation=None))  # noqa: B010
    return call


def _nothing(*args: Any) -> None:
    """What the op does on fake tensors."""
