"""``steer eval``: what a plan does to a model, and what it breaks, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import eval_text as say
from .arguments import Model
from .failures import GATE, InputError
from .inputs import read_lines, read_prompts
from .session import Run

if TYPE_CHECKING:
    from ..evaluation import Evaluation, Target
    from ..model import SteeringModel

_TARGET, _DATA = "Target", "Data"


def evaluate(
    run: Run,
    model: Model,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            show_envvar=False,
            metavar="MODEL",
            help="Compare with this model, edited or baked, instead of steering.",
        ),
    ] = None,
    positive: Annotated[
        list[str] | None,
        typer.Option(
            "--positive",
            show_envvar=False,
            metavar="TEXT",
            rich_help_panel=_TARGET,
            help='A continuation that is wanted, such as " great"; repeat for more.',
        ),
    ] = None,
    negative: Annotated[
        list[str] | None,
        typer.Option(
            "--negative",
            show_envvar=False,
            metavar="TEXT",
            rich_help_panel=_TARGET,
            help="A continuation that is not; with --positive.",
        ),
    ] = None,
    choices: Annotated[
        Path | None,
        typer.Option(
            "--choices",
            show_envvar=False,
            metavar="FILE",
            rich_help_panel=_TARGET,
            help="Multiple-choice questions: JSON lines with question, answer_matching_behavior and "
            "answer_not_matching_behavior.",
        ),
    ] = None,
    regex: Annotated[
        str | None,
        typer.Option(
            "--regex",
            show_envvar=False,
            metavar="PATTERN",
            rich_help_panel=_TARGET,
            help="The share of generated texts in which this is found.",
        ),
    ] = None,
    instruction: Annotated[
        str | None,
        typer.Option(
            "--instruction",
            show_envvar=False,
            metavar="TEXT",
            rich_help_panel=_TARGET,
            help="Asks for the same in words, to compare steering with.",
            show_default="made from the target",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            show_envvar=False,
            metavar="FILE",
            rich_help_panel=_DATA,
            help="One prompt a line, or JSON lines with prompt and source.",
        ),
    ] = None,
    other_prompts: Annotated[
        Path | None,
        typer.Option(
            "--other-prompts",
            show_envvar=False,
            metavar="FILE",
            rich_help_panel=_DATA,
            help="Prompts of another kind: does the effect carry over?",
        ),
    ] = None,
    neutral: Annotated[
        Path | None,
        typer.Option(
            "--neutral",
            show_envvar=False,
            metavar="FILE",
            rich_help_panel=_DATA,
            help="Texts on which nothing should change, one a line.",
            show_default="packaged",
        ),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(
            "--facts",
            show_envvar=False,
            metavar="FILE",
            rich_help_panel=_DATA,
            help="Facts that should still be known: JSON lines with prompt, answer and perhaps wrong.",
            show_default="packaged capitals",
        ),
    ] = None,
    no_facts: Annotated[
        bool,
        typer.Option("--no-facts", metavar="", show_envvar=False, rich_help_panel=_DATA, help="Ask no facts."),
    ] = False,
    no_texts: Annotated[
        bool,
        typer.Option("--no-texts", metavar="", show_envvar=False, rich_help_panel=_DATA, help="Generate no texts."),
    ] = False,
    random: Annotated[
        int, typer.Option("--random", metavar="N", min=0, show_envvar=False, help="Random directions as control.")
    ] = 100,
    max_kl: Annotated[
        float,
        typer.Option("--max-kl", metavar="X", show_envvar=False, help="The KL budget, nats per affected token."),
    ] = 0.1,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-under",
            metavar="GATE",
            show_envvar=False,
            help="Exit with 3 unless this holds, such as 'kl<=0.1' or 'effect.low>0'; repeat for more.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            show_envvar=False,
            metavar="FILE",
            help="Also write the JSON document (.json) or a report (.html) to this file.",
        ),
    ] = None,
) -> None:
    """Measure what a plan does to a model, beside random directions, words and chance, and what it breaks."""
    _check(run, against, positive, negative, choices, regex, prompts, output)
    target = _target(run, positive, negative, choices, regex, instruction)
    options: dict[str, Any] = {"target": target, "instruction": instruction, "random": random, "max_kl": max_kl}
    options |= _data(run, prompts, other_prompts, neutral, facts, no_facts)
    options |= {"generate": not no_texts, "gates": fail_under or (), "seed": run.seed}
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


def _check(
    run: Run, against: str | None, positive: Any, negative: Any, choices: Path | None, regex: str | None,
    prompts: Path | None, output: Path | None,
) -> None:  # fmt: skip
    steered = bool(run.steering["vector"] or run.steering["plan"])
    if steered == (against is not None):
        raise InputError(
            "nothing to evaluate" if not steered else "--against stands instead of a plan",
            fix="give --plan FILE, or -v NAME:STRENGTH@LAYER, or --against MODEL",
        )
    if bool(positive) != bool(negative):
        raise InputError("--positive and --negative go together", fix="give at least one of each")
    given = [name for name, value in (("--positive", positive), ("--choices", choices), ("--regex", regex)) if value]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are two targets", fix="give one, and evaluate again for the other")
    if given and choices is None and prompts is None:
        raise InputError(f"{given[0]} is measured on prompts", fix="add --prompts FILE, one prompt a line")
    if choices is not None and prompts is not None:
        raise InputError("--choices brings its own questions", fix="leave --prompts out")
    if output is not None and output.suffix not in (".json", ".html"):
        raise InputError(f"-o {output} must end in .json or .html", fix=f"-o {output.with_suffix('.json')}")
    if output is not None and not output.parent.is_dir():
        raise InputError(f"there is no folder {output.parent}", fix=f"mkdir -p {output.parent}")


def _target(
    run: Run, positive: list[str] | None, negative: list[str] | None, choices: Path | None, regex: str | None,
    instruction: str | None,
) -> Target | None:  # fmt: skip
    from ..evaluation import RegexRate, contrast, multiple_choice

    if positive and negative:
        return contrast(positive, negative, instruction=instruction)
    if choices is not None:
        run.inputs.append(choices)
        return multiple_choice(choices, instruction=instruction)
    return RegexRate(regex, instruction=instruction, seed=run.seed) if regex is not None else None


def _data(
    run: Run, prompts: Path | None, other: Path | None, neutral: Path | None, facts: Path | None, no_facts: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    run.inputs += [path for path in (prompts, other, neutral, facts) if path is not None]
    if prompts is not None:
        found["prompts"], found["sources"] = read_prompts(prompts)
    if other is not None:
        found["other_prompts"], found["other_sources"] = read_prompts(other)
    if neutral is not None:
        found["neutral"] = read_lines(neutral)
    from ..evaluation.metrics.capability import read_facts

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
