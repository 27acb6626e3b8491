"""Blocks of code that run at every forward pass, beside the trace they were written in.

``with tracer.all():`` used to mean: do this at every generation step; what follows goes on at once. Here its body is
run by a worker of its own, which asks the model for the values of one step after another, so that the statements after
the block are run too. Edits run in the same way.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import CodeType
from typing import Any, cast

from greenlet import getcurrent
from nnsight.intervention.interleaver import Interleaver, Mediator, OutOfOrderError
from nnsight.intervention.iterator import Iterations
from nnsight.tracing.util import push


class EveryStep(Mediator):
    """A worker that runs its block once for each forward pass, or for the chosen ones.

    Attributes:
        clock: the location that every forward pass reaches first.
        steps: which passes; None for all.
        parent: the worker whose block this one was written in.
        step: the pass its block runs for now.
    """

    clock: str = "model.input"
    steps: Iterations | None = None
    parent: Mediator | None = None
    counter: str | None = None
    frame: Any = None
    step: int = 0

    def _run(self) -> None:
        if self.parent is not None:  # count passes as the block it was written in does
            self.counts_at_start = self.parent.counts_at_start
        scope = self.lcls.copy() if self.copy else self.lcls
        # the bounds of a choice of steps, and the steps of none
        idle = False
        for step in Iterations._indices(self.steps or Iterations()):  # pyright: ignore[reportPrivateUsage]
            self.step = self.iteration = step
            if self.counter is not None:
                scope[self.counter] = step
            try:
                if idle:
                    await_step(self, self.clock, step)
                before = self.pending
                exec(self.code, scope)
                self.flush()
                if self.frame is not None:
                    push(self.frame, scope.writes())
                idle = self.pending is before
            except OutOfOrderError:
                if outran(self) and (self.steps is None or (self.steps.stop is None and self.steps.steps is None)):
                    return
                raise

    def __getstate__(self) -> dict[str, Any]:
        return {**Mediator.__getstate__(self), "clock": self.clock}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Mediator.__setstate__(self, state)
        self.clock = state["clock"]


def await_step(mediator: Mediator, clock: str, step: int) -> None:
    """Park a worker whose block asked for nothing until forward pass ``step`` begins, lest it run for ever."""
    mediator.iteration = step
    Mediator.value(clock)


def outran(mediator: Mediator) -> bool:
    """Whether a worker that is being ended waits for a pass after its first, which the run did not make."""
    pending = mediator.pending
    return pending is not None and (pending.iteration or 0) > 0


class Steps(Iterations):
    """``tracer.iter`` and ``tracer.all()``: a loop, ``for step in ...``, or a block, ``with ...``.

    The loop is nnsight's own, and what follows an open one is not run. The block runs beside what follows it.
    """

    def __init__(self, tracer: Any, start: int = 0, stop: int | None = None, steps: list[int] | None = None) -> None:
        Iterations.__init__(self, start, stop, steps)
        self.tracer = tracer

    def __getitem__(self, key: Any) -> Steps:
        chosen = Iterations.__getitem__(self, key)
        return Steps(self.tracer, chosen.start, chosen.stop, chosen.steps)

    def __iter__(self) -> Iterator[int]:
        mediator: Mediator = cast(Any, getcurrent()).mediator()
        loop = Iterations.__iter__(self)
        clock = clock_of(self.tracer.envoy)
        idle = False
        for step in loop:
            if idle:
                await_step(mediator, clock, step)
            before = mediator.pending
            yield step
            idle = mediator.pending is before

    def execute(self, code: CodeType) -> None:
        """Start the worker of a ``with`` block."""
        assert self.info is not None
        assert self.node is not None
        frame = self.info.frame
        reference = getattr(getcurrent(), "mediator", None)
        parent: Mediator | None = None if reference is None else reference()
        if isinstance(parent, EveryStep) and parent.step > 0:
            return  # an edit repeats its block; what its first run began goes on by itself
        interleaver: Interleaver = self.tracer.envoy.interleaver
        worker = EveryStep(code, frame.f_globals, dict(frame.f_locals), node=self.node)
        worker.clock, worker.steps, worker.parent = clock_of(self.tracer.envoy), self, parent
        target = self.node.items[0].optional_vars
        worker.counter = target.id if isinstance(target, ast.Name) else None
        if parent is None:  # beside the invokes of a trace, for the whole batch
            interleaver.mediators.append(worker)
            return
        worker.frame = frame
        run_before(worker, parent, interleaver)


def run_before(worker: Mediator, parent: Mediator, interleaver: Interleaver) -> None:
    """Start a worker that is served, with the rows of ``parent``, before it."""
    worker.batch_group = parent.batch_group
    interleaver.mediators.insert(interleaver.mediators.index(parent), worker)
    worker.start(interleaver)


def clock_of(envoy: Any) -> str:
    """The location that every forward pass reaches first."""
    return f"{envoy.root.path}.input"
