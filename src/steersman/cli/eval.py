"""``steer eval``: what a plan does to a model, and what it breaks, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import eval_text as say
from .arguments import Model, own
from .failures import GATE, InputError
from .inputs import read_prompts
from .session import Run
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
    data,
    neutral_texts,
)

if TYPE_CHECKING:
    from ..evaluation import Evaluation
    from ..model import SteeringModel


Against = Annotated[
    str | None,
    own("--against", metavar="MODEL", help="Compare with this model, edited or baked, instead of steering."),
]
OtherPrompts = Annotated[
    Path | None,
    data("--other-prompts", metavar="FILE", help="Prompts of another kind: does the effect carry over?"),
]
Facts = Annotated[
    Path | None,
    data(
        "--facts",
        metavar="FILE",
        help="Facts that should still be known: JSON lines with prompt, answer and perhaps wrong.",
        show_default="packaged capitals",
    ),
]
NoFacts = Annotated[bool, data("--no-facts", metavar="", help="Ask no facts.")]
NoTexts = Annotated[bool, data("--no-texts", metavar="", help="Generate no texts.")]
FailUnder = Annotated[
    list[str] | None,
    own(
        "--fail-under",
        metavar="GATE",
        help="Exit with 3 unless this holds, such as 'kl<=0.1' or 'effect.low>0'; repeat for more.",
    ),
]
Output = Annotated[
    Path | None,
    own(
        "--output",
        "-o",
        metavar="FILE",
        help="Also write the JSON document (.json) or a report (.html) to this file.",
    ),
]


def evaluate(
    run: Run,
    model: Model,
    against: Against = None,
    positive: Positive = None,
    negative: Negative = None,
    choices: Choices = None,
    regex: Regex = None,
    probe: Probe = None,
    probe_layer: ProbeLayer = None,
    instruction: Instruction = None,
    prompts: Prompts = None,
    other_prompts: OtherPrompts = None,
    neutral: Neutral = None,
    facts: Facts = None,
    no_facts: NoFacts = False,
    no_texts: NoTexts = False,
    random: Random = 100,
    max_kl: MaxKl = 0.1,
    fail_under: FailUnder = None,
    output: Output = None,
) -> None:
    """Measure what a plan does to a model, beside random directions, words and chance, and what it breaks."""
    _check(run, against, output, fail_under or [])
    asked = Asked(run, positive, negative, choices, regex, probe, probe_layer, instruction, prompts)
    options: dict[str, Any] = {
        "target": asked.target(), "instruction": instruction, "random": random, "max_kl": max_kl,
        "generate": not no_texts, "gates": fail_under or (), "seed": run.seed,
    }  # fmt: skip
    if asked.prompts is not None:
        options |= {"prompts": asked.prompts, "sources": asked.sources}
    options |= _texts(run, other_prompts, neutral, facts, no_facts)
    if run.dry_run:
        say.plan(run, model, against, options, output)
        return
    loaded = run.load(model)
    result = _measure(run, loaded, against, options)
    if output is not None:
        _write(run, result, output)
    if run.json_:
        run.emit("steersman.evaluation/1", {k: v for k, v in result.as_json().items() if k != "schema"})
    else:
        say.result(run, result, output)
    if not result.passed:
        raise typer.Exit(GATE)


def _check(run: Run, against: str | None, output: Path | None, gates: list[str]) -> None:
    from ..evaluation.gates import Gate

    for text in gates:
        Gate.parse(text)
    steered = bool(run.steering["vector"] or run.steering["plan"])
    if steered == (against is not None):
        raise InputError(
            "nothing to evaluate" if not steered else "--against stands instead of a plan",
            fix="give --plan FILE, or -v NAME:STRENGTH@LAYER, or --against MODEL",
        )
    if output is not None and output.suffix not in (".json", ".html"):
        raise InputError(f"-o {output} must end in .json or .html", fix=f"-o {output.with_suffix('.json')}")
    if output is not None and not output.parent.is_dir():
        raise InputError(f"there is no folder {output.parent}", fix=f"mkdir -p {output.parent}")


def _texts(run: Run, other: Path | None, neutral: Path | None, facts: Path | None, no_facts: bool) -> dict[str, Any]:
    """What is measured beside the target."""
    from ..evaluation.metrics.capability import read_facts

    run.inputs += [path for path in (other, facts) if path is not None]
    found: dict[str, Any] = {}
    if other is not None:
        found["other_prompts"], found["other_sources"] = read_prompts(other)
    texts = neutral_texts(run, neutral)
    if texts is not None:
        found["neutral"] = texts
    found["facts"] = False if no_facts else read_facts(facts) if facts is not None else True
    return found


def _measure(run: Run, model: SteeringModel, against: str | None, options: dict[str, Any]) -> Evaluation:
    from ..evaluation import evaluate as measure
    from .models import load
    from .vectors import make_plan

    if against is None:
        other: Any = make_plan(run, model)
    else:
        with run.working(f"loading {against}"):
            other = load(against, device=run.device, dtype=run.dtype, progress=not run.quiet)
    with run.working("measuring") as progress:
        return measure(model, other, **options, progress=progress)


def _write(run: Run, result: Evaluation, output: Path) -> None:
    if output.suffix == ".json":
        result.save(output)
    else:
        from ..report import write

        write(output, evaluation=result.as_json())
    run.record(output, details={"passed": result.passed})
