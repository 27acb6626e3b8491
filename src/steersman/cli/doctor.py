"""``steer doctor``: what is installed, and whether a model can be steered here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from typing import Annotated

import typer

from . import checks
from .checks import Check
from .console import escape, fancy, figures, show
from .failures import explain
from .session import Run

_MARKS = {
    "ok": ("green", "✓", "ok"),
    "note": ("cyan", "·", "--"),
    "warn": ("yellow", "!", "!!"),
    "broken": ("red", "✗", "XX"),
}


def doctor(
    run: Run,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="demo, a folder, or a Hugging Face id to examine.")
    ] = None,
) -> None:
    """Check this installation, and whether MODEL can be steered exactly; exit 1 if something is broken."""
    found = [*checks.installation(), checks.embedded()]
    if run.dry_run:
        run.out.print(
            "checks the installation"
            + (f", loads {escape(model)} and runs about ten short forward passes" if model else "")
        )
        return
    found += checks.machine()
    if model is not None:
        found += _examine(run, model)
    broken = [check for check in found if check.status == "broken"]
    if run.json_:
        run.emit("steersman.doctor/1", {"ok": not broken, "checks": [asdict(check) for check in found]})
    else:
        _show(run, found)
    if broken:
        raise typer.Exit(1)


def _examine(run: Run, name: str) -> Iterable[Check]:
    try:
        model = run.load(name)
    except Exception as error:
        if run.verbose:
            raise
        what, why, fix, _ = explain(error)
        return [Check("model", name, "broken", f"{what}{': ' + why if why else ''}", fix)]
    found: list[Check] = []
    for part in (checks.architecture, checks.tokenizer, checks.steering):
        try:
            found += part(model)
        except Exception as error:
            what, _, fix, _ = explain(error)
            found.append(Check(part.__name__, "check", "broken", what, fix))
    return found


def _show(run: Run, found: list[Check]) -> None:
    pretty = fancy(run.out)
    first = True
    for section, items in groupby(
        sorted(found, key=lambda check: _ORDER.index(check.section)), lambda check: check.section
    ):
        if not first:
            run.out.print()
        first = False
        run.out.print(f"[bold]{section}[/]")
        table = figures("", "", "", left=3)
        table.show_header = False
        table.columns[2].no_wrap = False
        for check in items:
            colour, mark, plain = _MARKS[check.status]
            fix = f"\n[bold]fix[/]: {escape(check.fix)}" if check.fix else ""
            table.add_row(f"[{colour}]{mark if pretty else plain}[/]", check.name, escape(check.found) + fix)
        show(run.out, table)
    broken = sum(check.status == "broken" for check in found)
    run.out.print()
    run.out.print(f"[red]{broken} broken[/]" if broken else "Nothing is broken.")


_ORDER = ("installation", "machine", "model", "sites", "tokenizer", "steering", "architecture")
