"""What a dry run says: the model, the work, and the memory it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .console import figures, show
from .models import Outline, size
from .session import Run


def show_plan(
    run: Run, model: Outline, lines: Sequence[tuple[str, str]], document: Mapping[str, Any], *, extra_bytes: float
) -> None:
    """Print what would be done.

    Args:
        lines: name and text of each thing to say after the model.
        document: the same as values, for ``--json``.
        extra_bytes: what the work needs beside the weights.
    """
    total = model.bytes + extra_bytes
    if run.json_:
        memory = {"weights": model.bytes, "work": round(extra_bytes), "total": round(total)}
        run.emit(
            "steersman.dry-run/1",
            {"command": run.command, "model": model.as_json(), **document, "memory_bytes": memory},
        )
        return
    table = figures("", "", left=2)
    table.show_header = False
    for name, text in (
        *model.lines(),
        *lines,
        ("memory", f"about {size(total)}, {size(extra_bytes)} of it for the work"),
    ):
        table.add_row(f"[dim]{name}[/]", text.replace("[", "\\["))
    for column in table.columns:
        column.no_wrap = False
    show(run.out, table)
    run.note("dry run: nothing was done")


def passes(lengths: Sequence[int], budget: int) -> int:
    """Forward passes for texts of these lengths, grouped as extraction groups them."""
    total, group = 0, 0
    for length in sorted(lengths):
        if group and length * (group + 1) > budget:
            total, group = total + 1, 0
        group += 1
    return total + bool(group)


def cache_bytes(model: Outline, rows: int, tokens: int) -> float:
    """Keys and values of so many rows of so many tokens, in the model's precision."""
    width = {"float32": 4}.get(model.dtype, 2)
    config = model.hf.config
    heads = getattr(config, "num_key_value_heads", None) or model.shape.n_heads
    return 2.0 * model.shape.n_layers * heads * model.shape.d_head * rows * tokens * width
