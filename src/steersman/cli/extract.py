"""``steer extract``: from contrast pairs to a vector, with what it is worth at each layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import figures
from .failures import Problem
from .run import Run

if TYPE_CHECKING:
    from ..data import ContrastPairs
    from ..vector import SteeringVector


def extract(
    run: Run,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="demo, a folder, or a Hugging Face id.")],
    pairs: Annotated[
        str | None, typer.Option("--pairs", metavar="FILE", help="A .jsonl or .csv file with positive and negative (or text and label); or a packaged set: sentiment, formal.")
    ] = None,
    positive: Annotated[Path | None, typer.Option("--positive", metavar="FILE", help="Positive examples, one a line; with --negative.")] = None,
    negative: Annotated[Path | None, typer.Option("--negative", metavar="FILE", help="Negative examples, one a line.")] = None,
    method: Annotated[str, typer.Option("--method", help="How the direction is computed.")] = "mean_difference",
    layers: Annotated[str, typer.Option("--layers", help="all, 4-8, or 3,5.")] = "all",
    site: Annotated[str, typer.Option("--site", help="The component that is read.")] = "resid_post",
    read: Annotated[str, typer.Option("--read", help="last, mean, or the index of a token, such as -2.")] = "last",
    name: Annotated[str | None, typer.Option("--name", help="What to call the vector.", show_default="the file's name")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to save it; nothing is saved without.")] = None,
) -> None:
    """Find the direction between positive and negative examples.

    Prints how well it separates held-out examples at each layer, against shuffled labels, and which layer is best.
    """
    examples = _examples(run, pairs, positive, negative, name or (output.stem if output else None))
    target = _checked_output(output)
    chosen = _layers(layers)
    token = int(read) if read.lstrip("-").isdigit() else read
    if run.dry_run:
        _plan(run, model, examples, chosen, site, token, target)
        return
    loaded = run.load(model)
    from ..extraction import extract as find

    with run.working(f"reading {len(examples.positive) + len(examples.negative)} examples"):
        vector = find(loaded, examples, method=method, layers=chosen, site=site, read=token, seed=run.seed)
    if target is not None:
        vector.save(target)
        run.record(target, details={"vector": _document(vector)})
    if run.json_:
        run.emit("steersman.extract/1", {**_document(vector), "model": _model(run), "output": str(target) if target else None})
        return
    _show(run, vector, target)


def _examples(run: Run, pairs: str | None, positive: Path | None, negative: Path | None, name: str | None) -> ContrastPairs:
    from .. import demo
    from ..data import ContrastPairs

    if pairs is not None:
        if positive or negative:
            raise Problem("--pairs and --positive / --negative are two ways to give examples", fix="use one of them")
        if pairs in demo.PAIRS and not Path(pairs).is_file():
            return demo.pairs(pairs, name=name)
        path = Path(pairs)
        readers = {".jsonl": ContrastPairs.from_jsonl, ".csv": ContrastPairs.from_csv}
        if path.suffix not in readers:
            raise Problem(
                f"--pairs {pairs} is no file of pairs", why="it ends neither in .jsonl nor in .csv, and no packaged set has that name",
                fix=f"give a .jsonl or .csv file, or one of {', '.join(demo.PAIRS)}",
            )  # fmt: skip
        run.inputs.append(path)
        return readers[path.suffix](path, name=name or path.stem)
    if positive is None or negative is None:
        raise Problem("no examples given", why="a direction is found between positive and negative ones", fix="--pairs FILE, or --positive FILE and --negative FILE")
    run.inputs += [positive, negative]
    return ContrastPairs(_lines(positive), _lines(negative), name=name or positive.stem)


def _lines(path: Path) -> list[str]:
    try:
        return [line.rstrip("\n") for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise Problem(f"there is no file {path}", fix="give a text file with one example a line") from None
    except UnicodeDecodeError as error:
        raise Problem(f"{path} is not UTF-8 text", why=str(error)) from error


def _checked_output(output: Path | None) -> Path | None:
    if output is None:
        return None
    if output.suffix != ".safetensors":
        raise Problem(f"-o {output} must end in .safetensors", why="that is the format vectors are saved in", fix=f"-o {output.with_suffix('.safetensors')}")
    if not output.parent.is_dir():
        raise Problem(f"there is no folder {output.parent}", fix=f"mkdir -p {output.parent}")
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


# -- saying it ------------------------------------------------------------------------------------------------------


def _plan(run: Run, model: str, examples: ContrastPairs, layers: Any, site: str, read: Any, target: Path | None) -> None:
    from ..extraction.activations import TOKEN_BUDGET
    from ..extraction.reading import Read
    from ..sites import Sites, layer_indices
    from .dryrun import passes, show
    from .models import outline

    Read.parse(read)
    found = outline(model, device=run.device, dtype=run.dtype)
    chosen = [layer for layer, _ in found.shape.expand(Sites(site, layer_indices(layers)), "--layers")]
    lengths = [len(found.tokens.encode(item)) for item in (*examples.positive, *examples.negative)]
    width = found.shape.width(site, chosen[0])
    show(
        run,
        found,
        [
            ("examples", f"{len(examples.positive)} positive, {len(examples.negative)} negative, {sum(lengths)} tokens, the longest {max(lengths)}"),
            ("work", f"{passes(lengths, TOKEN_BUDGET)} forward passes up to layer {max(chosen)}; read at {read}, {len(chosen)} layers of {site}"),
            ("writes", f"{target} and run.json" if target else "nothing (no -o)"),
        ],
        {"examples": [len(examples.positive), len(examples.negative)], "tokens": sum(lengths), "layers": chosen, "passes": passes(lengths, TOKEN_BUDGET)},
        extra_bytes=len(lengths) * len(chosen) * width * 4 + TOKEN_BUDGET * found.shape.d_model * 4 * len(chosen),
    )  # fmt: skip


def _show(run: Run, vector: SteeringVector, target: Path | None) -> None:
    out = run.out
    counts = vector.metadata
    n = counts["positive"] + counts["negative"]
    out.print(f"[bold]{vector.name or 'vector'}[/]  {vector.method} at {vector.site}, read {counts['read']}, {counts['positive']} positive and {counts['negative']} negative examples")
    out.print()
    measured = (vector.quality or {}).get("layers", {})
    if not measured:
        _show_unmeasured(run, vector)
    else:
        table = figures("layer", "accuracy", "95%", "shuffled", "AUROC", "gap", "gap/norm", "")
        for layer in vector.layers:
            figure = measured.get(str(layer))
            if figure is None:
                continue
            low, high = figure["accuracy_interval"]
            share = figure["gap_to_norm"]
            mark = "chosen" if layer == vector.layer else ""
            table.add_row(
                str(layer), f"{figure['accuracy']:.2f}", f"{low:.2f}-{high:.2f}", f"{figure['shuffled']:.2f}", f"{figure['auroc']:.3f}",
                f"{vector.gap[layer]:.2f}", "" if share is None else f"{share:.2f}", mark, style="bold" if mark else None,
            )  # fmt: skip
        out.print(table)
        out.print()
        out.print(f"Held out: n = {n} in {(vector.quality or {})['folds']} folds by source; shuffled: the same with labels exchanged.", style="dim")
    if vector.layer is not None:
        out.print(f"Chosen layer {vector.layer}: the best separation. Whether it steers best there, a sweep of layers tells.", style="dim")
    out.print(f"saved {target}" if target else "not saved (give -o FILE.safetensors)")


def _show_unmeasured(run: Run, vector: SteeringVector) -> None:
    table = figures("layer", "gap", "gap/norm")
    for layer in vector.layers:
        norm = vector.norms.get(layer)
        table.add_row(str(layer), f"{vector.gap[layer]:.2f}", f"{vector.gap[layer] / norm:.2f}" if norm else "")
    run.out.print(table)
    run.out.print()
    run.out.print("Held-out figures need 8 examples (and sources) of each kind: none were measured, no layer is chosen.", style="dim")


def _model(run: Run) -> dict[str, Any]:
    from .record import describe

    assert run.model is not None
    return describe(run.model)


def _document(vector: SteeringVector) -> dict[str, Any]:
    return {
        "name": vector.name, "method": vector.method, "site": vector.site, "layers": list(vector.layers),
        "chosen_layer": vector.layer, "gap": {str(k): v for k, v in vector.gap.items()},
        "norms": {str(k): v for k, v in vector.norms.items()}, "quality": vector.quality, "metadata": dict(vector.metadata),
    }  # fmt: skip
