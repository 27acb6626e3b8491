"""Which tokens of one request are steered how: disjoint runs of absolute positions, each with one program.

Positions are absolute and counted against the prompt as it was given, so chunks, preemption and recomputation do not
move them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...conditions import Schedule
from ...errors import MismatchError, NotAppliedError, UnsupportedError
from ...positions import ENDLESS, MarkerEnd, Positions, select
from .packing import Packed, Rule, State, States

#: More runs than this are refused: each costs a few bytes in every message about its request.
MOST = 1 << 14


class Segment(NamedTuple):
    """The tokens at absolute positions ``[start, stop)``, and which program acts on them."""

    start: int
    stop: int
    program: int


@dataclass(frozen=True)
class Steering:
    """How one request is steered: disjoint ascending segments, and the programs they name.

    Conditions are decided at the token ``last``, the last of the prompt.
    """

    segments: tuple[Segment, ...]
    programs: tuple[States, ...]
    last: int = 0

    def overlapping(self, start: int, stop: int) -> Iterable[Segment]:
        """The segments that meet ``[start, stop)``, clipped to it."""
        first = max(bisect_right(self.segments, (start,)) - 1, 0)
        for segment in self.segments[first:]:
            if segment.start >= stop:
                return
            if segment.stop > start:
                yield Segment(max(segment.start, start), min(segment.stop, stop), segment.program)

    def plain(self) -> dict[str, Any]:
        """As JSON-able lists."""
        programs = [[None if state is None else list(state) for state in states] for states in self.programs]
        return {"segments": [list(segment) for segment in self.segments], "programs": programs, "last": self.last}

    @classmethod
    def from_plain(cls, document: dict[str, Any]) -> Steering:
        """The inverse of :meth:`plain`."""
        programs = tuple(
            tuple(None if state is None else State(state[0], state[1]) for state in states)
            for states in document["programs"]
        )
        return cls(tuple(Segment(*segment) for segment in document["segments"]), programs, document["last"])


def resolve(
    packed: Packed, prompt_length: int, new_tokens: int, prompt: Sequence[int] | None, marker_end: MarkerEnd
) -> Steering:
    """The segments of a request.

    Args:
        packed: its plan.
        prompt_length, new_tokens: how many tokens it has and may generate; the last one is never fed back.
        prompt: its token ids, if known.
        marker_end: finds a text in the prompt.

    Raises:
        NotAppliedError: positions that select no token of the prompt, or begin after the generation's end.
        MismatchError: values given per token that are not as many as the tokens selected.
        UnsupportedError: the positions fall into more than :data:`MOST` runs.
    """
    end = prompt_length + max(new_tokens, 1) - 1
    spans = {rule.positions: rule.positions.resolve(prompt_length, marker_end) for rule in packed.rules}
    chosen: list[_Chosen] = []
    for rule in packed.rules:
        own = spans[rule.positions]
        _check_reach(rule.positions, prompt_length, new_tokens, end)
        chosen.append(_Chosen(rule, own, prompt_length, end, prompt))
    edges = sorted({edge for each in chosen for edge in each.edges()})
    if len(edges) > MOST:
        raise UnsupportedError(
            f"these positions fall into {len(edges)} runs of tokens that are steered differently, and {MOST} is the "
            "most that a request may carry; use fewer steps or wider slices"
        )
    return _joined(edges, chosen, prompt_length - 1)


def _joined(edges: list[int], chosen: list[_Chosen], last: int) -> Steering:
    if not edges:
        return Steering((), (), last)
    programs: dict[States, int] = {}
    segments: list[Segment] = []
    for start, stop in zip(edges, [*edges[1:], ENDLESS], strict=True):
        states = tuple(each.at(start) for each in chosen)
        if not any(states):
            continue
        number = programs.setdefault(states, len(programs))
        if segments and segments[-1].stop == start and segments[-1].program == number:
            segments[-1] = Segment(segments[-1].start, stop, number)
        else:
            segments.append(Segment(start, stop, number))
    return Steering(tuple(segments), tuple(programs), last)


class _Chosen:
    """One rule on one request."""

    def __init__(
        self, rule: Rule, spans: tuple[range, ...], prompt_length: int, end: int, prompt: Sequence[int] | None
    ) -> None:
        self.rule = rule
        self.spans = spans
        self.first_step = prompt_length - 1  # entry 0 of a schedule
        self.end = end
        self.row = 0
        self.places: dict[int, int] | None = None  # position -> rank, where each token has values of its own
        if rule.rows is not None:
            self._find_rows(*rule.rows, prompt)

    def _find_rows(self, kind: str, what: Any, prompt: Sequence[int] | None) -> None:
        if kind == "draw":
            self.row = what(None if prompt is None else tuple(prompt))
            return
        selected = select(self.spans, 0, self.end)
        if kind == "position":
            if selected and selected[-1] >= what:
                raise MismatchError(
                    f"means for {what} positions, but the request may be touched at position {selected[-1]}; name "
                    "fewer positions, or use one mean for all"
                )
            self.places = {position: position for position in selected}
            return
        known = all(len(span) <= MOST for span in self.spans)
        count = len(set().union(*self.spans)) if known else None
        if count != what:
            raise MismatchError(
                f"{what} rows of values for positions {self.rule.positions}, which select "
                f"{'an unknown number of' if count is None else count} tokens of the prompt; give one row per token, "
                "or one row [width] for all"
            )
        self.places = {position: rank for rank, position in enumerate(sorted(set().union(*self.spans)))}

    def edges(self) -> Iterable[int]:
        """Where what is done to a token may change."""
        for span in self.spans:
            if self.places is not None or span.step > 1:
                shown = span[: len(range(span.start, max(self.end, span.start), span.step))]
                for position in shown[: MOST + 1]:
                    yield from (position, position + 1)
            else:
                yield from (span.start, span.stop)
        if isinstance(self.rule.strength, Schedule):
            yield from range(self.first_step, self.first_step + min(len(self.rule.strength.values), MOST + 1))

    def at(self, position: int) -> State | None:
        """What is done to the token at a position."""
        if not any(position in span for span in self.spans):
            return None
        strength = self.rule.strength
        if isinstance(strength, Schedule):
            strength = strength.at(position - self.first_step)
        if strength == 0:
            return None
        if self.places is None:
            return State(float(strength), self.row)
        row = self.places.get(position)  # None past the end, where no token is ever fed
        return None if row is None else State(float(strength), row)


def _check_reach(positions: Positions, prompt_length: int, new_tokens: int, end: int) -> None:
    generated = positions.generated(prompt_length)
    beyond = [span for span in generated if span.start >= end and span.start > prompt_length]
    if beyond and len(generated) == len(positions.terms):
        raise NotAppliedError(
            f"positions {positions} begin at generated token {beyond[0].start - prompt_length}, but with "
            f"max_tokens={new_tokens} only {new_tokens - 1} are fed back to the model"
        )
