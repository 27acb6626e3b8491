"""The check that an engine makes of itself before it serves: a steered dummy step.

Each token of the step is steered at a place of its own. Then

- strength 0 at every place changes no bit of the output;
- an addition at any place changes the output of its own token;
- what is added to ``attn_out`` has the effect of the same at ``resid_mid``, and ``mlp_out`` that of ``resid_post``:
  the equations that say where these places are.

A compiled graph without the op, a wrong module, or a wrong scale fails here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...errors import ArchitectureError
from ...positions import ALL
from .packing import NOTHING, Entry, Item, Packed, Rule, State
from .places import Place
from .seams import OFF
from .tables import Program, Tables

#: Given nothing, run a dummy step of that many tokens and return its output ``[tokens, width]``.
Run = Callable[[], Tensor]

#: By how much effects that should be equal may differ, of their length: rounding of bf16 and of quantised weights.
APART = 0.2

_SAME = {"attn_out": "resid_mid", "mlp_out": "resid_post"}


def self_check(tables: Tables, run: Run, tokens: int) -> None:
    """Check every place that a rank has.

    Args:
        run: runs a dummy step under what the tables say; its first ``tokens`` rows of output are looked at.

    Raises:
        ArchitectureError: an equation does not hold; the message says which, where, and by how much.
    """
    try:
        _check(tables, run, tokens)
    finally:
        tables.steer([])
        tables.forget()


def _check(tables: Tables, run: Run, tokens: int) -> None:
    places = list(tables.places)
    base = _run(run, tokens)
    vectors = 4.0 * torch.randn(tokens, tables.bank.shape[1], generator=torch.Generator().manual_seed(0))
    for first in range(0, len(places), tokens):
        chunk = places[first : first + tokens]
        nothing = _steered(tables, run, chunk, vectors, 0.0, tokens)
        if not torch.equal(nothing[: len(chunk)], base[: len(chunk)]):
            raise _failed("steering at strength 0 changes the output, so a dummy step is not repeatable")
        effects = _steered(tables, run, chunk, vectors, 1.0, tokens) - base
        for place, effect in zip(chunk, effects, strict=False):
            if not bool(effect.any()) or not bool(effect.isfinite().all()):
                raise _failed(f"a vector added at {_name(place)} does not reach the output")
        partners = [_partner(place, tables) for place in chunk]
        others = _steered(
            tables, run, [p or place for p, place in zip(partners, chunk, strict=True)], vectors, 1.0, tokens
        )
        for place, partner, effect, other in zip(chunk, partners, effects, others - base, strict=False):
            apart = float((effect - other).norm() / other.norm())
            if partner is not None and not apart <= APART:
                raise _failed(
                    f"a vector added at {_name(place)} should do what it does at {_name(partner)}, but the effects "
                    f"differ by {apart:.0%}"
                )


def _partner(place: Place, tables: Tables) -> Place | None:
    partner = (_SAME.get(place[0], ""), place[1])
    return partner if partner in tables.places else None


def _steered(
    tables: Tables, run: Run, places: Sequence[Place], vectors: Tensor, strength: float, tokens: int
) -> Tensor:
    """The output when token i has vector i added at place i."""
    rule = (Rule(ALL, 1.0, None),)
    term = (Entry(0, NOTHING, True, 1.0, 1.0, 1.0, -math.inf, math.inf),)
    found: list[Tensor] = []
    group = min(tables.capacity.slots, tables.capacity.rows)
    out = torch.zeros(0)
    for first in range(0, len(places), group):
        some = places[first : first + group]
        packed = {
            f"check {first + i}": Program(
                Packed(rule, (Item(place, 0, term),), (vectors[first + i],)), (State(strength, 0),)
            )
            for i, place in enumerate(some)
        }
        slots = tables.slots_for(packed)
        tables.steer([(first + i, first + i + 1, slots[f"check {first + i}"]) for i in range(len(some))])
        out = _run(run, tokens)
        found.append(out[first : first + len(some)])
        tables.steer([])
        tables.forget()
    return torch.cat([*found, out[len(places) :]])


def _run(run: Run, tokens: int) -> Tensor:
    return run()[:tokens].to("cpu", torch.float32).clone()


def _name(place: Place) -> str:
    return f"{place[0]} of block {place[1]}"


def _failed(why: str) -> ArchitectureError:
    return ArchitectureError(f"the engine's check of its own steering failed: {why}. It does not start; {OFF}")
