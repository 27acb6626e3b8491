"""What a plan asks of weights: an affine map of each thing that is written to the residual stream, or read for it.

Weights act on every token, always and equally strongly, so only actions at positions ``all``, without condition or
schedule, can live in them; and only affine ones. Where they act decides the rest:

======================================  ===============================================================================
``attn_out``, ``mlp_out``,              any affine map: what is written is linear in a matrix and a bias
``resid_pre`` of block 0
``z``, ``mlp_post``                     any affine map: the matrix that reads them takes it up
``resid_mid``, ``resid_post``,          an addition, as a bias of what writes last; a map only where nothing is left
other ``resid_pre``                     to do: everything written before went through it already
======================================  ===============================================================================

A map of the stream itself is not a map of the weights: the blocks below read the stream unmapped, and those matrices
would have to be two things at once. Directional ablation at every writer is the exception that proves useful: all that
is ever written lies in the remaining space, so the stream does, too (Arditi et al. 2024, arXiv:2406.11717).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...conditions import Schedule
from ...errors import SteersmanError, UnsupportedError
from ...operations import Action
from ...operations.maps import AffineMap, Calling, Drawing, OneSidedClamp, Setting, TurnInPlane, TurnTowards, moved
from ...plan import Plan, PlanLike
from ...shape import ModelShape
from ...sites import FORWARD_ORDER

Site = tuple[str, int]
EMBEDDINGS: Site = ("resid_pre", 0)
#: A map leaves nothing to do at a later site if what it would change is smaller than this, in units of its own size.
_NOTHING = 1e-5

_KEEP = "or keep it as an edit: model.edit(plan).save_pretrained(...)"
_NOT_AFFINE: dict[type, str] = {
    TurnTowards: "a rotation depends on the norm of each activation, so it is no affine map",
    TurnInPlane: "a rotation depends on the norm of each activation, so it is no affine map",
    OneSidedClamp: 'a one-sided clamp acts on some activations only, so it is no affine map; use side="both"',
    Setting: "its values differ from token to token, and a bias is the same at all; give one row",
    Drawing: "it draws another value for each prompt, and weights are the same for all; use Mean() or Zero()",
    Calling: "it is a function, and weights hold none; use one of the other operations",
}


@dataclass(frozen=True)
class Offset:
    """Something added to the residual stream, and the writers that can carry it, in order of preference."""

    carriers: tuple[Site, ...]
    value: Tensor
    source: str


@dataclass(frozen=True)
class Placement:
    """A plan as maps of what is written and read, in float64.

    Attributes:
        maps: for ``z``, ``mlp_post``, ``attn_out``, ``mlp_out`` and the embeddings: the map of their value.
        offsets: what is added to the stream afterwards.
        sources: for each site in ``maps``, the interventions that made it, for messages.
    """

    maps: dict[Site, AffineMap] = field(default_factory=dict[Site, AffineMap])
    offsets: list[Offset] = field(default_factory=list[Offset])
    sources: dict[Site, list[str]] = field(default_factory=dict[Site, list[str]])

    @property
    def writers(self) -> list[Site]:
        """The writers whose value a map changes."""
        return [site for site in self.maps if site[0] not in ("z", "mlp_post")]


def why_not(plan: PlanLike, shape: ModelShape) -> str | None:
    """Why no weights of a model of this shape can do what a plan does; None if some can.

    What it takes beside the shape, a bias to put an addition in or a matrix with no norm after it, is asked when the
    plan is baked.
    """
    try:
        place(plan, shape)
    except SteersmanError as error:
        return str(error)
    return None


def place(plan: PlanLike, shape: ModelShape) -> Placement:
    """Resolve a plan into maps of what is written and read.

    Raises:
        UnsupportedError: an intervention is no affine map of the weights; says which, why, and what can be done.
        MismatchError: it does not fit the model.
    """
    placed = Placement()
    actions = Plan.of(plan).actions(shape)
    for action in sorted(actions, key=_forward):
        operation = _affine(action, shape)
        site = _same_stream((action.component, action.layer))
        if site[0] in ("z", "mlp_post", "attn_out", "mlp_out") or site == EMBEDDINGS:
            own = placed.maps.get(site)
            placed.maps[site] = operation if own is None else own.then(operation)
            placed.sources.setdefault(site, []).append(action.source)
        elif operation.read is None:
            placed.offsets.append(Offset(_carriers(site, shape), operation.offset, action.source))
        elif not _redundant(operation, site, placed, shape):
            raise UnsupportedError(
                f"{action.source} at {action.component} of layer {action.layer} cannot be baked: the blocks below read "
                "the stream as it is before it, so no weights do this. Exact are additions anywhere, maps of attn_out, "
                "mlp_out, heads and neurons, and one direction ablated at all writers; use Ablate(direction) without "
                f"layers= if that is meant, {_KEEP}"
            )
    return placed


def _forward(action: Action) -> tuple[int, int]:
    return action.layer, FORWARD_ORDER[action.component]


def _affine(action: Action, shape: ModelShape) -> AffineMap:
    """The change of an action as one affine map in float64, its strength in it."""
    what = f"{action.source} cannot be baked: "
    if action.when is not None:
        raise UnsupportedError(f"{what}it has a condition, and weights act always; leave when= out, {_KEEP}")
    if isinstance(action.strength, Schedule):
        raise UnsupportedError(f"{what}its strength follows a schedule, and weights have one; give one number, {_KEEP}")
    if not action.positions.everywhere:
        raise UnsupportedError(
            f"{what}it acts at positions {action.positions}, and weights act at every token; "
            f'use positions="all" if that is meant, {_KEEP}'
        )
    operation = action.map.affine
    if operation is None:
        raise UnsupportedError(f"{what}{_NOT_AFFINE.get(type(action.map), 'it is no affine map')}, {_KEEP}")
    return moved(operation, torch.device("cpu"), torch.float64).scaled(action.strength)


def _same_stream(site: Site) -> Site:
    """What enters a block is what left the one before."""
    component, layer = site
    return ("resid_post", layer - 1) if component == "resid_pre" and layer > 0 else site


def _carriers(site: Site, shape: ModelShape) -> tuple[Site, ...]:
    """The writers that write last before a site of the stream, so that an addition of theirs is one to it."""
    component, layer = site
    if component == "resid_mid":
        return (("attn_out", layer),)
    writers: list[Site] = [("mlp_out", layer)]
    if ("resid_mid", layer) in shape.unavailable:  # side by side: both write to the same place
        writers.append(("attn_out", layer))
    found = tuple(writer for writer in writers if writer not in shape.unavailable)
    if not found:
        raise UnsupportedError(
            f"an addition to {component} of layer {layer} cannot be baked: {shape.unavailable[writers[0]]}; {_KEEP[3:]}"
        )
    return found


def _redundant(operation: AffineMap, site: Site, placed: Placement, shape: ModelShape) -> bool:
    """Whether a map of the stream changes nothing, since all that was written before left it nothing to do."""
    assert operation.read is not None
    read = operation.read
    size = float(read.norm())
    left = operation.shift.clone()
    for writer in _before(site, shape):
        own = placed.maps.get(writer)
        if own is None or own.read is None:
            return False
        if float((read + own.read @ (own.write.T @ read)).norm()) > _NOTHING * size:
            return False
        left = left + read.T @ own.offset
    for offset in placed.offsets:
        left = left + read.T @ offset.value
    return float(left.norm()) <= _NOTHING * size


def _before(site: Site, shape: ModelShape) -> list[Site]:
    component, layer = site
    writers = [EMBEDDINGS]
    for index in range(layer + 1):
        writers.append(("attn_out", index))
        if (index, component) != (layer, "resid_mid"):
            writers.append(("mlp_out", index))
    return writers
