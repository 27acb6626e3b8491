"""``steer extract``: from contrast pairs to a vector, with what it is worth at each layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from . import extract_text as say
from .arguments import Chart, Layers, Model, Read, Site, checked_file, layers_of, own, token_of
from .failures import InputError
from .inputs import read_lines
from .session import Run

if TYPE_CHECKING:
    from ..data import ContrastPairs
    from ..vector import SteeringVector


_METHODS = (
    "mean_difference, mean_centred, pca, repeng_compatible, lda, logistic, iti or response_mean: how the direction is "
    "computed."
)
_PAIRS = (
    "A .jsonl or .csv file with positive and negative, or text and label (and source, if several items have one); or "
    "a packaged set: sentiment, formal."
)

Pairs = Annotated[str | None, own("--pairs", metavar="FILE", help=_PAIRS)]
Positive = Annotated[
    Path | None, own("--positive", metavar="FILE", help="Positive examples, one a line; with --negative.")
]
Negative = Annotated[Path | None, own("--negative", metavar="FILE", help="Negative examples, one a line.")]
Method = Annotated[str, own("--method", metavar="NAME", help=_METHODS)]
Options = Annotated[
    list[str] | None,
    own("--option", metavar="NAME=VALUE", help="An option of the method, such as penalty=0.1 or heads=16. Repeat."),
]
Name = Annotated[
    str | None, own("--name", metavar="NAME", help="What to call the vector.", show_default="the file's name")
]
Quality = Annotated[
    bool, own("--quality/--no-quality", help="Measure held-out separation at each layer, which chooses one.")
]
ShowRead = Annotated[bool, own("--show-read", metavar="", help="Only show which token of the first examples is read.")]
Output = Annotated[
    Path | None,
    own("--output", "-o", metavar="FILE", help="Where to save it (.safetensors); nothing is saved without."),
]
TokenBudget = Annotated[
    int | None,
    own("--token-budget", metavar="N", help="Padded tokens per forward pass.", show_default="measured"),
]
Ray = Annotated[
    str | None,
    own(
        "--ray",
        metavar="ADDRESS",
        help="Share the work out over a Ray cluster: its address, auto for the one of this machine, or local to start "
        "one.",
    ),
]
Workers = Annotated[
    int | None, own("--workers", metavar="N", help="Ray workers.", show_default="one per CPU of the cluster")
]


def extract(
    run: Run,
    model: Model,
    pairs: Pairs = None,
    positive: Positive = None,
    negative: Negative = None,
    method: Method = "mean_difference",
    option: Options = None,
    layers: Layers = "all",
    site: Site = None,
    read: Read = None,
    name: Name = None,
    quality: Quality = True,
    show_read: ShowRead = False,
    chart: Chart = None,
    output: Output = None,
    token_budget: TokenBudget = None,
    ray: Ray = None,
    workers: Workers = None,
) -> None:
    """Find the direction between positive and negative examples.

    Prints how well it separates held-out examples at each layer, against shuffled labels, and which layer is best.
    Interrupted, the same command goes on where it stopped: what is done lies in NAME.partial.safetensors beside -o.
    """
    from ..extraction.methods import find_method

    examples = _examples(run, pairs, positive, negative, name or (output.stem if output else None))
    target = checked_file(output, ".safetensors", "vectors are saved in")
    drawn = checked_file(chart, ".svg", "figures are drawn in", "--chart")
    _check_chart(drawn, method, quality)
    settings: dict[str, Any] = {"method": method, "layers": layers_of(layers), "site": site, "read": token_of(read)}
    options = parsed_options(option or [])
    find_method(method).with_options(options)
    runner = _runner(ray, workers)
    if run.dry_run:
        say.plan(run, model, examples, **settings, target=target)
        return
    loaded = run.load(model)
    if show_read:
        _show_read(run, loaded, examples, method, settings["read"])
        return
    from ..extraction import extract as find

    vector = find(
        loaded, examples, **settings, quality=quality, seed=run.seed, token_budget=token_budget, runner=runner,
        progress=False if run.quiet else None,
        checkpoint=target and target.with_name(f"{target.stem}.partial.safetensors"), **options,
    )  # fmt: skip
    written = _save(run, vector, target, drawn)
    if run.json_:
        document = {**_document(vector), "model": _model(run), "output": str(target) if target else None}
        run.emit("steersman.extract/1", document)
        return
    say.result(run, vector, written)


def _runner(ray: str | None, workers: int | None) -> Any:
    """Who runs the model: this process, or Ray workers."""
    if ray is None:
        if workers is not None:
            raise InputError("--workers counts Ray workers", fix="add --ray local, or the address of a cluster")
        return None
    from ..extraction.ray_runner import RayRunner

    return RayRunner(address=None if ray == "local" else ray, workers=workers)


def _save(run: Run, vector: SteeringVector, target: Path | None, chart: Path | None) -> list[Path]:
    """Write what was asked for, and the record beside it."""
    written = [path for path in (target, chart) if path is not None]
    figure = say.curve(vector) if chart is not None else ""
    if target is not None:
        vector.save(target)
    if chart is not None:
        from ..charts import write

        write(figure, chart)
    for folder in dict.fromkeys(path.parent for path in written):
        here = [path for path in written if path.parent == folder]
        run.record(*here, details={"vector": _document(vector)})
    return written


def parsed_options(given: Sequence[str]) -> dict[str, Any]:
    """``["penalty=0.1", "heads=16"]`` as keyword arguments; what is no JSON value is text.

    Raises:
        InputError: one without a name or a value.
    """
    found: dict[str, Any] = {}
    for item in given:
        name, mark, value = item.partition("=")
        if not mark or not name.strip().isidentifier() or not value:
            raise InputError(f"--option {item} names no option", fix="write NAME=VALUE, for example penalty=0.1")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


def _check_chart(chart: Path | None, method: str, quality: bool) -> None:
    from ..extraction.methods import find_method

    if chart is not None and (not quality or find_method(method).per_head):
        why = "--no-quality measures nothing" if not quality else f"{method} is measured head by head"
        raise InputError("--chart has nothing to draw", why=f"it shows held-out accuracy by layer, and {why}")


def _show_read(run: Run, model: Any, examples: ContrastPairs, method: str, read: Any) -> None:
    from ..extraction import show_read
    from ..extraction.methods import find_method

    view = show_read(model, examples, read=read if read is not None else find_method(method).read or "last")
    if run.json_:
        texts = [
            {"label": shown.label, "tokens": shown.length, "read": list(shown.read), "stretches": shown.stretches}
            for shown in view.texts
        ]
        run.emit("steersman.show-read/1", {"read": view.read, "texts": texts, "total": view.total})
        return
    if run.out.is_terminal:
        run.out.print(view)
    else:
        run.out.print(str(view), markup=False, soft_wrap=True)


def _examples(
    run: Run, pairs: str | None, positive: Path | None, negative: Path | None, name: str | None
) -> ContrastPairs:
    from ..data import ContrastPairs

    if pairs is not None:
        if positive or negative:
            raise InputError("--pairs and --positive / --negative are two ways to give examples", fix="use one of them")
        return contrast_pairs(run, pairs, name)
    if positive is None or negative is None:
        raise InputError(
            "no examples given",
            why="a direction is found between positive and negative ones",
            fix="--pairs FILE, or --positive FILE and --negative FILE",
        )
    run.inputs += [positive, negative]
    return ContrastPairs(read_lines(positive), read_lines(negative), name=name or positive.stem)


def contrast_pairs(run: Run, pairs: str, name: str | None = None) -> ContrastPairs:
    """The pairs of a file, or a packaged set.

    Raises:
        InputError, DataError: it is neither.
    """
    from .. import demo
    from ..data import ContrastPairs

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


def _model(run: Run) -> dict[str, Any]:
    from ..model.provenance import describe

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
