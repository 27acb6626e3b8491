"""``steer sweep``: which layer, how strong, what it breaks."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from . import sweep_text as say
from .arguments import AutoLayers, Model, layers_of, own
from .extract import contrast_pairs
from .failures import InputError
from .session import Run, records
from .target_options import (
    Asked,
    Choices,
    Instruction,
    MaxKl,
    Negative,
    Neutral,
    Positive,
    Probe,
    ProbeLayer,
    Prompts,
    Random,
    Regex,
    neutral_texts,
)
from .vectors import only_vector

if TYPE_CHECKING:
    from ..sweeping import Row, Sweep


Strengths = Annotated[str, own("--strengths", metavar="LIST", help="Numbers with commas between.")]
Pairs = Annotated[
    str | None,
    own(
        "--pairs",
        metavar="FILE",
        help="What the vector was extracted from, or a packaged set (sentiment, formal): vectors from shuffled labels "
        "are tried too.",
    ),
]
Screen = Annotated[
    int | None,
    own(
        "--screen",
        metavar="K",
        min=1,
        help="First keep the K layers of steepest effect, to first order, and say which were dropped.",
    ),
]
Halving = Annotated[
    int | None,
    own(
        "--halving",
        metavar="N",
        min=1,
        help="First measure all cells on N prompts, the better half on twice as many, and so on.",
    ),
]
Output = Annotated[Path | None, own("--output", "-o", metavar="DIR", help="Where rows, plan and figures go.")]


def sweep(
    run: Run,
    model: Model,
    positive: Positive = None,
    negative: Negative = None,
    choices: Choices = None,
    regex: Regex = None,
    probe: Probe = None,
    probe_layer: ProbeLayer = None,
    instruction: Instruction = None,
    prompts: Prompts = None,
    neutral: Neutral = None,
    layers: AutoLayers = "auto",
    strengths: Strengths = "-2,-1.5,-1,-0.5,0,0.5,1,1.5,2",
    max_kl: MaxKl = 0.1,
    random: Random = 100,
    pairs: Pairs = None,
    screen: Screen = None,
    halving: Halving = None,
    output: Output = None,
) -> None:
    """Find the layer and strength that do most within a budget of damage, with controls.

    With -o each finished layer is kept, and the same command goes on where it was interrupted.
    """
    asked = Asked(run, positive, negative, choices, regex, probe, probe_layer, instruction, prompts)
    target = asked.required()
    doses, chosen = _numbers(strengths), layers if layers == "auto" else layers_of(layers)
    options: dict[str, Any] = {
        "prompts": asked.prompts, "sources": asked.sources, "target": target, "layers": chosen, "strengths": doses,
        "neutral": neutral_texts(run, neutral), "random": random, "screen": screen, "halving": halving,
        "pairs": None if pairs is None else contrast_pairs(run, pairs), "seed": run.seed,
    }  # fmt: skip
    name = only_vector(run, "a sweep")
    if run.dry_run:
        say.plan(run, model, name, options, output)
        return
    found = _found(run, model, name, options, output)
    best = _finish(run, found, max_kl, output)
    if output is not None:
        _report(run, found, asked.prompts or [], max_kl, output)
    if run.json_:
        chosen_row = None if best is None else vars(best)
        document = {"rows": records(found.frame()), "best": chosen_row, "max_kl": max_kl, "facts": dict(found.facts)}
        run.emit("steersman.sweep/1", {**document, "output": str(output) if output else None})
        return
    say.result(run, found, best, max_kl)
    if output is not None:
        run.note(f"wrote {output}")


def _found(run: Run, model: str, name: str, options: dict[str, Any], output: Path | None) -> Sweep:
    """Sweep, keeping in ``output`` what is measured."""
    loaded = run.load(model)
    from ..sweeping import sweep as find
    from .vectors import find as find_vector

    vector = find_vector(run, name, loaded)
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
        return find(
            loaded, vector, **options, operation=run.steering["operation"], rows=rows, progress=progress, **settings
        )
    except KeyboardInterrupt:
        if rows is not None:
            run.note(f"interrupted; what is measured is in {rows}, and the same command goes on from there")
        raise


def _report(run: Run, found: Sweep, prompts: list[Any], max_kl: float, output: Path) -> None:
    """Write ``report.html``, with some prompts continued at minus, nothing and plus what was chosen."""
    from ..errors import DataError
    from ..evaluation import continuations
    from ..report import write

    assert run.model is not None
    samples: Any = ()
    with suppress(DataError):  # no setting keeps the budget
        plan = found.plan(max_kl)
        samples = continuations(run.model, plan, prompts, seed=run.seed) if prompts else ()
    write(output / "report.html", sweep=found, max_kl=max_kl, samples=samples)


def _finish(run: Run, found: Sweep, max_kl: float, output: Path | None) -> Row | None:
    """Choose, and write what was found."""
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
    return best


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--strengths {text!r} is no list of numbers", fix="for example --strengths -2,-1,0,1,2"
        ) from None
