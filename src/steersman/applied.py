"""What an intervention comes to on a model, as answers to requests tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .operations import Action
from .positions import After, Positions, select
from .spec import NAMING

_SAID = ("operation", *NAMING, "strength")


def told(said: Mapping[str, Any], actions: Sequence[Action], digest: str | None) -> dict[str, Any]:
    """What an intervention does, and where: JSON-able.

    Args:
        said: its item of the spec.
        actions: what it comes to on the model.
        digest: of the content of what it names first.
    """
    found: dict[str, Any] = {name: said[name] for name in _SAID if said.get(name) is not None}
    found = {"operation": "add", **found, "strength": found.get("strength", 1.0), "hash": digest}
    return found | {
        "layers": sorted({action.layer for action in actions}),
        "sites": sorted({action.component for action in actions}),
        "positions": str(actions[0].positions) if actions else None,
    }


def touched(spans: tuple[range, ...], prompt_length: int, generated: int) -> dict[str, int]:
    """How many tokens an intervention touched in a row that ended; the last one generated was never fed back.

    Args:
        spans: the positions that it means there.
        prompt_length, generated: tokens.
    """
    end = prompt_length + max(generated - 1, 0)
    return {"prompt": len(select(spans, 0, prompt_length)), "generation": len(select(spans, prompt_length, end))}


def touched_by(positions: str, prompt_length: int, generated: int) -> dict[str, int] | None:
    """The same from positions as text; None where only the text of the prompt tells them."""
    found = Positions.parse(positions)
    if any(isinstance(term, After) for term in found.terms):
        return None
    return touched(found.resolve(prompt_length, lambda _: None), prompt_length, generated)
