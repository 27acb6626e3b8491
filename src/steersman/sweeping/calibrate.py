"""A strength from one probe of the KL: near zero it grows with the square of the strength."""

from __future__ import annotations

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
    corrections: int = 1,
    **options: Any,
) -> float:
    """The strength at which a direction costs ``max_kl`` nats per affected token of neutral text.

    ``K(a) = F a^2 / 2`` to second order, so one measurement at ``a0`` gives ``a = a0 sqrt(max_kl / K(a0))``, and a second
    one there corrects it in the same way.

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
        raise DataError(
            f"max_kl={max_kl!r}, probe={probe!r}: a budget above zero and a probe that is not zero are needed"
        )
    chosen: int | None = layer if layer is not None else getattr(vector, "layer", None)
    if chosen is None:
        raise DataError("the direction has no chosen layer; name one: layer=...")
    chosen = model.shape.layer(chosen, "layer=")
    make = maker(operation, options)
    first = plan_of(make, vector, chosen, probe)
    first.actions(model.shape)
    texts = tuple(neutral) if neutral is not None else default_texts(model.shape.name)
    side = SideEffects(model, texts, first, [chosen])
    strength = probe
    for _ in range(corrections + 1):
        measured = side.measure([plan_of(make, vector, chosen, strength)])[0].kl
        if not measured > 0:
            raise DataError(f"at strength {strength:g} the neutral texts are predicted as before: nothing to calibrate")
        strength *= (max_kl / measured) ** 0.5
    return strength
