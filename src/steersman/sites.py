"""Where an intervention acts: a component of the model, in which layers, and which heads or neurons of it.

======================  ==========================================================  ======================
component               what it is                                                  shape of one token
======================  ==========================================================  ======================
``resid_pre``           the residual stream entering block ``l``                    ``[d_model]``
``resid_mid``           after attention was added, before the MLP reads it          ``[d_model]``
``resid_post``          the residual stream leaving block ``l``                     ``[d_model]``
``attn_out``            what attention adds to the residual (after any post-norm    ``[d_model]``
                        or scale)
``mlp_out``             what the MLP adds to the residual                           ``[d_model]``
``z``                   per head, the input of attention's output projection        ``[n_heads, d_head]``
``mlp_post``            neurons: the input of the MLP's output projection           ``[d_mlp]``
======================  ==========================================================  ======================

``writers`` is shorthand for everything that writes the residual stream: ``resid_pre`` of block 0 (the embeddings)
and every ``attn_out`` and ``mlp_out``. Layers count decoder blocks from 0.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import InterventionError

COMPONENTS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "mlp_post")
RESIDUAL_WIDTH = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
WRITERS = "writers"

#: The order in which a block computes its components, used to say what comes before what.
FORWARD_ORDER = {"resid_pre": 0, "z": 1, "attn_out": 2, "resid_mid": 3, "mlp_post": 4, "mlp_out": 5, "resid_post": 6}

#: No decoder is deeper: a range that reaches further is a slip or an attack, and is not written out.
DEEPEST = 100_000

Indices = int | Iterable[int]

_RANGE = re.compile(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?")


def check_component(name: object, *, writers: bool = False) -> str:
    """Return ``name`` if it is a component, else raise :class:`InterventionError` listing those that are."""
    known = (*COMPONENTS, WRITERS) if writers else COMPONENTS
    if not isinstance(name, str) or name not in known:
        raise InterventionError(f"unknown site {name!r}; the sites are {', '.join(known)}")
    return name


def _indices(value: Indices, what: str) -> tuple[int, ...]:
    several = isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0
    items: tuple[object, ...] = tuple(value) if several else (value,)  # pyright: ignore[reportArgumentType]
    if not items:
        raise InterventionError(f"no {what} given; name at least one")
    checked: list[int] = []
    for item in items:
        try:
            checked.append(operator.index(item))  # pyright: ignore[reportArgumentType]
        except TypeError:
            raise InterventionError(f"{what} must be integers, got {item!r}") from None
        if isinstance(item, bool):
            raise InterventionError(f"{what} must be integers, got {item!r}")
    return tuple(dict.fromkeys(checked))


def layer_index(value: object, what: str) -> int:
    """``value`` as the index of one layer, counted from 0; :class:`InterventionError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InterventionError(f"{what}: layers are counted from 0, got {value!r}")
    return value


def layer_indices(value: str | Indices) -> tuple[int, ...] | None:
    """Normalise a choice of layers: an index, several, text such as ``"10-14"`` or ``"6,8,10"``, or ``"all"`` (None).

    A range includes both its ends. Negative indices count from the end and are resolved when the plan meets a model.
    """
    if isinstance(value, str):
        return None if value == "all" else tuple(dict.fromkeys(_written(value)))
    return _indices(value, "layers")


def _written(text: str) -> Iterable[int]:
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= DEEPEST:
            raise InterventionError(
                f'layers={text!r} is neither "all", an index, nor an inclusive range such as "10-14"'
            )
        yield from range(first, last + 1)


def layer_ranges(layers: Iterable[int]) -> str:
    """``(0, 1, 2, 5)`` as ``0-2, 5``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


@dataclass(frozen=True)
class Sites:
    """A choice of sites: one component in some layers, whole or some of its units.

    Attributes:
        component: one of the names in the table above.
        layers: block indices, or None for every layer.
        units: head indices for ``z``, neuron indices for ``mlp_post``, None for the whole component.
    """

    component: str
    layers: tuple[int, ...] | None = None
    units: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_component(self.component)
        if self.units is not None and self.component not in ("z", "mlp_post"):
            raise InterventionError(f"site {self.component!r} has no heads or neurons to choose from")


def site(component: str, layers: str | Indices = "all") -> Sites:
    """A whole component in the given layers, for example ``site("resid_mid", [3, 4])``."""
    return Sites(check_component(component), layer_indices(layers))


def heads(layers: str | Indices, heads: Indices | None = None) -> Sites:
    """Attention heads: ``heads(10, 5)``, ``heads(10, [1, 5])``, ``heads(10)`` (all of a layer), ``heads("all")``."""
    return Sites("z", layer_indices(layers), None if heads is None else _indices(heads, "heads"))


def neurons(layers: str | Indices, neurons: Indices | None = None) -> Sites:
    """MLP neurons: ``neurons(3, [7, 90])``; without indices, all of the layer's."""
    return Sites("mlp_post", layer_indices(layers), None if neurons is None else _indices(neurons, "neurons"))


def attention(layers: str | Indices = "all") -> Sites:
    """The whole contribution of attention: ``attn_out``."""
    return site("attn_out", layers)


def mlp(layers: str | Indices = "all") -> Sites:
    """The whole contribution of the MLP: ``mlp_out``."""
    return site("mlp_out", layers)


def block(layers: str | Indices) -> Sites:
    """``resid_post``: the residual stream after a block, not the block's own contribution."""
    return site("resid_post", layers)
