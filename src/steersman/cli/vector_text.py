"""What ``steer vectors`` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sites import layer_ranges
from .console import escape, figures, plural, show
from .session import Run

if TYPE_CHECKING:
    from ..vector import SteeringVector


def listing(run: Run, folder: Path, found: Sequence[tuple[Path, SteeringVector]], unread: Mapping[str, str]) -> None:
    """Print one line a vector, then what else there is."""
    from ..demo import VECTORS

    if found:
        table = figures("file", "name", "layers", "chosen", "width", "site", "method", "made for", left=2)
        for column in table.columns[5:]:
            column.justify = "left"
        for path, vector in found:
            table.add_row(
                escape(path.name),
                escape(vector.name or ""),
                layer_ranges(vector.layers),
                "" if vector.layer is None else str(vector.layer),
                str(vector.d_model),
                vector.site,
                escape(vector.method or ""),
                escape(_model(vector)),
            )
        show(run.out, table)
    else:
        run.out.print(f"no vectors in {folder}", markup=False)
    run.out.print()
    run.out.print(f"packaged: {', '.join(VECTORS)} (extracted when used)", style="dim")
    for name, why in unread.items():
        run.note(f"note: {name} holds no vector: {why}")


def whole(run: Run, vector: SteeringVector) -> None:
    """Print everything a vector holds."""
    from .extract_text import show_layers

    out = run.out
    out.print(f"[bold]{escape(vector.name or 'vector')}[/]")
    table = figures("", "", left=2)
    table.show_header = False
    table.columns[1].no_wrap = False
    for name, text in _facts(vector):
        table.add_row(f"[dim]{name}[/]", escape(text))
    show(out, table)
    out.print()
    if (vector.quality or {}).get("layers"):
        show_layers(run, vector)
    else:
        _show_lengths(run, vector)
    for warning in (vector.quality or {}).get("warnings", []):
        out.print(f"warning: {warning}", markup=False, soft_wrap=True)


def _facts(vector: SteeringVector) -> list[tuple[str, str]]:
    meta = vector.metadata
    examples = f"{meta['positive']} positive, {meta['negative']} negative" if "positive" in meta else ""
    kept = {key: value for key, value in meta.items() if key not in ("positive", "negative", "read", "format", "notes")}
    facts = [
        ("made for", _model(vector)),
        ("method", vector.method or ""),
        ("format", str(meta.get("format", ""))),
        ("site", f"{vector.site}, width {vector.d_model}"),
        ("layers", layer_ranges(vector.layers)),
        ("chosen", "none" if vector.layer is None else f"layer {vector.layer}"),
        ("read", str(meta.get("read", ""))),
        ("examples", examples),
        ("else", ", ".join(f"{key} {value}" for key, value in kept.items())),
        *(("note", str(note)) for note in meta.get("notes", [])),
    ]
    return [(name, text) for name, text in facts if text]


def _show_lengths(run: Run, vector: SteeringVector) -> None:
    table = figures("layer", "length", "gap", "residual")
    for layer in vector.layers:
        gap, norm = vector.gap.get(layer), vector.norms.get(layer)
        table.add_row(
            str(layer),
            f"{float(vector[layer].norm()):.2f}",
            "" if gap is None else f"{gap:.2f}",
            "" if norm is None else f"{norm:.2f}",
        )
    show(run.out, table)
    run.out.print()
    run.out.print("No held-out figures are stored.", style="dim")


def kept(run: Run, before: SteeringVector, after: SteeringVector) -> None:
    """Print how much of a vector's length is left in each layer."""
    run.out.print(f"[bold]{escape(after.name or 'vector')}[/]  {plural(len(after), 'layer')} of {after.site}")
    table = figures("layer", "length kept")
    for layer, share in shares(before, after).items():
        table.add_row(layer, f"{share:.0%}")
    show(run.out, table)


def shares(before: SteeringVector, after: SteeringVector) -> dict[str, float]:
    """layer -> length after over length before."""
    return {str(layer): float(after[layer].norm() / before[layer].norm()) for layer in after}


def summary(vector: SteeringVector) -> dict[str, Any]:
    """The facts of a list's line."""
    return {
        "name": vector.name,
        "layers": list(vector.layers),
        "chosen_layer": vector.layer,
        "width": vector.d_model,
        "site": vector.site,
        "method": vector.method,
        "model": vector.origin.model if vector.origin else None,
    }


def document(vector: SteeringVector) -> dict[str, Any]:
    """Everything a vector holds but its directions, and their lengths."""
    _, facts = vector.parts()
    lengths = {str(layer): float(vector[layer].norm()) for layer in vector}
    return {**facts, "layers": list(vector.layers), "width": vector.d_model, "lengths": lengths}


def _model(vector: SteeringVector) -> str:
    if vector.origin:
        return vector.origin.model
    return str(vector.metadata.get("model_hint", vector.metadata.get("model_type", "")) or "")
