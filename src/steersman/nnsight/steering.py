"""What runs beside the model when a plan is applied in a trace.

Each site of a plan is served by a worker of its own, which the model reaches when it reaches the site, in whatever
order the plan names them and at every forward pass. One more worker sees what the decoder is called with, and finds,
as the hook engine does, which tokens are meant. The arithmetic is the hook engine's own.

This is the part that travels to a server with a remote trace; it knows no plans, only what they were compiled to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from greenlet import getcurrent
from nnsight.intervention.interleaver import Interleaver, Mediator, OutOfOrderError
from torch import Tensor
from torch._guards import detect_fake_mode

from ..conditions import Measure, When, passes
from ..errors import TraceError, UnsupportedError
from ..model.hooks.applied import Applied
from ..model.hooks.boundary import GuessedBoundary
from ..model.hooks.program import Place, Program
from ..model.hooks.rows import Inputs
from ..model.hooks.step import Reuse, Step
from ..model.tokens import Tokens
from ..operations import Action
from .layout import Layout, Spot
from .steps import EveryStep, run_before

if TYPE_CHECKING:
    from .traced_model import TracedModel


class Compiled(NamedTuple):
    """A plan for one model: its single steps, and its digest."""

    actions: tuple[Action, ...]
    digest: str


def joined(plans: Sequence[Compiled]) -> Compiled:
    """One after the other."""
    actions = tuple(action for plan in plans for action in plan.actions)
    return Compiled(actions, "\n".join(plan.digest for plan in plans))


class Condition:
    """A condition as it travels: :class:`~steersman.When` with the one direction that it reads."""

    def __init__(
        self, direction: Tensor, layer: int, above: float | None, below: float | None, measure: Measure
    ) -> None:
        self.direction, self.layer, self.above, self.below = direction, layer, above, below
        self.measure: Measure = measure

    def holds(self, hidden: Tensor) -> Tensor:
        """Whether it holds for hidden states ``[..., d_model]``: booleans ``[...]``."""
        return passes(hidden, self.direction, self.above, self.below, self.measure)


def begin(plan: Compiled, model: TracedModel) -> None:
    """Steer the model that a trace runs, for the rows of the block this is called in.

    Raises:
        TraceError: outside a trace, or after the model has begun to run.
    """
    reference = getattr(getcurrent(), "mediator", None)
    if reference is None:
        _beside_invokes(plan, model)
    else:
        _within(reference(), plan, model)


def _beside_invokes(plan: Compiled, model: TracedModel) -> None:
    interleaver = model.interleaver
    if not getattr(interleaver, "collecting", False):
        raise TraceError(
            "apply(plan, model) was called outside a trace. Call it inside `with model.trace(prompt):`, "
            "`model.generate(prompt)`, `tracer.invoke(prompt)` or `model.edit()`; to steer plain calls use "
            "model.steer(plan) of a SteeringModel"
        )
    interleaver.mediators.extend(_workers(plan, model))


def _within(parent: Mediator, plan: Compiled, model: TracedModel) -> None:
    if isinstance(parent, EveryStep) and parent.step > 0:
        return  # a block that is run at every step; the workers of its first run act at every step by themselves
    names = vars(parent)
    run, digests = names.get("_plans", (None, set[str]()))
    if run is not parent.worker:  # an edit's worker is run anew in every trace
        run, digests = parent.worker, set[str]()
        names["_plans"] = (run, digests)
    interleaver: Interleaver = parent.interleaver
    if parent.occurrence(f"{model.root.path}.{model.layout.decoder}.input"):
        if plan.digest in digests:
            return  # once more in a loop over steps
        raise TraceError(
            "apply(plan, model) was called after the model had begun to run: the block had asked for one of its "
            "values before. Move apply() to the top of its block; it acts at every layer and step by itself"
        )
    digests.add(plan.digest)
    for worker in _workers(plan, model):
        run_before(worker, parent, interleaver)


def _workers(plan: Compiled, model: TracedModel) -> list[Mediator]:
    program = Program([plan.actions])
    if not program.sites or detect_fake_mode() is not None:  # shapes alone are what they were
        return []
    layout, root = model.layout, model.root.path
    tokenizer: Any = model.tokenizer

    def find_marker(ids: Any, marker: str) -> int | None:
        return Tokens(tokenizer).find_marker(ids, marker)

    steering = Steering(program, layout, find_marker)
    read: dict[tuple[str, int], list[Any]] = {}
    for when in program.conditions:
        layer = layout.shape.layer(when.layer)
        read.setdefault(("resid_post", layer), []).append(when)
    found: list[Mediator] = [SiteWorker(f"{root}.{layout.decoder}.input", steering.enter, steering.leave)]
    for place in sorted({*program.sites, *read}):
        spot = layout.spot(*place)
        act = SiteAct(steering, place, spot, tuple(read.get(place, ())))
        found.append(SiteWorker(f"{root}.{spot.path}.{spot.side}", act, None))
    return found


class SiteWorker(Mediator):
    """Serves one location at every forward pass: ``act`` gets what is there, and returns what shall be, or None."""

    def __init__(self, location: str, act: Callable[[Mediator, Any], Any], ended: Callable[[], None] | None) -> None:
        Mediator.__init__(self, None, {}, {})
        self.location, self.act, self.ended = location, act, ended

    def _run(self) -> None:
        step = 0
        try:
            while True:
                self.iteration = step
                found = Mediator.value(self.location)
                new = self.act(self, found)
                if new is not None:
                    Mediator.swap(self.location, new)
                step += 1
        except OutOfOrderError:  # the run is over; it is how such a worker ends
            if self.ended is not None:
                self.ended()


class Steering:
    """One plan in one run of the model: its rows, and the forward pass under way."""

    def __init__(self, program: Program, layout: Layout, find_marker: Any) -> None:
        self.program = program
        self.layout = layout
        self.boundary = GuessedBoundary(find_marker)
        self.boundary.needed = program.needs_boundary
        self.applied = Applied(action for actions in program.plans for action in actions)
        self.reuse = Reuse()
        self.step: Step | None = None

    def enter(self, worker: Mediator, value: Any) -> None:
        """A forward pass begins; ``value`` is what the decoder is called with."""
        args, kwargs = value
        inputs = Inputs.of(self.layout.parameters, args, kwargs)
        count, columns = inputs.shape
        group = _group(worker)
        if group is not None and count != group[1]:
            raise UnsupportedError(
                f"a plan for one invoke of several met {count} rows where its prompts are {group[1]}: nnsight does not "
                "tell apart the rows of beams or of num_return_sequences; generate from one invoke at a time"
            )
        rows, chunks, fresh = self.boundary.enter(inputs)
        self.boundary.leave(inputs.cache)
        if fresh:
            self.program.check(rows)
            if any(chunk.stop < row.prompt_length for row, chunk in zip(rows, chunks, strict=True)):
                raise UnsupportedError("the prompt is being fed in chunks; unset prefill_chunk_size")
        tensor = cast(Tensor, inputs.ids if inputs.ids is not None else inputs.embeddings)
        self.step = Step(rows, chunks, columns, tensor.device, self.reuse)
        self.applied.note(self.step, inputs.cache is not None)

    def leave(self) -> None:
        """The run is over: refuse a plan that met none of its tokens."""
        self.applied.check()


class SiteAct:
    """What a plan does at one site."""

    def __init__(self, steering: Steering, place: Place, spot: Spot, conditions: tuple[When, ...]) -> None:
        self.steering, self.place, self.spot, self.conditions = steering, place, spot, conditions

    def __call__(self, worker: Mediator, value: Any) -> Any:
        """The new value of the location, or None to leave it as it is (also when it was changed in place)."""
        if self.spot.side == "output":
            if isinstance(value, Tensor):
                return self._steered(worker, value)
            new = self._steered(worker, value[0])
            return None if new is None else (new, *value[1:])
        args, kwargs = value
        if args:
            new = self._steered(worker, args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        name = next(key for key, item in kwargs.items() if isinstance(item, Tensor))
        new = self._steered(worker, kwargs[name])
        return None if new is None else (args, {**kwargs, name: new})

    def _steered(self, worker: Mediator, found: Tensor) -> Tensor | None:
        steering = self.steering
        step = steering.step
        assert step is not None
        own = _own_rows(worker, found, step)
        for when in self.conditions:
            steering.program.decide(when, own, step.rows, step.chunks)
        site = steering.program.sites.get(self.place)
        new = None if site is None else site.act(own, step, self.spot.scale)
        if new is None:
            return None
        if self.spot.in_place:
            own.copy_(new)
            return None
        if own is not found:  # rows of other invokes in the same tensor
            whole = found.clone()
            _own_rows(worker, whole, step).copy_(new)
            return whole
        return new.contiguous() if self.spot.side == "input" else new


def _group(worker: Mediator) -> list[int] | None:
    """First row and number of rows of an invoke among several; None for the whole batch."""
    batcher: Any = worker.interleaver.batcher
    return worker.batch_group if batcher is not None and batcher.batching else None


def _own_rows(worker: Mediator, found: Tensor, step: Step) -> Tensor:
    """The part of a tensor that holds the rows of this worker.

    nnsight hands an invoke its rows of every tensor whose first axis is the batch. Where batch and sequence are one
    axis (OPT's MLP) it hands over all of them.
    """
    tokens = len(step.rows) * step.columns
    group = _group(worker)
    if group is None or found.numel() // found.shape[-1] == tokens:
        return found
    return found[group[0] * step.columns : (group[0] + group[1]) * step.columns]
