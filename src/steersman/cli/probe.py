"""``steer probe``: what can be read off activations by a linear map, layer by layer, with its controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from . import probe_text as say
from .arguments import READS, Chart, Layers, Model, checked_file, layers_of, own, token_of
from .failures import InputError
from .session import Run

if TYPE_CHECKING:
    from ..data import LabelledTexts
    from ..probe import LinearProbe


_DATA = (
    "A .jsonl or .csv file with text and label (two or more classes; and source, if several texts have one), or with "
    "positive and negative; or a packaged set: sentiment, formal."
)
Data = Annotated[str | None, own("--data", metavar="FILE", help=_DATA)]
Site = Annotated[str, own("--site", metavar="SITE", help="The component that is read.")]
Read = Annotated[str, own("--read", metavar="WHERE", help=READS)]
Folds = Annotated[int, own("--folds", metavar="N", min=2, help="Parts that are held out in turn.")]
Vector = Annotated[
    Path | None, own("--vector", metavar="FILE", help="Also save the probe's direction, as a steering vector.")
]
Label = Annotated[
    str | None,
    own("--label", metavar="LABEL", help="For --vector: the class that is positive.", show_default="of two, the last"),
]
Output = Annotated[Path | None, own("--output", "-o", metavar="FILE", help="Where to save the probe (.safetensors).")]


def probe(
    run: Run,
    model: Model,
    data: Data = None,
    layers: Layers = "all",
    site: Site = "resid_post",
    read: Read = "last",
    folds: Folds = 5,
    vector: Vector = None,
    label: Label = None,
    chart: Chart = None,
    output: Output = None,
) -> None:
    """Fit a linear probe at every layer, and measure it on texts it has not seen.

    Prints held-out accuracy with its 95% interval, beside the same procedure on shuffled labels.
    """
    texts = _labelled(run, data)
    target = checked_file(output, ".safetensors", "probes are saved in")
    direction = checked_file(vector, ".safetensors", "vectors are saved in", "--vector")
    drawn = checked_file(chart, ".svg", "figures are drawn in", "--chart")
    positive = _positive(texts, label, direction)
    settings: dict[str, Any] = {"layers": layers_of(layers), "site": site, "read": token_of(read)}
    outputs = [path for path in (target, direction, drawn) if path is not None]
    if run.dry_run:
        say.plan(run, model, texts, **settings, outputs=outputs)
        return
    loaded = run.load(model)
    from ..extraction import activations
    from ..probe import LinearProbe

    with run.working(f"reading {len(texts)} texts"):
        acts = activations(loaded, list(texts.texts), **settings)
    with run.working(f"fitting {len(acts.layers)} layers"):
        found = LinearProbe(folds, seed=run.seed).fit(acts, list(texts.labels), groups=texts.sources)
    if target is not None:
        found.save(target)
    if direction is not None:
        found.to_vector(positive, name=direction.stem).save(direction)
    if drawn is not None:
        found.svg(drawn)
    _record(run, found, outputs)
    if run.json_:
        from ..model.provenance import describe

        run.emit("steersman.probe/1", {**say.document(found), "model": describe(loaded), "outputs": outputs})
        return
    say.result(run, found, outputs)


def _labelled(run: Run, data: str | None) -> LabelledTexts:
    from .. import demo
    from ..data import LabelledTexts

    if data is None:
        raise InputError(
            "no labelled texts given", why="a probe is fitted on texts of known classes", fix="--data FILE.jsonl"
        )
    if data in demo.PAIRS and not Path(data).is_file():
        return LabelledTexts.from_pairs(demo.pairs(data))
    path = Path(data)
    readers = {".jsonl": LabelledTexts.from_jsonl, ".csv": LabelledTexts.from_csv}
    if path.suffix not in readers:
        raise InputError(
            f"--data {data} is no file of labelled texts",
            why="it ends neither in .jsonl nor in .csv, and no packaged set has that name",
            fix=f"give a .jsonl or .csv file, or one of {', '.join(demo.PAIRS)}",
        )
    run.inputs.append(path)
    return readers[path.suffix](path, name=path.stem)


def _positive(texts: LabelledTexts, label: str | None, direction: Path | None) -> Any:
    """The class that ``--label`` names, which on the command line is text."""
    classes = {str(known): known for known in texts.labels}
    if len(classes) < 2:
        raise InputError(
            f"all texts are of one class, {next(iter(classes))}", fix="give texts of two or more classes in --data"
        )
    if label is None:
        if direction is not None and len(classes) > 2:
            raise InputError(
                "--vector needs --label",
                why=f"there are {len(classes)} classes, and a direction has one of them on its positive side",
                fix=f"--label {next(iter(classes))}",
            )
        return None
    if direction is None:
        raise InputError("--label belongs to --vector", fix="add --vector FILE.safetensors, or leave --label out")
    if label not in classes:
        raise InputError(f"--label {label} is no class", fix=f"use one of {', '.join(classes)}")
    return classes[label]


def _record(run: Run, found: LinearProbe, outputs: list[Path]) -> None:
    for folder in dict.fromkeys(path.parent for path in outputs):
        run.record(*(path for path in outputs if path.parent == folder), details={"probe": say.document(found)})
