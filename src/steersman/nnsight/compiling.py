"""A plan made ready for one model, before a trace runs it or sends it away."""

from __future__ import annotations

from ..errors import UnsupportedError
from ..model.hooks.program import Program
from ..operations import Custom
from ..plan import Plan, PlanLike
from .layout import Layout
from .steering import Compiled


def compiled(given: PlanLike, layout: Layout) -> Compiled:
    """The plan for this model; everything is checked that can be before the model runs.

    Raises:
        MismatchError, SiteUnavailableError: it does not fit the model.
        UnsupportedError: it cannot be expressed in a trace.
    """
    plan = Plan.of(given)
    custom = next((item for item in plan if isinstance(item, Custom) and not item.dropped), None)
    if custom is not None:
        raise UnsupportedError(
            "Custom() holds a function of your own, which only the hook engine runs, model.steer(plan) or steer=plan; "
            "inside a trace write what it does as code"
        )
    actions = tuple(plan.actions(layout.shape))
    if Program([actions]).clean_first:
        raise UnsupportedError(
            "this plan touches the prompt at or below the layer that its condition reads, so the prompt must be run "
            "once without it first, and a trace runs it once; act above the condition's layer from the last prompt "
            "token on, or use model.steer(plan) of a SteeringModel"
        )
    return Compiled(actions, plan.digest)
