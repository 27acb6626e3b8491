"""Whether the interventions of a context met any of their tokens."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable

from transformers import GenerationMixin

from ...errors import NotAppliedError
from ...operations import Action
from .step import Step

_GENERATE = inspect.unwrap(vars(GenerationMixin)["generate"]).__code__


class Applied:
    """Watches the forward passes made inside a context."""

    def __init__(self, actions: Iterable[Action]) -> None:
        self._unmet = {action.positions: action.source for action in actions}
        self._passes = 0
        self._may_generate = False

    def note(self, step: Step, cached: bool) -> None:
        """Take note of a forward pass; ``cached`` when it was given a cache, as generation loops do."""
        self._passes += 1
        for positions in [unmet for unmet in list(self._unmet) if step.selects(unmet)]:  # threads share it
            self._unmet.pop(positions, None)
        if self._unmet and not self._may_generate:
            self._may_generate = cached or _inside_generate()

    def check(self) -> None:
        """Raise NotAppliedError if forward passes were made and an intervention met none of its tokens in any.

        A generation that ended before its first token was fed back is no such case.
        """
        for positions, source in self._unmet.items() if self._passes else ():
            if positions.in_prompt or not self._may_generate:
                raise NotAppliedError(
                    f"{source}: positions {positions} selected no token of any forward pass in this context"
                )


def _inside_generate() -> bool:
    """Whether transformers' ``generate`` makes this forward pass.

    Without a cache nothing that the model is given tells it apart from a plain call.
    """
    frame = sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code is not _GENERATE:
        frame = frame.f_back
    return frame is not None
