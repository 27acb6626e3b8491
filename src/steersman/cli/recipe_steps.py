"""The steps of a recipe: each a command of ``steer`` with its arguments, or a small file to write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .failures import GATE, InputError
from .recipe_file import Recipe, options_of

if TYPE_CHECKING:
    from ..plan import Plan
    from .session import Run


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: ``extract``, ``sweep``, ``plan``, ``eval``, ``generate``, or ``export gguf`` and the like.
        command: which command does it, with ``arguments``; None for one that only writes a file, which ``act`` does.
        outputs: what is there when it is done.
        settings: what it depends on, flat, so that a difference can be named.
    """

    name: str
    command: str | None
    arguments: Sequence[str] = ()
    act: Callable[[Run], None] | None = None
    outputs: Sequence[Path] = ()
    settings: Mapping[str, Any] = field(default_factory=lambda: {})


@dataclass(frozen=True)
class Files:
    """Where a recipe keeps what its steps hand on to each other; another one stands in for it in a trial."""

    vector: Path
    sweep: Path
    plan: Path
    evaluation: Path
    texts: Path

    @classmethod
    def of(cls, recipe: Recipe, folder: Path | None = None) -> Files:
        """Those of a recipe, in its folder or another."""
        out = folder or recipe.output
        swept = "sweep" in recipe.tables
        return cls(
            out / "extract" / f"{'-'.join(recipe.name.split())}.safetensors", out / "sweep",
            out / ("sweep" if swept else "plan") / "plan.safetensors", out / "eval" / "evaluation.json",
            out / "generate" / "texts.json",
        )  # fmt: skip

    def make_folders(self) -> Files:
        """The same, after making the folders that they lie in."""
        for path in (self.vector, self.plan, self.evaluation, self.texts):
            path.parent.mkdir(parents=True, exist_ok=True)
        return self


def steps_of(recipe: Recipe, files: Files, handed: Files) -> list[Step]:
    """The steps, in order.

    Args:
        recipe: what is wanted.
        files: where each step writes.
        handed: where each step reads what another has made: ``files``, but in a trial.
    """
    found: list[Step] = []
    made = {"extract": files.vector, "sweep": files.sweep, "eval": files.evaluation, "generate": files.texts}
    for name, path in made.items():
        if name == "eval" and recipe.plan is not None:
            found.append(_planned(recipe, files, handed))
        if name in recipe.tables:
            found.append(_command(recipe, name, path, handed))
    return found + [_export(recipe, kind, target, handed) for kind, target in recipe.exports.items()]


def _command(recipe: Recipe, name: str, output: Path, handed: Files) -> Step:
    """``steer extract``, ``sweep``, ``eval`` or ``generate`` as the recipe has it."""
    table = dict(recipe.tables[name])
    prompts = table.pop("prompts") if name == "generate" else []
    words = [recipe.model, *_words(name, table)]
    outputs = [output]
    if name == "extract" and "name" not in table:
        words += ["--name", recipe.name]
    if name == "sweep":
        outputs = [output / "sweep.json", output / "plan.safetensors", output / "report.html"]
        words += [] if "vector" in table else ["--vector", str(handed.vector)]
    if name == "eval" or (name == "generate" and recipe.planned):
        words += ["--plan", str(handed.plan)]
    words += ["--output", str(output), *(["--", *prompts] if prompts else [])]
    settings = {"model": recipe.model, **{key.replace("_", "-"): value for key, value in table.items()}}
    settings |= {"prompts": prompts} if prompts else {}
    return Step(name, name, words, None, outputs, settings | _read(name, table))


def _words(command: str, table: Mapping[str, Any]) -> list[str]:
    """A table as the arguments of its command."""
    options, words = options_of(command), list[str]()
    for name, value in table.items():
        option = options[name]
        if option.switch:
            words += [option.flag] if value else [option.off] if option.off else []
        else:
            for one in value if option.several else [value]:
                words += [option.flag, str(one)]
    return words


def _read(command: str, table: Mapping[str, Any]) -> dict[str, str]:
    """The digests of the files that a table names."""
    options, found = options_of(command), dict[str, str]()
    for name, value in table.items():
        for one in value if isinstance(value, list) else [value]:  # pyright: ignore[reportUnknownVariableType]
            path = Path(str(one))
            if (options[name].file or name in ("pairs", "vector")) and path.is_file():
                found[f"the file {path.name}"] = digest(path)
    return found


def _planned(recipe: Recipe, files: Files, handed: Files) -> Step:
    """The plan that the recipe writes out, over the vector it extracts and any others."""

    def act(run: Run) -> None:
        plan = plan_from(run, recipe, handed.vector)
        files.plan.parent.mkdir(parents=True, exist_ok=True)
        plan.save(files.plan)

    return Step("plan", None, (), act, [files.plan],
                {"interventions": json.dumps(recipe.plan), "digest": recipe.plan_digest})  # fmt: skip


def plan_from(run: Run, recipe: Recipe, vector: Path) -> Plan:
    """The plan of ``[plan]``, checked against the model; ``vector`` is the one that the recipe extracts."""
    from ..plan import Plan
    from ..vector import SteeringVector
    from . import lookup

    entries: dict[str, Any] = {}
    for name in named(recipe):
        if name == recipe.name and "extract" in recipe.tables:
            entries[name] = SteeringVector.load(vector)
        else:
            model = run.load(recipe.model) if lookup.is_packaged(name, recipe.folder) else None
            entries[name] = lookup.find(run, name, recipe.folder, model)
    return checked(recipe, Plan.from_spec(dict(recipe.plan or {}), entries))


def checked(recipe: Recipe, plan: Plan) -> Plan:
    """The plan, if it is the one that the recipe means.

    Raises:
        InputError: its directions are others.
    """
    if recipe.plan_digest not in (None, plan.digest):
        raise InputError(
            f"{recipe.path}: [plan] comes to another plan than the one it was written for",
            why=f"its digest is {plan.digest}, not {recipe.plan_digest}: {' or '.join(named(recipe))} holds other "
            f"directions, or what is said of them has been changed",
            fix=f"put the files of the vectors into {recipe.folder}, or remove the line digest = ... from the recipe",
        )
    return plan


def named(recipe: Recipe) -> list[str]:
    """The vectors that ``[plan]`` speaks of, those of conditions too."""
    found: list[str] = []
    for item in (recipe.plan or {}).get("interventions", []):
        when = item.get("when") or {}
        found += [str(part["vector"]) for part in (item, when) if "vector" in part]
    return list(dict.fromkeys(found))


def _export(recipe: Recipe, kind: str, target: Path, handed: Files) -> Step:
    name, settings = f"export {kind}", {"to": str(target)}
    plan = ["--plan", str(handed.plan)]
    if kind in ("checkpoint", "adapter", "edited"):
        how = {"checkpoint": ["--bake"], "adapter": ["--adapter"], "edited": []}[kind]
        words = [recipe.model, *plan, *how, "--output", str(target)]
        return Step(name, "edit", words, None, [target], settings | {"model": recipe.model})
    if kind == "gguf":
        return Step(name, "convert", [str(handed.plan), str(target), "--check"], None, [target], settings)
    if kind == "report":
        return Step(name, None, (), lambda run: _report(recipe, handed, target), [target], settings)
    source = handed.plan if kind == "plan" else handed.vector
    return Step(name, None, (), lambda run: _copy(source, target), [target], settings)


def _copy(source: Path, target: Path) -> None:
    from ..files.atomic import replacing

    with replacing(target) as temporary:
        temporary.write_bytes(source.read_bytes())


def _report(recipe: Recipe, handed: Files, target: Path) -> None:
    from ..report import write
    from ..sweeping import Sweep

    if "eval" not in recipe.tables:
        return _copy(handed.sweep / "report.html", target)
    swept = Sweep.load(handed.sweep / "sweep.json") if "sweep" in recipe.tables else None
    budget = float(recipe.tables.get("sweep", {}).get("max_kl", 0.1))
    write(target, sweep=swept, evaluation=json.loads(handed.evaluation.read_text(encoding="utf-8")), max_kl=budget)
    return None


def check_wanted(recipe: Recipe) -> None:
    """Whether each export has what it is made of.

    Raises:
        InputError: it has not.
    """
    for kind in recipe.exports:
        if kind == "vector" and "extract" not in recipe.tables:
            raise InputError(f"{recipe.path}: there is no vector to export", fix="add [extract]")
        if kind == "report" and not recipe.tables.keys() & {"sweep", "eval"}:
            raise InputError(f"{recipe.path}: there is nothing to report", fix="add [sweep] or [eval]")
        if kind not in ("vector", "report") and not recipe.planned:
            raise InputError(
                f"{recipe.path}: there is no plan to export as {kind}", fix="add [sweep], which chooses one, or [plan]"
            )
    if "gguf" in recipe.exports:
        from ..files.control_vector import package

        package()


def no_plan(recipe: Recipe) -> InputError:
    """What to say when the sweep has chosen nothing."""
    return InputError(
        "the sweep has found no setting within its budget",
        why=f"so there is nothing to measure or export; what it found is in {recipe.output / 'sweep'}",
        fix="look at report.html there; another vector, other strengths, or a larger max-kl",
        code=GATE,
    )


def digest(path: Path) -> str:
    """What a file holds: its SHA-256; of a folder, the names and sizes of its files."""
    if path.is_file():
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    listed = sorted((str(file.relative_to(path)), file.stat().st_size) for file in path.rglob("*") if file.is_file())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
