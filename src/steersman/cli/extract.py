"""``steer extract``: from contrast pairs to a vector, with what it is worth at each layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import extract_text as say
from .failures import InputError
from .inputs import read_lines
from .session import Run

if TYPE_CHECKING:
    from ..data import ContrastPairs
    from ..vector import SteeringVector


def extract(
    run: Run,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="demo, a folder, or a Hugging Face id.")],
    pairs: Annotated[
        str | None,
        typer.Option(
            "--pairs",
            show_envvar=False,
            metavar="FILE",
            help="A .jsonl or .csv file with positive and negative, or text and label; or a packaged set: "
            "sentiment, formal.",
        ),
    ] = None,
    positive: Annotated[
        Path | None,
        typer.Option(
            "--positive", show_envvar=False, metavar="FILE", help="Positive examples, one a line; with --negative."
        ),
    ] = None,
    negative: Annotated[
        Path | None,
        typer.Option("--negative", show_envvar=False, metavar="FILE", help="Negative examples, one a line."),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", show_envvar=False, help="How the direction is computed.")
    ] = "mean_difference",
    layers: Annotated[
        str, typer.Option("--layers", metavar="LAYERS", show_envvar=False, help="all, 4-8, or 3,5.")
    ] = "all",
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            metavar="SITE",
            show_envvar=False,
            help="The component that is read.",
            show_default="the method's own, else resid_post",
        ),
    ] = None,
    read: Annotated[
        str | None,
        typer.Option(
            "--read",
            metavar="WHERE",
            show_envvar=False,
            help='last, mean, response, answer, after("text"), or the index of a token, such as -2.',
            show_default="the method's own, else last",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", show_envvar=False, help="What to call the vector.", show_default="the file's name"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", show_envvar=False, metavar="FILE", help="Where to save it; nothing is saved without."
        ),
    ] = None,
    token_budget: Annotated[
        int | None,
        typer.Option(
            "--token-budget",
            metavar="N",
            show_envvar=False,
            help="Padded tokens per forward pass.",
            show_default="measured",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            show_envvar=False,
            help="Share the work out over a Ray cluster: its address, auto for the one of this machine, or local to "
            "start one.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", show_envvar=False, help="Ray workers.", show_default="one per CPU of the cluster"
        ),
    ] = None,
) -> None:
    """Find the direction between positive and negative examples.

    Prints how well it separates held-out examples at each layer, against shuffled labels, and which layer is best.
    Interrupted, the same command goes on where it stopped: what is done lies in NAME.partial.safetensors beside -o.
    """
    examples = _examples(run, pairs, positive, negative, name or (output.stem if output else None))
    target = _checked_output(output)
    runner = _runner(ray, workers)
    chosen = _layers(layers)
    token = int(read) if read is not None and read.removeprefix("-").isdigit() else read
    if run.dry_run:
        say.plan(run, model, examples, method, chosen, site, token, target)
        return
    loaded = run.load(model)
    from ..extraction import extract as find

    vector = find(
        loaded, examples, method=method, layers=chosen, site=site, read=token, seed=run.seed, token_budget=token_budget,
        runner=runner, progress=False if run.quiet else None,
        checkpoint=target and target.with_name(f"{target.stem}.partial.safetensors"),
    )  # fmt: skip
    if target is not None:
        vector.save(target)
        run.record(target, details={"vector": _document(vector)})
    if run.json_:
        run.emit(
            "steersman.extract/1",
            {**_document(vector), "model": _model(run), "output": str(target) if target else None},
        )
        return
    say.result(run, vector, target)


def _runner(ray: str | None, workers: int | None) -> Any:
    """Who runs the model: this process, or Ray workers."""
    if ray is None:
        if workers is not None:
            raise InputError("--workers counts Ray workers", fix="add --ray local, or the address of a cluster")
        return None
    from ..extraction.ray_runner import RayRunner

    return RayRunner(address=None if ray == "local" else ray, workers=workers)


def _examples(
    run: Run, pairs: str | None, positive: Path | None, negative: Path | None, name: str | None
) -> ContrastPairs:
    from .. import demo
    from ..data import ContrastPairs

    if pairs is not None:
        if positive or negative:
            raise InputError("--pairs and --positive / --negative are two ways to give examples", fix="use one of them")
        if pairs in demo.PAIRS and not Path(pairs).is_file():
            return demo.pairs(pairs, name=name)
        path = Path(pairs)
        readers = {".jsonl": ContrastPairs.from_jsonl, ".csv": ContrastPairs.from_csv}
        if path.suffix not in readers:
            raise InputError(
                f"--pairs {pairs} is no file of pairs",
                why="it ends neither in .jsonl nor in .csv, and no packaged set has that name",
                fix=f"give a .jsonl or .csv file, or one of {', '.join(demo.PAIRS)}",
            )
        run.inputs.append(path)
        return readers[path.suffix](path, name=name or path.stem)
    if positive is None or negative is None:
        raise InputError(
            "no examples given",
            why="a direction is found between positive and negative ones",
            fix="--pairs FILE, or --positive FILE and --negative FILE",
        )
    run.inputs += [positive, negative]
    return ContrastPairs(read_lines(positive), read_lines(negative), name=name or positive.stem)


def _checked_output(output: Path | None) -> Path | None:
    if output is None:
        return None
    if output.suffix != ".safetensors":
        raise InputError(
            f"-o {output} must end in .safetensors",
            why="that is the format vectors are saved in",
            fix=f"-o {output.with_suffix('.safetensors')}",
        )
    if not output.parent.is_dir():
        raise InputError(f"there is no folder {output.parent}", fix=f"mkdir -p {output.parent}")
    return output


def _layers(text: str) -> str | list[int]:
    """``all``, ``4-8``, ``3,5`` or a mixture of the last two."""
    from ..errors import InterventionError
    from ..sites import layer_indices

    if "," not in text:
        layer_indices(text)
        return text
    found: list[int] = []
    for part in text.split(","):
        indices = layer_indices(part.strip())
        if indices is None:
            raise InterventionError(f"--layers {text!r}: all stands alone")
        found += indices
    return found


def _model(run: Run) -> dict[str, Any]:
    from .record import describe

    assert run.model is not None
    return describe(run.model)


def _document(vector: SteeringVector) -> dict[str, Any]:
    return {
        "name": vector.name,
        "method": vector.method,
        "site": vector.site,
        "layers": list(vector.layers),
        "chosen_layer": vector.layer,
        "gap": {str(k): v for k, v in vector.gap.items()},
        "norms": {str(k): v for k, v in vector.norms.items()},
        "quality": vector.quality,
        "metadata": dict(vector.metadata),
    }
