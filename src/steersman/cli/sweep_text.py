"""What ``steer sweep`` says."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from .console import figures, plural, show
from .session import Run

if TYPE_CHECKING:
    from ..sweeping import Row, Sweep


def result(run: Run, found: Sweep, best: Row | None, max_kl: float) -> None:
    """Print what was dropped, the cells worth choosing from, the choice, and the controls."""
    from ..sweeping.stages import said

    for sentence in said(found.facts.get("stages", {}), found.dropped):
        run.say(sentence)
    table = figures("layer", "strength", "effect", "95%", "random 95%", "p", "KL", "top-1", "", left=1)
    front = found.pareto()
    shown = front if best is None or best in front else sorted([*front, best], key=lambda row: row.kl)
    for row in shown:
        table.add_row(
            str(row.layer), f"{row.strength:+g}", f"{row.effect:+.3f}", _range(row.low, row.high),
            _range(row.control_low, row.control_high), "-" if row.p_value is None else f"{row.p_value:.3f}",
            f"{row.kl:.4f}", f"{row.top1:.0%}", "chosen" if row is best else "",
        )  # fmt: skip
    n, unit = found.facts["items"], found.facts["target"]["unit"]
    run.out.print(f"effect in {unit} over {n} items; the cells that no other beats in both effect and KL", markup=False)
    show(run.out, table)
    if best is not None:
        _best(run, found, best, max_kl)
    for note in found.facts["notes"]:
        run.note(f"note: {note}")


def _best(run: Run, found: Sweep, best: Row, max_kl: float) -> None:
    held = ""
    if best.report_effect is not None:
        few = best.report_low is None or best.report_high is None
        interval = "(too few for an interval)" if few else _range(best.report_low, best.report_high)
        held = f"; {best.report_effect:+.3f} {interval} on items kept from the choice"
    run.say(f"layer {best.layer} at {best.strength:+g}: {best.effect:+.3f} within {max_kl:g} nats per token{held}")
    controls = found.facts["controls"]
    if "prompt" in controls:
        asked = controls["prompt"]
        run.say(f"asking in words instead ({asked['instruction']!r}): {asked['value']:+.3f}")
    if "shuffled_raw" in controls:
        top, layer = controls["shuffled_raw"]["strength"], str(best.layer)
        raw, equal = (
            [abs(effect) for effect in controls[f"shuffled_{name}"]["effects"][layer]] for name in ("raw", "equal")
        )
        own = next((row.effect for row in found if (row.layer, row.strength) == (best.layer, top)), None)
        beside = "" if own is None else f", beside {own:+.3f} of the vector"
        run.say(
            f"{plural(len(raw), 'vector')} from shuffled labels there at {top:+g}: mean size {fmean(raw):.3f}, largest "
            f"{max(raw):.3f}; at the same length {fmean(equal):.3f}, {max(equal):.3f}{beside}",
        )


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"


def plan(run: Run, model: str, name: str, options: dict[str, Any], output: Path | None) -> None:
    """Print what the sweep would take."""
    import torch

    from ..sweeping.where import layers_of
    from .dryrun import show_plan
    from .lookup import local
    from .models import outline
    from .vectors import find

    layers, doses, random = options["layers"], options["strengths"], options["random"]
    prompts = options["prompts"] or []
    found = outline(model, device=run.device, dtype=run.dtype)
    tokens = sum(len(found.tokens.encode(text)) for text in prompts)
    here = local(name, run.steering["vectors"]) is not None  # else packaged, or on the hub: only a run gets it
    direction = find(run, name, None) if here else torch.ones(found.shape.d_model)
    count = len(layers_of(found.shape, direction, layers))
    cells = count * len(doses)
    controls = count * len({abs(s) for s in doses if s}) * random
    naive = tokens * (cells + controls)
    document = {
        "target": options["target"].kind, "prompts": len(prompts), "tokens": tokens, "layers": layers,
        "strengths": doses, "cells": cells, "control_cells": controls, "naive_tokens": naive,
        "screen": options["screen"], "halving": options["halving"], "output": str(output) if output else None,
    }  # fmt: skip
    stages: list[str] = []
    if options["screen"] is not None:
        stages.append(f"first-order screening keeps {plural(options['screen'], 'layer')}")
    if options["halving"] is not None:
        stages.append(f"halving begins with {plural(options['halving'], 'prompt')}")
    lines = [
        ("target", options["target"].kind),
        ("prompts", f"{len(prompts)}, {tokens} tokens" if prompts else "the target's own"),
        ("cells", f"at most {count} layers x {len(doses)} strengths, and {controls} of random directions"),
        *([("first stages", "; ".join(stages))] if stages else []),
        ("at most", f"{naive:,} tokens; what comes before the first touched token or layer is computed once"),
        ("writes", "nothing" if output is None else f"{output}/ (rows.jsonl, sweep.json, plan, figures, run.json)"),
    ]
    show_plan(run, found, lines, document, extra_bytes=16.0 * 4096 * found.shape.d_model)
