"""``steer skill``: what a coding agent should know to use Steersman well, as a file that agents look for."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from .failures import InputError
from .session import Run

NAME = "SKILL.md"
Where = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="The folder of skills that your agent reads, such as .claude/skills.", show_envvar=False
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there and differs.", show_envvar=False)]


def text() -> str:
    """The skill, as it lies in the package."""
    return files("steersman").joinpath("skill", NAME).read_text(encoding="utf-8")


def install(run: Run, where: Where = Path(".agents/skills"), force: Force = False) -> None:
    """Write the skill for coding agents to DIR/steersman/SKILL.md."""
    from ..files.atomic import replacing

    path = where / "steersman" / NAME
    if path.exists() and path.read_text(encoding="utf-8") != text() and not force:
        raise InputError(f"{path} is there and differs from this version's", fix="give --force to replace it")
    if run.dry_run:
        run.out.print(f"would write {path}", markup=False, soft_wrap=True)
        run.note("dry run: nothing was done")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text(), encoding="utf-8")
    if run.json_:
        run.emit("steersman.skill/1", {"path": str(path)})
    else:
        run.out.print(str(path), markup=False, soft_wrap=True)


def show(run: Run) -> None:
    """Print the skill."""
    if run.json_:
        run.emit("steersman.skill/1", {"text": text()})
    else:
        run.out.print(text(), markup=False, highlight=False, soft_wrap=True)


SKILL: dict[str, Any] = {"install": install, "show": show}
