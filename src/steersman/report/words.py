"""Documents in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]


def number(value: Any) -> str:
    """A number in three figures with a true minus sign; nothing for None."""
    if value is None:
        return ""
    found = float(value)
    if found == 0:
        return "0"
    return (f"{found:.3g}" if abs(found) >= 0.001 else f"{found:.1e}").replace("-", "\u2212", 1)


def between(estimate: Mapping[str, Any] | None) -> str:
    """``2.96 [2.44, 4.37]``."""
    if not estimate:
        return ""
    low, high = estimate.get("low"), estimate.get("high")
    if low is None or high is None:
        return number(estimate["value"])
    return f"{number(estimate['value'])} [{number(low)}, {number(high)}]"


def p(value: float) -> str:
    """``p = .0099``."""
    return f"p = {value:.2g}"


def model_name(document: Document) -> str:
    """The model's name."""
    model = document.get("model")
    return str(model.get("name", "a model")) if isinstance(model, Mapping) else str(model or "a model")  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def plan_words(evaluated: Document | None, swept: Document | None) -> str:
    """What steers, in words: ``happy 1 @8``, or the vector that was swept, or another model."""
    plan = (evaluated or {}).get("plan")
    if plan and plan.get("interventions"):
        return ", ".join(_intervention(item) for item in plan["interventions"])
    if plan and plan.get("labels"):
        return ", ".join(plan["labels"])
    other = (evaluated or {}).get("other")
    if other:
        return str(other.get("name"))
    best: Any = (swept or {}).get("best")
    return f"a vector, layer {best['layer']} at strength {best['strength']:g}" if best else "a vector"


def _intervention(item: Mapping[str, Any]) -> str:
    name = item.get("vector") or item.get("direction") or item["operation"]
    strength: Any = item.get("strength", 1)
    layers: Any = item.get("layers")
    verb = "" if item["operation"] == "add" else f"{item['operation']} "
    amount = "on a schedule" if isinstance(strength, list) else f"at strength {strength:g}"
    where = (
        "" if layers is None else f", layer {layers if not isinstance(layers, list) else ', '.join(map(str, layers))}"
    )
    return f"{verb}{name} {amount}{where}"
