"""Plans inside traces: ``apply(plan, model)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnsight.intervention.interleaver import Mediator

from ..errors import InterventionError
from ..plan import PlanLike
from .steering import Compiled, begin, joined

if TYPE_CHECKING:
    from .language_model import LanguageModel


def apply(plan: PlanLike, model: LanguageModel) -> None:
    """Steer the model that a trace runs, for the rows of the block this is called in, at every forward pass.

    Call it first in the block of ``model.trace(prompt)``, ``model.generate(prompt)``, ``tracer.invoke(prompt)`` or
    ``model.edit()``; the plan may name layers in any order. What the block reads after it is steered. In a
    ``model.trace()`` without a prompt, beside the invokes, it steers them all.

    Args:
        plan: a plan, an intervention, or a list of these.
        model: the model whose trace this is.

    Raises:
        MismatchError, SiteUnavailableError: it does not fit the model; before the model runs.
        UnsupportedError: it cannot be expressed here: a function, or a condition that needs a pass of its own.
        NotAppliedError: its positions select no token.
        TraceError: outside a trace, or after the model has begun to run.
    """
    if not hasattr(model, "layout"):
        raise InterventionError(
            f"apply(plan, model) needs the LanguageModel whose trace this is, got {type(model).__name__}"
        )
    given: Any = plan
    # on a server there are compiled plans only: what turned them into these stayed at home
    items: list[Any] = given if isinstance(given, list) else [given]
    sent = bool(items) and all(isinstance(item, Compiled) for item in items)
    begin(joined(items) if sent else model.compiled(plan), model)


class PlanEdit(Mediator):
    """A plan as an edit: applied in every trace, to all rows."""

    def __init__(self, plan: Compiled) -> None:
        Mediator.__init__(self, None, {}, {})
        self.plan = plan

    def _run(self) -> None:
        begin(self.plan, self.interleaver.batcher.envoy)

    def __getstate__(self) -> dict[str, Any]:
        return {"plan": self.plan}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["plan"])
