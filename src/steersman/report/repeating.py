"""How to repeat it: settings, seeds, versions and hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from . import html
from .words import Document


def repeating(evaluated: Document | None, swept: Document | None) -> list[str]:
    """What ran, on what, with which seed and versions; and the plan as data."""
    parts: list[str] = []
    for name, document in (("Evaluation", evaluated), ("Sweep", swept)):
        if document is None:
            continue
        parts.append(f"<h3>{name}</h3>")
        if document.get("command"):
            parts.append(html.code(str(document["command"])))
        parts.append(html.facts(_facts(document)))
    plan = (evaluated or {}).get("plan")
    if plan and plan.get("interventions"):
        spec = {"interventions": plan["interventions"]}
        parts += [html.paragraph("The plan, over named vectors:"), html.code(json.dumps(spec, indent=2))]
    return parts


def _facts(document: Document) -> list[tuple[str, object]]:
    model: Any = document.get("model") or {}
    other: Any = document.get("other") or {}
    plan: Any = document.get("plan") or {}
    versions: Mapping[str, str] = document.get("versions") or {}
    found: list[tuple[str, object]] = [
        ("model", _model(model)),
        ("compared with", _model(other) if other else None),
        ("plan, SHA-256", plan.get("digest")),
        ("seed", document.get("seed")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    settings: Mapping[str, Any] = document.get("settings") or {}
    found += [(name.replace("_", " "), _plain(value)) for name, value in settings.items()]
    return found


def _model(model: Any) -> str:
    if not isinstance(model, Mapping):
        return str(model)
    own: Mapping[str, Any] = model  # pyright: ignore[reportUnknownVariableType]
    rest = [f"{name} {own[name]}" for name in ("revision", "fingerprint", "dtype", "edits") if own.get(name)]
    return ", ".join([str(own.get("name")), *rest])


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, Mapping | list) else value
