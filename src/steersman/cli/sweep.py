"""``steer sweep``: which layer, how strong, what it breaks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Model, layers_of
from .console import figures, show
from .failures import InputError
from .inputs import read_lines
from .session import Run

if TYPE_CHECKING:
    from ..sweeping import Row, Sweep


def sweep(
    run: Run,
    model: Model,
    positive: Annotated[
        list[str] | None,
        typer.Option("--positive", metavar="TEXT", show_envvar=False, help="What to make likelier; repeat."),
    ] = None,
    negative: Annotated[
        list[str] | None,
        typer.Option("--negative", metavar="TEXT", show_envvar=False, help="What to make less likely; repeat."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", show_envvar=False, help="Prompts to measure after, one a line."),
    ] = None,
    layers: Annotated[
        str, typer.Option("--layers", metavar="LAYERS", show_envvar=False, help="auto, all, 4-8, or 3,5.")
    ] = "auto",
    strengths: Annotated[
        str, typer.Option("--strengths", metavar="LIST", show_envvar=False, help="Numbers with commas between.")
    ] = "-2,-1.5,-1,-0.5,0,0.5,1,1.5,2",
    max_kl: Annotated[
        float, typer.Option("--max-kl", metavar="X", show_envvar=False, help="The most it may cost, nats per token.")
    ] = 0.1,
    neutral: Annotated[
        Path | None,
        typer.Option(
            "--neutral", metavar="FILE", show_envvar=False, help="Neutral texts, one a line.", show_default="packaged"
        ),
    ] = None,
    random: Annotated[
        int, typer.Option("--random", metavar="N", show_envvar=False, min=0, help="Random directions of the control.")
    ] = 100,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", show_envvar=False, help="Where rows, plan and figures go."),
    ] = None,
) -> None:
    """Find the layer and strength that do most within a budget of damage, with controls.

    With -o each finished layer is kept, and the same command goes on where it was interrupted.
    """
    if not positive or not negative:
        raise InputError("no target given", fix="--positive TEXT and --negative TEXT, such as ' great' and ' awful'")
    if prompts is None:
        raise InputError("no prompts given", fix="--prompts FILE, one prompt a line")
    texts = read_lines(prompts)
    kept = None if neutral is None else read_lines(neutral)
    run.inputs += [prompts, *([neutral] if neutral else [])]
    doses, chosen = _numbers(strengths), layers if layers == "auto" else layers_of(layers)
    if run.dry_run:
        _plan(run, model, texts, doses, chosen, random, output)
        return
    loaded = run.load(model)
    from ..evaluation import contrast
    from ..sweeping import sweep as find

    vector = _vector(run, loaded)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        name: run.steering[name] for name in ("value", "alpha", "angle", "unit", "positions")
        if run.steering[name] is not None
    }  # fmt: skip
    rows = output / "rows.jsonl" if output else None

    def progress(what: str, done: int, of: int) -> None:
        run.note(f"{what}: {done} of {of} done")

    try:
        found = find(
            loaded, vector, prompts=texts, target=contrast(positive, negative), layers=chosen, strengths=doses,
            neutral=kept, operation=run.steering["operation"], random=random, seed=run.seed, rows=rows,
            progress=progress, **settings,
        )  # fmt: skip
    except KeyboardInterrupt:
        if rows is not None:
            run.note(f"interrupted; what is measured is in {rows}, and the same command goes on from there")
        raise
    _finish(run, found, max_kl, output)
    if output is not None:
        _report(run, found, texts, max_kl, output)


def _report(run: Run, found: Sweep, prompts: list[str], max_kl: float, output: Path) -> None:
    """Write ``report.html``, with some prompts continued at minus, nothing and plus what was chosen."""
    from ..errors import DataError
    from ..evaluation import continuations
    from ..report import write

    assert run.model is not None
    try:
        plan = found.plan(max_kl)
    except DataError:
        samples = ()
    else:
        samples = continuations(run.model, plan, prompts, seed=run.seed)
    write(output / "report.html", sweep=found, max_kl=max_kl, samples=samples)


def _finish(run: Run, found: Sweep, max_kl: float, output: Path | None) -> None:
    from ..errors import DataError

    best: Row | None = None
    try:
        best = found.best(max_kl)
    except DataError as error:
        run.note(f"note: {error}")
    if output is not None:
        files = [Path(found.save(output / "sweep.json")), output / "heatmap.svg"]
        found.heatmap(files[1], max_kl=max_kl if best else None)
        if best is not None:
            files += [Path(found.plan(max_kl).save(output / "plan.safetensors")), output / "dose.svg"]
            found.dose_response(files[-1], layer=best.layer, max_kl=max_kl)
        run.record(*files, details={"sweep": dict(found.facts)})
    if run.json_:
        rows = found.frame().to_dict("records")
        chosen = None if best is None else vars(best)
        run.emit("steersman.sweep/1", {"rows": rows, "best": chosen, "max_kl": max_kl, "facts": dict(found.facts),
                                       "output": str(output) if output else None})  # fmt: skip
        return
    _show(run, found, best, max_kl)
    if output is not None:
        run.note(f"wrote {output}")


def _show(run: Run, found: Sweep, best: Row | None, max_kl: float) -> None:
    table = figures("layer", "strength", "effect", "95%", "random 95%", "p", "KL", "top-1", "", left=1)
    for row in found.pareto():
        mark = "chosen" if row is best else ""
        table.add_row(
            str(row.layer), f"{row.strength:+g}", f"{row.effect:+.3f}", _range(row.low, row.high),
            _range(row.control_low, row.control_high), "-" if row.p_value is None else f"{row.p_value:.3f}",
            f"{row.kl:.4f}", f"{row.top1:.0%}", mark,
        )  # fmt: skip
    n = found.facts["items"]
    unit = found.facts["target"]["unit"]
    run.out.print(f"effect in {unit} over {n} items; the cells that no other beats in both effect and KL", markup=False)
    show(run.out, table)
    if best is None:
        return
    held = "" if best.report_effect is None else (
        f"; {best.report_effect:+.3f} {_range(best.report_low, best.report_high)} on items kept from the choice"
    )  # fmt: skip
    run.out.print(
        f"layer {best.layer} at {best.strength:+g}: {best.effect:+.3f} within {max_kl:g} nats per token{held}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    asked = found.facts["controls"].get("prompt")
    if asked:
        run.out.print(f"asking in words instead ({asked['instruction']!r}): {asked['value']:+.3f}", markup=False,
                      soft_wrap=True)  # fmt: skip
    for note in found.facts["notes"]:
        run.note(f"note: {note}")


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--strengths {text!r} is no list of numbers", fix="for example --strengths -2,-1,0,1,2"
        ) from None


def _vector(run: Run, model: Any) -> Any:
    from .. import spec
    from .vectors import check_operation, find

    check_operation(run)
    tokens = run.steering["vector"] or []
    if len(tokens) != 1 or run.steering["plan"] is not None:
        raise InputError("a sweep tries one vector", fix="give one -v NAME, without strength and layers, and no --plan")
    item = spec.parse_token(tokens[0])
    if "strength" in item or "layers" in item:
        raise InputError(f"-v {tokens[0]} names a strength or layers", why="a sweep tries many",
                         fix=f"-v {item['vector']}, with --strengths and --layers")  # fmt: skip
    return find(run, item["vector"], model)


def _plan(
    run: Run, model: str, texts: list[str], doses: list[float], layers: Any, random: int, output: Path | None
) -> None:  # fmt: skip
    """Say what would be done."""
    from ..sites import layer_indices
    from .dryrun import show_plan
    from .models import outline

    found = outline(model, device=run.device, dtype=run.dtype)
    tokens = sum(len(found.tokens.encode(text)) for text in texts)
    indices = None if layers == "auto" else layer_indices(layers)
    count = found.shape.n_layers if indices is None else len(set(indices))
    cells = count * len(doses)
    controls = count * len({abs(s) for s in doses if s}) * random
    naive = tokens * (cells + controls)
    document = {
        "prompts": len(texts), "tokens": tokens, "layers": layers, "strengths": doses, "cells": cells,
        "control_cells": controls, "naive_tokens": naive, "output": str(output) if output else None,
    }  # fmt: skip
    lines = [
        ("prompts", f"{len(texts)}, {tokens} tokens"),
        ("cells", f"at most {count} layers x {len(doses)} strengths, and {controls} of random directions"),
        ("at most", f"{naive:,} tokens; what comes before the first touched token or layer is computed once"),
        ("writes", "nothing" if output is None else f"{output}/ (rows.jsonl, sweep.json, plan, figures, run.json)"),
    ]
    show_plan(run, found, lines, document, extra_bytes=16.0 * 4096 * found.shape.d_model)
