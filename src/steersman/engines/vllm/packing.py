"""A plan in the form that the engine's kernel computes: rank-one entries over shared rows.

At a place, what a plan does to a token is a list of entries, each a column of the affine normal form
``h + A (B^T h + c)`` that the operations give::

    h  <-  g h + a clip(r . h0 + c, low, high) w

``w`` and ``r`` are rows of one bank of vectors, shared by all layers and requests; ``h0`` is h as it was when the
entry's operation began (an operation of rank k reads h once and writes k times). ``g`` is 1 but where values are set
outright (1 - strength), and the bounds are infinite but for one-sided clamps. Strengths are folded into ``a``, so one
vector at many strengths, or in many requests, is one row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...conditions import Strength
from ...errors import UnsupportedError
from ...operations import Action
from ...operations.maps import AffineMap, Drawing, OneSidedClamp, Setting, TurnInPlane, TurnTowards
from ...positions import Positions
from .places import Place, forward_order, place_of

#: The row that is zero: read by what reads nothing.
NOTHING = -1


class State(NamedTuple):
    """What a rule does at a token: its strength there, and which of several rows of values it sets."""

    strength: float
    row: int


#: For each rule of a plan, its state, or None where it does not act.
States = tuple[State | None, ...]


class Entry(NamedTuple):
    """One term of the sum; ``write`` and ``read`` are indices of the plan's rows, or :data:`NOTHING`."""

    write: int
    read: int
    begins: bool
    gain: float
    factor: float
    shift: float
    low: float
    high: float


@dataclass(frozen=True)
class Rule:
    """Which tokens actions act on, how strongly, and which row of values each token gets.

    ``rows`` is None for one row for all tokens, else ``("rank" | "position", n)`` or ``("draw", drawing)``.
    """

    positions: Positions
    strength: Strength
    rows: tuple[str, Any] | None


@dataclass(frozen=True)
class Item:
    """One action at its place: terms for strength 1, and the rule that says where it acts.

    ``terms`` are entries whose ``factor`` is to be multiplied by the strength; ``sets`` marks a setting, of which row
    ``State.row`` of those that begin at ``first`` is written.
    """

    place: Place
    rule: int
    terms: tuple[Entry, ...]
    sets: bool = False
    first: int = NOTHING


@dataclass(frozen=True, eq=False)
class Packed:
    """A plan on one model: its rules, its actions in order, and the rows they use, float32 ``[d_model]`` each."""

    rules: tuple[Rule, ...]
    items: tuple[Item, ...]
    rows: tuple[Tensor, ...]

    @property
    def rank(self) -> int:
        """The most entries that any place may have."""
        counts: dict[Place, int] = {}
        for item in self.items:
            counts[item.place] = counts.get(item.place, 0) + (1 if item.sets else len(item.terms))
        return max(counts.values(), default=0)

    def program(self, states: States) -> dict[Place, list[Entry]]:
        """The entries at each place for tokens in these states of the rules."""
        found: dict[Place, list[Entry]] = {}
        for item in self.items:
            state = states[item.rule]
            if state is None:
                continue
            if item.sets:
                row = item.first if item.first == NOTHING else item.first + state.row
                terms: Sequence[Entry] = (Entry(row, NOTHING, True, 1 - state.strength, state.strength, 1.0, *_OPEN),)
            else:
                terms = [term._replace(factor=term.factor * state.strength) for term in item.terms]
            found.setdefault(item.place, []).extend(terms)
        return found


_OPEN = (-math.inf, math.inf)


def pack(actions: Sequence[Action]) -> Packed:
    """Bring the actions of a plan into the engine's form.

    Raises:
        UnsupportedError: one of them is no such sum, or has a condition; the message names it and says why.
    """
    rows = _Rows()
    rules: dict[Rule, int] = {}
    placed: list[tuple[tuple[int, int], int, Item]] = []
    for action in actions:
        _check(action)
        place, order = place_of(action.component, action.layer)
        rule = Rule(action.positions, action.strength, _rows_rule(action))
        number = rules.setdefault(rule, len(rules))
        placed.append((forward_order(place), order, _item(action, place, number, rows)))
    placed.sort(key=lambda each: each[:2])  # stable: a plan's order is its order of application
    return Packed(tuple(rules), tuple(item for *_, item in placed), tuple(rows.tensors))


def _check(action: Action) -> None:
    reason = None
    if action.when is not None:
        reason = (
            "it has a condition, which is read in the middle of a forward pass and then held; in this engine a token's "
            "steering is fixed before the pass begins. Decide in the client, or use the hook engine"
        )
    elif isinstance(action.map, TurnTowards | TurnInPlane):
        reason = "a rotation keeps the norm and is no affine map, which is all that this engine computes"
    elif not isinstance(action.map, AffineMap | OneSidedClamp | Setting | Drawing):
        reason = "it is a function, and a request can carry data only"
    if reason is not None:
        raise UnsupportedError(f"{action.source} cannot be steered by vLLM: {reason}")


def _rows_rule(action: Action) -> tuple[str, Any] | None:
    if isinstance(action.map, Drawing) and len(action.map.reference) > 1:
        return "draw", action.map.draw
    if isinstance(action.map, Setting) and len(action.map.values) > 1:
        return action.map.by, len(action.map.values)
    return None


def _item(action: Action, place: Place, rule: int, rows: _Rows) -> Item:
    operation = action.map
    if isinstance(operation, Setting | Drawing):
        values = operation.values if isinstance(operation, Setting) else operation.reference
        first = NOTHING if len(values) == 1 and not values.any() else rows.block(values)
        return Item(place, rule, (), True, first)
    if isinstance(operation, OneSidedClamp):
        row = rows.add(operation.direction)
        bounds = (-math.inf, 0.0) if operation.raises else (0.0, math.inf)
        # h + (value - r.h) r where that is positive (or negative) = h - clip(r.h - value) r
        return Item(place, rule, (Entry(row, row, True, 1.0, -1.0, -operation.value, *bounds),))
    assert isinstance(operation, AffineMap)
    if operation.read is None:
        return Item(place, rule, (Entry(rows.add(operation.offset), NOTHING, True, 1.0, 1.0, 1.0, *_OPEN),))
    terms: list[Entry] = []
    for column in range(operation.rank):
        write, read, shift = operation.write[:, column], operation.read[:, column], float(operation.shift[column])
        begins = column == 0
        if torch.equal(write, -read):  # projections: one row serves both
            row = rows.add(read)
            terms.append(Entry(row, row, begins, 1.0, -1.0, shift, *_OPEN))
        else:
            terms.append(Entry(rows.add(write), rows.add(read), begins, 1.0, 1.0, shift, *_OPEN))
    return Item(place, rule, tuple(terms))


class _Rows:
    """The rows of a plan, equal ones once."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self._known: dict[bytes, int] = {}

    def add(self, vector: Tensor) -> int:
        vector = vector.detach().to("cpu", torch.float32).contiguous()
        key = vector.numpy().tobytes()
        if key not in self._known:
            self._known[key] = len(self.tensors)
            self.tensors.append(vector)
        return self._known[key]

    def block(self, values: Tensor) -> int:
        """Consecutive rows, even if some are known: a token's row is found by counting from the first."""
        if len(values) == 1:
            return self.add(values[0])
        first = len(self.tensors)
        self.tensors.extend(values.detach().to("cpu", torch.float32).contiguous().unbind(0))
        return first
