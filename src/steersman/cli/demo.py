"""``steer demo``: the tour, rendered."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import WIDEST
from .demo_text import render, what_next
from .failures import InputError
from .session import Run, as_json

if TYPE_CHECKING:
    from ..demo.tour import Tour


def demo(
    run: Run,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            show_envvar=False,
            metavar="FILE",
            help="Also save it: as a picture of the terminal (.svg), or as the JSON document (.json).",
        ),
    ] = None,
) -> None:
    """See what steering does: a tour on the embedded model, offline, in under a minute."""
    _check_output(output)
    if run.dry_run:
        _plan(run, output)
        return
    model = run.load("demo")
    from ..demo.tour import tour

    if run.quiet or not run.err.file.isatty():
        found = tour(model, seed=run.seed)
    else:
        with run.err.status("looking around", spinner="dots") as status:
            found = tour(model, seed=run.seed, progress=status.update)
    if output is not None:
        _save(run, output, found)
    if run.json_:
        run.emit("steersman.demo/1", document(found, run.seconds))
        return
    render(run.out, found)
    run.note(f"took {run.seconds:.0f} s, {found.seconds:.0f} s of it for the measurements")


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    if output.suffix not in (".svg", ".json"):
        raise InputError(f"-o {output} must end in .svg or .json", fix=f"-o {output.with_suffix('.svg')}")
    if not output.parent.is_dir():
        raise InputError(f"there is no folder {output.parent}", fix=f"mkdir -p {output.parent}")


def _save(run: Run, output: Path, found: Tour) -> None:
    from ..files.atomic import replacing

    text = picture(found) if output.suffix == ".svg" else as_json("steersman.demo/1", document(found, run.seconds))
    with replacing(output) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    run.record(output)


def picture(found: Tour) -> str:
    """The tour in a terminal, as SVG."""
    import io
    import re

    from rich.console import Console

    console = Console(
        record=True, width=WIDEST, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False
    )
    console.print("[bold green]$[/] steer demo\n")
    render(console, found)
    drawn = console.export_svg(title="steer demo", unique_id="steer-demo")
    return re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)  # fonts of the reader's own; nothing is fetched


def document(found: Tour, seconds: float) -> dict[str, Any]:
    """The tour as values, with the figures that are derived."""
    directions = [
        {
            **asdict(d),
            "effect": {
                **asdict(d.effect),
                "random_strongest": d.effect.strongest,
                "random_mean": d.effect.typical,
                "p_value": d.effect.p_value,
            },
        }
        for d in found.directions
    ]
    return {
        **asdict(found),
        "layer": found.layer,
        "directions": directions,
        "total_seconds": seconds,
        "next": [command for command, _ in what_next(found)],
    }


def _plan(run: Run, output: Path | None) -> None:
    from ..demo.choosing import DRAWN, NEUTRAL, TRIED
    from ..demo.steering import PROMPTS, RANDOM_DIRECTIONS
    from .dryrun import show_plan
    from .models import outline

    found = outline("demo", device=run.device, dtype=run.dtype)
    rows = 2 * (3 + 2 * RANDOM_DIRECTIONS) * len(PROMPTS)
    lines = [
        (
            "work",
            f"extraction from 48 pairs; a sweep of at most {found.shape.n_layers} layers x {len(TRIED)} strengths with "
            f"{DRAWN} random directions and {NEUTRAL} neutral texts; about {rows} short prompts for effects and "
            f"controls; 10 countries by {found.shape.n_layers} layers",
        ),
        ("writes", f"{output} and run.json" if output else "nothing"),
    ]
    show_plan(run, found, lines, {"prompts": rows}, extra_bytes=256 * 12 * found.hf.config.vocab_size * 12)
