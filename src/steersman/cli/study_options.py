"""What ``steer ablate`` and ``steer patch`` have in common: their sites, metric, rows of prompts, and outputs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .failures import InputError
from .inputs import read_lines
from .session import Run

if TYPE_CHECKING:
    from ..model import SteeringModel
    from ..studies.components import SitesLike
    from ..studies.metrics import MetricLike

#: what an output of each kind holds
OUTPUTS = {".svg": "the map", ".csv": "the table", ".json": "the document"}
METRICS = ("logit-difference", "probability", "log-probability", "kl", "loss")

Target = Annotated[
    str | None,
    typer.Option(
        "--target", show_envvar=False, metavar="TOKEN", help='The right next token, with its space: " Paris".'
    ),
]
Foil = Annotated[
    str | None,
    typer.Option("--foil", show_envvar=False, metavar="TOKEN", help='What it is weighed against: " London".'),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric",
        show_envvar=False,
        metavar="NAME",
        help=f"{', '.join(METRICS)}.",
        show_default="logit-difference, probability with a target alone, kl without",
    ),
]
Output = Annotated[
    list[Path] | None,
    typer.Option(
        "--output", "-o", show_envvar=False, metavar="FILE", help="Also write .svg, .csv or .json; repeat for several."
    ),
]
Top = Annotated[int, typer.Option("--top", show_envvar=False, metavar="K", min=1, help="Rows of the table printed.")]


def rows_of(run: Run, path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a .jsonl file that all have these keys; a text file gives one row a line, under the first key.

    Raises:
        InputError, DataError: no such file, no rows, lines that are no JSON, or rows that lack a key.
    """
    if path.suffix == ".jsonl":
        from ..data.pairs import read_jsonl

        rows = read_jsonl(path)
    elif len(keys) > 1:
        raise InputError(f"{path} must be a .jsonl file", why=f"each row has {', '.join(keys)}")
    else:
        rows = [{keys[0]: line} for line in read_lines(path)]
    if not rows:
        raise InputError(f"{path} is empty", fix="write one prompt a line")
    run.inputs.append(path)
    for number, row in enumerate(rows, 1):
        if not all(isinstance(row.get(key), str) for key in keys):
            raise InputError(f"{path}, row {number} lacks {' or '.join(keys)}", fix=f'{{"{keys[0]}": "...", ...}}')
    return [dict(row) for row in rows]


def answers(rows: Sequence[dict[str, Any]], name: str, given: str | None) -> str | list[str] | None:
    """``--target`` or ``--foil`` for all, or each row's own."""
    own = [row.get(name) for row in rows]
    if given is not None:
        return given
    if all(own):
        return cast("list[str]", own)
    if any(own):
        raise InputError(f"{own.index(None) + 1} of the rows has no {name}", fix=f"give one in every row, or --{name}")
    return None


def metric_of(name: str | None, target: str | list[str] | None, foil: str | list[str] | None) -> MetricLike:
    """The metric that the options mean.

    Raises:
        InputError: an unknown one, or one whose target or foil is missing.
    """
    from .. import studies

    chosen = name or ("kl" if target is None else "probability" if foil is None else "logit-difference")
    if chosen not in METRICS:
        raise InputError(f"--metric {chosen} is unknown", fix=f"use one of {', '.join(METRICS)}")
    if chosen in ("kl", "loss"):
        return chosen
    if target is None:
        raise InputError(f"--metric {chosen} needs --target", fix='for example --target " Paris"')
    if chosen == "logit-difference":
        if foil is None:
            raise InputError("--metric logit-difference needs --foil", fix='for example --foil " London"')
        return studies.logit_difference(target, foil)
    return studies.probability(target) if chosen == "probability" else studies.log_probability(target)


def sites_of(text: str) -> SitesLike:
    """``heads``, ``heads:4-6``, ``attention,mlp``, ``resid_post:3`` and the like."""
    from ..sites import attention, block, heads, mlp, neurons, site

    makers: dict[str, Callable[[Any], Any]] = {
        "heads": heads, "attention": attention, "mlp": mlp, "neurons": neurons, "block": block,
    }  # fmt: skip
    found: list[Any] = []
    for part in text.split(","):
        name, _, layers = part.strip().partition(":")
        chosen = layers or "all"
        found.append(makers[name](chosen) if name in makers else site(name, chosen))
    return found


def checked_outputs(outputs: list[Path] | None) -> list[Path]:
    """The output files, each of a kind that can be written into a folder that exists."""
    for path in outputs or []:
        if path.suffix not in OUTPUTS:
            raise InputError(
                f"-o {path} must end in {', '.join(OUTPUTS)}", why="that is what a study can be written as"
            )
        if not path.parent.is_dir():
            raise InputError(f"there is no folder {path.parent}", fix=f"mkdir -p {path.parent}")
    return list(outputs or [])


def deliver(run: Run, schema: str, study: Any, model: SteeringModel, outputs: Sequence[Path]) -> bool:
    """Write a study as asked, each file whole or not at all, the record of the run beside them, and the document.

    Returns:
        whether the document was printed, so that nothing else is to be.
    """
    from ..errors import DataError
    from ..files.atomic import replacing
    from ..model.provenance import describe
    from .session import as_json

    document = {**study.document(), "model": describe(model), "outputs": [str(path) for path in outputs]}
    texts: dict[Path, str] = {}
    for path in outputs:
        if path.suffix == ".svg":
            try:
                texts[path] = study.heatmap()
            except DataError:  # no map of two sides: the largest, as bars
                texts[path] = study.bars()
        else:
            texts[path] = (
                study.frame().to_csv(index=False) if path.suffix == ".csv" else as_json(schema, document) + "\n"
            )
    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if outputs:
        run.record(*outputs, details={"study": document["settings"]})
    if run.json_:
        run.emit(schema, document)
    return run.json_


@contextmanager
def counting(run: Run, text: str) -> Generator[Callable[[int, int], None]]:
    """A progress bar on a terminal's stderr; elsewhere nothing."""
    if run.quiet or not run.err.file.isatty():
        yield lambda done, total: None
        return
    from rich.progress import Progress

    with Progress(console=run.err, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
