"""The contexts held on one module tree: which plan steers its forward passes when no call does."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import BusyError
from ...plan import Plan
from .applied import Applied
from .boundary import GuessedBoundary
from .engine import HookEngine, Run


@dataclass(frozen=True)
class Context:
    """One entered context."""

    plan: Plan
    prompt_length: int | Sequence[int] | None
    applied: Applied


class Contexts:
    """The contexts entered on a model, outermost first, all by one thread."""

    def __init__(self) -> None:
        self.entered: tuple[Context, ...] = ()
        self._owner: int | None = None
        self._lock = threading.Lock()

    @property
    def plan(self) -> Plan:
        """All their plans, in order."""
        return sum((context.plan for context in self.entered), Plan())

    @property
    def prompt_length(self) -> int | Sequence[int] | None:
        """What the innermost that says so says of where prompts end."""
        given = [context.prompt_length for context in self.entered if context.prompt_length is not None]
        return given[-1] if given else None

    def enter(self, context: Context, name: str) -> None:
        """Enter a context; BusyError if another thread is in one."""
        with self._lock:
            if self.entered and self._owner != threading.get_ident():
                raise BusyError(
                    f"{name} is being steered by another thread; pass steer= to generate() or logits(), which may run "
                    "side by side, or give each thread its own model.edit(plan)"
                )
            self._owner = threading.get_ident()
            self.entered = (*self.entered, context)

    def leave(self) -> None:
        """Leave the innermost."""
        with self._lock:
            self.entered = self.entered[:-1]


class HeldTree:
    """A module tree with the run that steers it: what always acts there, then the contexts."""

    def __init__(self, engine: HookEngine, always: Plan | None = None) -> None:
        self.engine = engine
        self.always = always or Plan()
        self._run: Run | None = None
        self._boundary: GuessedBoundary | None = None

    def hold(self, contexts: Contexts) -> None:
        """Steer by these contexts from now on."""
        if self._run is not None:
            self._run.detach()
            self._run = None
        plan = self.always + contexts.plan
        if not plan:
            self._boundary = None
            return
        if self._boundary is None:
            self._boundary = GuessedBoundary(self.engine.find_marker)
        applied = [context.applied for context in contexts.entered]
        self._run = self.engine.context(plan, self._boundary, contexts.prompt_length, applied)
        self._run.attach()
