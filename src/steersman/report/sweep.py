"""The parts of the report that a sweep gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..charts import dose_response, heatmap
from . import html
from .words import Document, between, number, p

Row = Mapping[str, Any]


def sweep_tiles(document: Document) -> list[tuple[str, str, str]]:
    """The row that was chosen."""
    best = document.get("best")
    if not best:
        return [("none", "chosen setting", "no setting moves the target upwards within the budget")]
    unit = (document.get("target") or {}).get("unit", "")
    found = [
        (f"layer {best['layer']}", "chosen setting", f"at strength {number(best['strength'])}"),
        (number(best["effect"]), "effect", f"{unit}{_ranked(best)}"),
    ]
    if best.get("kl") is not None:
        found.append(
            (number(best["kl"]), "KL on neutral text", f"nats per token; budget {number(document.get('max_kl'))}")
        )
    return found


def maps(document: Document) -> list[str]:
    """Effect and cost by layer and strength, the chosen cell outlined."""
    rows = list(document["rows"])
    layers, strengths = _axes([*rows, *document.get("dropped", ())])
    best = document.get("best")
    chosen = None
    if best and best["layer"] in layers and best["strength"] in strengths:
        chosen = (layers.index(best["layer"]), strengths.index(best["strength"]))
    unit = (document.get("target") or {}).get("unit", "nats")
    across = [number(strength) for strength in strengths]
    effects = heatmap(
        _cells(rows, layers, strengths, "effect"), layers, across, chosen=chosen, title="Effect",
        value_label=f"effect ({unit})",
    )  # fmt: skip
    costs = heatmap(
        _cells(rows, layers, strengths, "kl"), layers, across, kind="sequential", chosen=chosen, title="Cost",
        value_label="KL (nats per token)",
    )  # fmt: skip
    figures = [
        html.figure(effects, "The change of the target at each setting; the chosen one is outlined."),
        html.figure(costs, f"What it changes on neutral text; the budget is {number(document['max_kl'])}."),
    ]
    said = ""
    if best:
        said = (
            f"Chosen: layer {best['layer']} at strength {number(best['strength'])}, effect {number(best['effect'])}"
            f"{_ranked(best)}, KL {number(best.get('kl'))}."
        )
        if best.get("report_effect") is not None:
            kept = {"value": best["report_effect"], "low": best["report_low"], "high": best["report_high"]}
            said += f" On items kept from the choice: {between(kept)}."
    asked = document.get("prompt")
    if asked:
        said += f" Asking for it in words ({asked['instruction']!r}) instead: {between(asked)}."
    said += "".join(f" First stage: {sentence}." for sentence in document.get("stages") or ())
    said += "".join(f" Note: {note}." for note in document.get("notes") or ())
    return [html.paragraph(said), f'<div class="figures">{"".join(figures)}</div>']


def dose_at_best(document: Document) -> str:
    """The curve over strengths at the chosen layer, or at the one with the largest effect."""
    rows = list(document["rows"])
    best = document.get("best") or max(rows, key=lambda row: abs(row["effect"]))
    own = sorted((row for row in rows if row["layer"] == best["layer"]), key=lambda row: row["strength"])
    if len(own) < 2:
        return ""
    svg = dose_response(
        [row["strength"] for row in own], [row["effect"] for row in own],
        intervals=_pairs(own, "low", "high"), random=_pairs(own, "control_low", "control_high"),
        kl=[row["kl"] for row in own] if all(row.get("kl") is not None for row in own) else None,
        max_kl=document.get("max_kl"), title=f"Layer {best['layer']} of the sweep",
        y_label=f"effect ({(document.get('target') or {}).get('unit', 'nats')})",
    )  # fmt: skip
    return html.figure(svg, "The strengths swept, at the chosen layer.")


def _axes(rows: Sequence[Row]) -> tuple[list[Any], list[float]]:
    layers = sorted({row["layer"] for row in rows})
    return layers, sorted({float(row["strength"]) for row in rows if row["strength"] is not None})


def _cells(rows: Sequence[Row], layers: list[Any], strengths: list[float], key: str) -> list[list[float | None]]:
    found = {(row["layer"], float(row["strength"])): row.get(key) for row in rows}
    return [[found.get((layer, strength)) for strength in strengths] for layer in layers]


def _pairs(rows: Sequence[Row], low: str, high: str) -> list[tuple[float, float]] | None:
    if any(row.get(low) is None or row.get(high) is None for row in rows):
        return None
    return [(row[low], row[high]) for row in rows]


def _ranked(row: Row) -> str:
    return f", {p(row['p_value'])} against random directions" if row.get("p_value") is not None else ""
