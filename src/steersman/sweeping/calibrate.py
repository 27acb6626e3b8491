"""A strength from one probe of the KL: near zero it grows with the square of the strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import DataError
from ..evaluation.neutral import default_texts
from ..model import SteeringModel
from .cells import Direction, Make, maker, plan_of
from .measuring import SideEffects


def calibrate(
    model: SteeringModel,
    vector: Direction,
    *,
    layer: int | None = None,
    max_kl: float = 0.1,
    neutral: Sequence[str] | None = None,
    operation: str | Make = "add",
    probe: float = 1.0,
    corrections: int = 2,
    **options: Any,
) -> float:
    """The strength at which a direction costs ``max_kl`` nats per affected token of neutral text.

    ``K(a) = F a^2 / 2`` to second order, so one measurement at ``a0`` gives ``a = a0 sqrt(max_kl / K(a0))``. Further
    from zero K grows with another power, which two measurements tell: each correction follows it.

    Args:
        model: the model.
        vector: the direction.
        layer: where it acts; the vector's chosen layer unless given.
        max_kl: the budget.
        neutral: texts; packaged ones unless given.
        operation, options: as in :func:`steersman.sweep`.
        probe: the strength measured first; its sign is that of the answer.
        corrections: measurements after the first.

    Raises:
        DataError: no budget, no probe, or a direction that changes nothing.
    """
    if not max_kl > 0 or not probe:
        raise DataError(f"max_kl={max_kl!r}, probe={probe!r}: give a budget above zero and a probe that is not zero")
    chosen: int | None = layer if layer is not None else getattr(vector, "layer", None)
    if chosen is None:
        raise DataError("the direction has no chosen layer; name one: layer=...")
    chosen = model.shape.layer(chosen, "layer=")
    make = maker(operation, options)
    first = plan_of(make, vector, chosen, probe)
    first.actions(model.shape)
    texts = tuple(neutral) if neutral is not None else default_texts(model.shape.name)
    side = SideEffects(model, texts, first, [chosen])
    strength, power = probe, 2.0
    before: tuple[float, float] | None = None
    for _ in range(corrections + 1):
        measured = side.measure([plan_of(make, vector, chosen, strength)])[0].kl
        if not measured > 0:
            raise DataError(f"at strength {strength:g} the neutral texts are predicted as before: nothing to calibrate")
        if before is not None and strength != before[0] and measured != before[1]:
            power = max(1.0, math.log(measured / before[1]) / math.log(strength / before[0]))
        before = (strength, measured)
        strength *= (max_kl / measured) ** (1 / power)
    return strength
