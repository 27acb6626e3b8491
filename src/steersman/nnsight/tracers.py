"""Traces, edits, scans and sessions of :class:`~steersman.nnsight.LanguageModel`."""

from __future__ import annotations

import ast
from types import CodeType
from typing import Any

from nnsight.intervention.editing import EditingTracer
from nnsight.intervention.tracer import InterleavingTracer, ScanningTracer
from nnsight.tracing.backend import Backend
from nnsight.tracing.tracer import ExitTracingException, Tracer, skip_context, skippable

from .envoys import Handoff
from .plain_calls import watch
from .served import served
from .steps import EveryStep, Steps, clock_of
from .unsaved import known_names, leave_notes
from .values import Place


def finish(kind: type[Tracer], tracer: Any, exc: tuple[Any, Any, Any]) -> Any:
    """Leave the block of a trace: run it here, or send it away."""
    if type(tracer.backend) is Backend or not (exc[0] is None or issubclass(exc[0], ExitTracingException)):
        return kind.__exit__(tracer, *exc)
    from .sending import sending  # where it is sent from only

    with sending(tracer):
        return kind.__exit__(tracer, *exc)


class Trace(InterleavingTracer):
    """A trace. ``with tracer.all():`` acts at every step, and the statements after it are run too."""

    @property
    def model(self) -> Any:
        """The model that is traced."""
        return self.envoy

    def __exit__(self, *exc: Any) -> Any:
        return finish(InterleavingTracer, self, exc)

    @property
    def iter(self) -> Steps:
        """Some forward passes: ``tracer.iter[:3]``, ``tracer.iter[2]``."""
        return Steps(self)

    def all(self) -> Steps:
        """Every forward pass, as a block or as a loop."""
        return Steps(self)

    @Handoff
    def result(self, value: Any) -> Any:
        """What the traced call returned: for ``generate`` the token ids."""
        return served(value, Place("result", "the call", ""))

    def execute(self, code: CodeType) -> None:
        """Run the block, and leave a note for each name that it did not bring out."""
        assert self.info is not None
        frame = self.info.frame
        known = known_names(frame)
        interleaver: Any = self.envoy.interleaver  # pyright: ignore[reportOptionalMemberAccess]
        interleaver.collecting = True
        try:
            InterleavingTracer.execute(self, code)
        finally:
            interleaver.collecting = False
        if self.node is not None:
            leave_notes(frame, self.node, known)


class Scan(Trace, ScanningTracer):
    """A trace of shapes alone."""

    def execute(self, code: CodeType) -> None:
        """Run the block on tensors that have shapes and no values."""
        ScanningTracer.execute(self, code)


class Session(Tracer):
    """Several traces that share values."""

    #: the model whose session it is
    model: Any = None

    def __exit__(self, *exc: Any) -> Any:
        return finish(Tracer, self, exc)

    def execute(self, code: CodeType) -> None:
        """Run the block, and leave a note for each name that it did not bring out."""
        assert self.info is not None
        frame = self.info.frame
        known = known_names(frame)
        Tracer.execute(self, code)
        if self.node is not None:
            leave_notes(frame, self.node, known)


class Edit(EditingTracer):
    """Stores a block and replays it in every later trace, at every forward pass.

    ``as edited`` gives the edited model, ``as (tracer, edited)`` both, and with ``inplace=True`` there is the tracer
    only.
    """

    @property
    def iter(self) -> Steps:
        """Some forward passes."""
        return Steps(self)

    def all(self) -> Steps:
        """Every forward pass."""
        return Steps(self)

    def __enter__(self) -> Any:
        # the frame is looked for at this depth: nothing may be called in between
        self.capture()
        assert self.node is not None
        if skippable(self.node):
            skip_context(self)
        if self.inplace:
            return self
        pair = any(isinstance(item.optional_vars, (ast.Tuple, ast.List)) for item in self.node.items)
        return (self, self.envoy) if pair else self.envoy

    def execute(self, code: CodeType) -> None:
        """Store the block instead of running it."""
        assert self.info is not None
        frame = self.info.frame
        worker = EveryStep(code, frame.f_globals, dict(frame.f_locals), copy=True, node=self.node)
        worker.clock = clock_of(self.envoy)
        self.envoy._edits.append(worker)  # pyright: ignore[reportOptionalMemberAccess, reportPrivateUsage]
        watch(self.envoy)
