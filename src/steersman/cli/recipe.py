"""``steer run``: a recipe from data to what is shipped, each step checked before the first begins."""

from __future__ import annotations

import io
import json
import shlex
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import own
from .console import escape
from .failures import INTERRUPTED, OK, InputError, explain
from .recipe_file import Recipe, command_of, read
from .recipe_state import STATE, Finished
from .recipe_steps import Files, Step, check_wanted, no_plan, steps_of
from .session import Run, as_json

if TYPE_CHECKING:
    from rich.console import Console

File = Annotated[Path, typer.Argument(metavar="RECIPE", help="A .toml file.")]
Anew = Annotated[bool, own("--anew", metavar="", help="Start over: what this recipe has made before is replaced.")]


#: what a step's command would do: in words, and as the document of its dry run
Tried = tuple[str, dict[str, Any]]


def run_recipe(run: Run, recipe: File, anew: Anew = False) -> None:
    """Carry out a recipe: extract, sweep, measure, generate and export as one TOML file says.

    All is checked before work begins. Interrupted, the same command goes on; what is finished is not done again.
    """
    wanted = read(recipe)
    run.inputs.append(recipe)
    _settle(run, wanted)
    check_wanted(wanted)
    files, finished = Files.of(wanted), Finished(wanted)
    steps = [_with(step, run) for step in steps_of(wanted, files, files)]
    if not anew:
        finished.check(steps)
    tried = _try(run, wanted)
    if run.dry_run:
        _show_trial(run, wanted, steps, tried, finished)
        return
    if anew:  # only now that all is known to be right
        finished.remove()
        finished.check(steps)
    wanted.output.mkdir(parents=True, exist_ok=True)
    code = _carry_out(run, wanted, steps, files, finished)
    _deliver(run, wanted, steps, files, finished)
    if code != OK:
        raise typer.Exit(code)


def _settle(run: Run, recipe: Recipe) -> None:
    """Seed and precision from the recipe, or else from the command."""
    for name, given in (("seed", run.seed or None), ("dtype", run.dtype)):
        own_value = getattr(recipe, name)
        if given is not None and own_value is not None and given != own_value:
            raise InputError(f"--{name} {given}, but {recipe.path} says {name} = {own_value!r}", fix="leave one out")
        if own_value is not None:
            setattr(run, name, own_value)


def _with(step: Step, run: Run) -> Step:
    """A step that also depends on what all of them share."""
    shared = {"seed": run.seed, "dtype": run.dtype}
    return Step(step.name, step.command, step.arguments, step.act, step.outputs, {**step.settings, **shared})


# -- runs within a run ------------------------------------------------------------------------------------------------


class _Within(Run):
    """The run of one step: it has the recipe's model, and its record names the recipe."""

    recipe: Mapping[str, Any]
    document: dict[str, Any]

    def __enter__(self) -> _Within:
        return self

    def __exit__(self, *_: object) -> None: ...

    def emit(self, schema: str, document: Mapping[str, Any]) -> None:
        self.document = {"schema": schema, **document}

    def record(self, *outputs: Path, details: Mapping[str, Any] | None = None) -> Path:
        return super().record(*outputs, details={**(details or {}), "recipe": self.recipe})


def _perform(run: Run, recipe: Recipe, step: Step, *, trial: bool) -> tuple[int, _Within]:
    """Run a step's command as the command line would, in a run within ``run``."""
    made: list[_Within] = []

    def opened(*given: Any, **shared: Any) -> _Within:
        common = {name: getattr(run, name) for name in ("quiet", "verbose", "seed", "device", "dtype", "offline")}
        inner = _Within(*given, **{**shared, **common, "dry_run": trial, "json_": trial and run.json_})
        inner.model, inner.recipe, inner.document = run.model, _said(recipe), {}
        if trial or run.json_:
            inner.out = _nowhere()
        inner.quiet = run.quiet or trial
        made.append(inner)
        return inner

    assert step.command is not None
    code = command_of(step.command).main(
        list(step.arguments), prog_name=f"steer {step.command}", standalone_mode=False, obj=opened,
        auto_envvar_prefix=None,
    )  # fmt: skip
    run.model = made[0].model or run.model
    return (code if isinstance(code, int) else OK), made[0]


def _nowhere() -> Console:
    """A console that keeps what is printed; wide, as it holds paths of another length than those shown."""
    from rich.console import Console

    return Console(file=io.StringIO(), width=1000, highlight=False, emoji=False)


def _said(recipe: Recipe) -> dict[str, Any]:
    """What a record says of the recipe."""
    return {"file": str(recipe.path), "sha256": recipe.digest, "document": recipe.document}


# -- before and during ------------------------------------------------------------------------------------------------


def _try(run: Run, recipe: Recipe) -> dict[str, Tried]:
    """Let every command say what it would do, with stand-ins for what other steps have yet to make.

    Raises:
        InputError: one of them would refuse, naming its table.
    """
    from .recipe_trial import StandIns

    found: dict[str, Tried] = {}
    name = next(iter((*recipe.tables, "plan")))
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / part for part in ("made", "handed")]

        def real(text: str) -> str:
            return text.replace(str(places[0]), str(recipe.output)).replace(str(places[1]), str(recipe.output))

        try:
            handed = StandIns(run, recipe, places[1])
            for step in steps_of(recipe, Files.of(recipe, places[0]).make_folders(), handed.files):
                name = step.name
                if name not in ("extract", "sweep"):
                    handed.need_plan()
                if step.command is not None:
                    inner = _perform(run, recipe, step, trial=True)[1]
                    text: Any = inner.out.file
                    found[name] = real(text.getvalue()), json.loads(real(as_json("", inner.document)))
        except Exception as error:
            what, why, fix, code = explain(error)
            raise InputError(f"{recipe.path}, {_table(name)}: {real(what)}", why=why and real(why),
                             fix=fix and real(fix), code=code) from error  # fmt: skip
    return found


def _table(name: str) -> str:
    table, _, kind = name.partition(" ")
    return f"[{table}] {kind}".rstrip()


def _carry_out(run: Run, recipe: Recipe, steps: list[Step], files: Files, finished: Finished) -> int:
    """Do what is not finished, in order; a gate that is not met ends it. Returns the exit code."""
    anew = False
    for number, step in enumerate(steps, 1):
        if not anew and finished.has(step):
            run.note(f"{number} of {len(steps)}: {step.name} is finished")
            code = int(finished.steps[step.name]["code"])
        else:
            anew = anew or step.name in ("extract", "sweep", "plan")
            run.note(f"{number} of {len(steps)}: {_line(step)}")
            code = _do(run, recipe, step, finished)
        if code != OK:
            return code
        if step.name == "sweep" and not files.plan.is_file() and steps[number:]:
            raise no_plan(recipe)
    return OK


def _do(run: Run, recipe: Recipe, step: Step, finished: Finished) -> int:
    began, code = time.perf_counter(), OK
    if step.outputs[0].is_relative_to(recipe.output):
        step.outputs[0].parent.mkdir(parents=True, exist_ok=True)
    try:
        if step.act is not None:
            step.act(run)
        else:
            if not run.json_:
                run.out.print(f"[bold]{step.name}[/]")
            code, _ = _perform(run, recipe, step, trial=False)
            if code == INTERRUPTED:  # what typer makes of it
                raise KeyboardInterrupt
            if not run.json_:
                run.out.print()
    except KeyboardInterrupt:
        run.note(f"interrupted; what is finished is in {recipe.output}, and this goes on: steer run {recipe.path}")
        raise
    finished.add(step, code, time.perf_counter() - began)
    return code


def _line(step: Step) -> str:
    """A step as one would type it."""
    if step.command is None:
        return f"{step.name} to {step.outputs[0]}"
    return shlex.join(["steer", step.command, *step.arguments])


# -- what is said -----------------------------------------------------------------------------------------------------


def _show_trial(run: Run, recipe: Recipe, steps: list[Step], tried: Mapping[str, Tried], finished: Finished) -> None:
    if run.json_:
        listed = [
            {"step": step.name, "command": _line(step), "finished": finished.has(step),
             "dry_run": tried[step.name][1] if step.name in tried else None}
            for step in steps
        ]  # fmt: skip
        run.emit("steersman.recipe-dry-run/1", {"recipe": _said(recipe), "output": str(recipe.output), "steps": listed})
        return
    for step in steps:
        done = "  (finished)" if finished.has(step) else ""
        run.out.print(f"[bold]{step.name}[/]{done}  {escape(_line(step))}", soft_wrap=True)
        if step.name in tried:
            run.out.print(escape(tried[step.name][0]), soft_wrap=True)
    run.note("dry run: nothing was done; what follows a sweep was checked with the first plan that it would try")


def _deliver(run: Run, recipe: Recipe, steps: list[Step], files: Files, finished: Finished) -> None:
    """The record of the whole, and what came out."""
    from ..plan import Plan

    plan = Plan.load(files.plan) if files.plan.is_file() else None
    chosen = None if plan is None else {"digest": plan.digest, **plan.spec(), "evidence": plan.evidence}
    evaluation = json.loads(files.evaluation.read_text(encoding="utf-8")) if files.evaluation.is_file() else None
    texts = json.loads(files.texts.read_text(encoding="utf-8")) if files.texts.is_file() else None
    exports = {kind: str(path) for kind, path in recipe.exports.items() if path.exists()}
    done = [
        {"step": step.name, "command": _line(step), **finished.steps[step.name]}
        for step in steps if step.name in finished.steps
    ]  # fmt: skip
    document: dict[str, Any] = {"recipe": _said(recipe), "steps": done, "plan": chosen, "exports": exports}
    record = run.record(recipe.output / STATE, details=document)
    if run.json_:
        run.emit("steersman.recipe/1", {**document, "output": str(recipe.output), "evaluation": evaluation,
                                         "generation": texts})  # fmt: skip
        return
    for kind, path in exports.items():
        run.out.print(f"{kind}: {escape(path)}", soft_wrap=True)
    run.note(f"wrote {record}")
