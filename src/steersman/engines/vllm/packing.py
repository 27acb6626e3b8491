"""A plan in the form that the engine's kernel computes: rank-one entries over shared rows.

At a place, what a plan does to a token is a list of entries, each a column of the affine normal form
``h + A (B^T h + c)`` that the operations give::

    h  <-  g h + a clip(r . h0 + c, low, high) w

``w`` and ``r`` are rows of one bank of vectors, shared by all layers and requests; ``h0`` is h as it was when the
entry's operation began (an operation of rank k reads h once and writes k times). ``g`` is 1 but where values are set
outright (1 - strength), and the bounds are infinite but for one-sided clamps. Strengths are folded into ``a``, so one
vector at many strengths, or in many requests, is one row.

A condition is decided in the pass that holds the last prompt token, by an entry that changes nothing and writes a gate;
entries above it that depend on it are multiplied by the gate. From the next pass on the answer is known, and what is
not to act is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...conditions import Strength, When
from ...errors import UnsupportedError
from ...model.hooks.program import acts_before
from ...operations import Action
from ...operations.maps import AffineMap, Drawing, OneSidedClamp, Setting, TurnInPlane, TurnTowards
from ...positions import Positions
from ...tensors import unit
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
    """One term of the sum; ``write`` and ``read`` are indices of the plan's rows, or :data:`NOTHING`.

    It acts if the gate numbered ``gate`` is open (gate 0 always is). One that ``decides`` a gate has no term: it opens
    that gate if ``r . h0`` (divided by the length of h0 if ``high`` is 1) is above ``shift``, where ``low`` is 1, or
    below it, where ``low`` is -1.
    """

    write: int
    read: int
    begins: bool
    gain: float
    factor: float
    shift: float
    low: float
    high: float
    gate: int = 0
    decides: int = 0


class Condition(NamedTuple):
    """A condition: what is read at the last prompt token, and where; ``row`` is an index of the plan's rows."""

    place: Place
    row: int
    threshold: float
    above: bool
    cosine: bool

    def deciding(self, gate: int) -> Entry:
        """The entry that decides it."""
        bounds = (1.0 if self.above else -1.0, float(self.cosine))
        return Entry(NOTHING, self.row, True, 1.0, 0.0, self.threshold, *bounds, decides=gate)


@dataclass(frozen=True)
class Rule:
    """Which tokens actions act on, how strongly, which row of values each token gets, and under which condition.

    ``rows`` is None for one row for all tokens, else ``("rank" | "position", n)`` or ``("draw", drawing)``; ``when`` is
    an index of the plan's conditions.
    """

    positions: Positions
    strength: Strength
    rows: tuple[str, Any] | None
    when: int | None = None


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
    """A plan on one model: its rules, its actions in order, the rows they use, float32 ``[d_model]`` each, and its
    conditions."""

    rules: tuple[Rule, ...]
    items: tuple[Item, ...]
    rows: tuple[Tensor, ...]
    conditions: tuple[Condition, ...] = ()

    @cached_property
    def rank(self) -> int:
        """The most entries that any place may have."""
        counts: dict[Place, int] = {}
        for item in self.items:
            counts[item.place] = counts.get(item.place, 0) + (1 if item.sets else len(item.terms))
        for condition in self.conditions:
            counts[condition.place] = counts.get(condition.place, 0) + 1
        return max(counts.values(), default=0)

    def where_open(self, states: States, gates: Sequence[bool]) -> States:
        """States without those of rules whose condition does not hold."""
        return tuple(
            None if rule.when is not None and not gates[rule.when] else state
            for rule, state in zip(self.rules, states, strict=True)
        )

    def program(self, states: States, gates: Sequence[int] = ()) -> dict[Place, list[Entry]]:
        """The entries at each place for tokens in these states of the rules.

        Args:
            gates: the numbers of the gates of its conditions, for the token at which they are decided.
        """
        found: dict[Place, list[Entry]] = {}
        for condition, gate in zip(self.conditions, gates, strict=False):
            found.setdefault(condition.place, []).append(condition.deciding(gate))
        for item in self.items:
            state = states[item.rule]
            if state is None:
                continue
            if item.sets:
                row = item.first if item.first == NOTHING else item.first + state.row
                terms: Sequence[Entry] = (Entry(row, NOTHING, True, 1 - state.strength, state.strength, 1.0, *_OPEN),)
            else:
                terms = [term._replace(factor=term.factor * state.strength) for term in item.terms]
            when = self.rules[item.rule].when
            if gates and when is not None:
                terms = [term._replace(gate=gates[when]) for term in terms]
            found.setdefault(item.place, []).extend(terms)
        return found


_OPEN = (-math.inf, math.inf)


def pack(actions: Sequence[Action]) -> Packed:
    """Bring the actions of a plan into the engine's form.

    Raises:
        UnsupportedError: one of them is no such sum, or has a condition that is not known when it acts; the message
            names it and says why.
    """
    rows = _Rows()
    rules: dict[Rule, int] = {}
    conditions: dict[Condition, int] = {}
    placed: list[tuple[tuple[int, int], int, Item]] = []
    for action in actions:
        _check(action, actions)
        place, order = place_of(action.component, action.layer)
        when = None
        if action.when is not None:
            when = conditions.setdefault(_condition(action.when, rows), len(conditions))
        rule = Rule(action.positions, action.strength, _rows_rule(action), when)
        number = rules.setdefault(rule, len(rules))
        placed.append((forward_order(place), order, _item(action, place, number, rows)))
    placed.sort(key=lambda each: each[:2])  # stable: a plan's order is its order of application
    return Packed(tuple(rules), tuple(item for *_, item in placed), tuple(rows.tensors), tuple(conditions))


def _condition(when: When, rows: _Rows) -> Condition:
    row = rows.add(unit(when.direction(), "the direction of When()"))
    threshold = when.above if when.above is not None else when.below
    assert threshold is not None
    place = place_of("resid_post", when.layer)[0]
    return Condition(place, row, threshold, when.above is not None, when.measure == "cosine")


def _check(action: Action, actions: Sequence[Action]) -> None:
    reason = None
    if action.when is not None and action.positions.before_last:
        reason = (
            "it has a condition, which is decided at the last prompt token, and may act on prompt tokens before that, "
            "which vLLM may have run in an earlier step. Name positions from the last prompt token on"
        )
    elif action.when is not None and acts_before(actions, action.when):
        reason = (
            f"its condition is read after layer {action.when.layer}, and the plan acts in the prompt at or below that "
            "layer, so that it would take a clean pass over the prompt first. Read the condition at a lower layer"
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
