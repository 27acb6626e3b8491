"""The parts of the report that an evaluation gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..charts import dose_response
from . import html
from .words import Document, between, number, p

#: Rows that are shown large, with what they are called there.
_LARGE = {
    "effect": "effect",
    "kl": "KL on neutral text",
    "nll": "surprise of the text",
    "accuracy": "facts still known",
}


def _rows(document: Document) -> dict[str, Mapping[str, Any]]:
    return {row["name"]: row for row in document["rows"]}


def headline_tiles(document: Document) -> list[tuple[str, str, str]]:
    """The few figures to look at first."""
    rows, found = _rows(document), list[tuple[str, str, str]]()
    for name, title in _LARGE.items():
        row = rows.get(name)
        if row is None:
            continue
        sign = "+" if name in ("effect", "nll") and row["value"] > 0 else ""
        note = f"{row['unit']}; {row['verdict']}" if name != "accuracy" else f"before: {number(row.get('base'))}"
        found.append((f"{sign}{number(row['value'])}", title, note))
    return found


def gates(document: Document) -> str:
    """Whether the conditions asked for hold."""
    items: list[str] = []
    for gate in document.get("gates") or ():
        kind, word = ("good", "met") if gate["met"] else ("bad", "not met")
        value = gate["why"] if gate["value"] is None else f"it is {number(gate['value'])}"
        items.append(f'<li><span class="gate {kind}">{word}</span>: <code>{html.text(gate["gate"])}</code> '
                     f"({html.text(value)})</li>")  # fmt: skip
    return f"<ul>{''.join(items)}</ul>" if items else ""


def dose(document: Document) -> str:
    """The curve over multiples of the plan's strength, with the random band and the KL below."""
    row = _rows(document).get("slope")
    if row is None:
        return ""
    details, target = row["details"], document.get("target") or {}
    effects = details["effects"]
    whole = all(effect.get("low") is not None for effect in effects)
    svg = dose_response(
        details["factors"], [effect["value"] for effect in effects],
        intervals=[(effect["low"], effect["high"]) for effect in effects] if whole else None,
        random=[(low, high) for low, high in details["random"]] if details.get("random") else None,
        kl=details.get("kl"), max_kl=document["settings"].get("max_kl"),
        x_label="multiple of the plan's strength", title="The plan", y_label=f"effect ({target.get('unit')})",
    )  # fmt: skip
    anti = _rows(document).get("anti_steerable")
    said = f"Slope {between(row['difference'])} {row['unit']}."
    if anti is not None:
        said += f" Items whose own slope goes the other way: {number(100 * anti['difference']['value'])}%."
    return html.figure(svg, said)


def change_table(document: Document) -> list[str]:
    """Everything that was measured, and what was not."""
    rows = [
        (
            row["title"], row["unit"],
            (
                number(row.get("base")), number(row.get("steered")), between(row.get("difference")),
                _control(row.get("control")), row["verdict"],
            ),
        )
        for row in document["rows"]
    ]  # fmt: skip
    columns = ("metric", "base", "steered", "difference [95%]", "control", "verdict")
    explained = (
        "Control: of the effect, what 95% of random directions of the same length stay below, either way, and the rank "
        "of the effect among them; of KL and accuracy, their median; of generated texts, the difference another seed "
        "makes."
    )
    left = "; ".join(f"{name}: {why}" for name, why in (document.get("left_out") or {}).items())
    return [
        html.table("what was measured", columns, rows, words=(5,)),
        html.paragraph(explained, "soft small"),
        html.paragraph(f"Not measured: {left}.", "soft small") if left else "",
    ]


def _control(control: Mapping[str, Any] | None) -> str:
    if not control:
        return ""
    ranked = f" ({p(control['p_value'])})" if control.get("p_value") is not None else ""
    return f"{number(control['value'])}{ranked}"
