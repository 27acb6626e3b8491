"""All commands, put together."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import __version__
from .ablate import ablate
from .analyze import analyze
from .chat import chat
from .choose import CHOOSE
from .convert import convert
from .demo import demo
from .doctor import doctor
from .edit import edit
from .eval import evaluate
from .extract import extract
from .generate import generate
from .options import command
from .patch import patch
from .probe import probe
from .recipe import run_recipe
from .serve import serve
from .skill import SKILL
from .sweep import sweep
from .vector_files import VECTORS
from .version import version

HELP = """Steer language models: find directions, act on them while the model runs, measure what that did.

Start with [bold]steer demo[/bold]. MODEL is [bold]demo[/bold] (embedded, offline), a folder, or a Hugging Face id.
"""
_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
EPILOG = "Settings: flags > STEERSMAN_* variables > --config FILE.toml > defaults."


def build() -> Any:
    """The command line as one click command."""
    app = typer.Typer(
        name="steer",
        help=HELP,
        epilog=EPILOG,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings=_CONTEXT,
    )
    app.callback()(_top)
    for name, function in COMMANDS.items():
        app.command(name, context_settings={**_CONTEXT, "auto_envvar_prefix": f"STEERSMAN_{name.upper()}"})(function)
    for group, (about, functions) in GROUPS.items():
        below = typer.Typer(name=group, help=about, no_args_is_help=True, context_settings=_CONTEXT)
        for name, function in functions.items():
            prefix = f"STEERSMAN_{group.upper()}_{name.upper()}"
            below.command(name, context_settings={**_CONTEXT, "auto_envvar_prefix": prefix})(function)
        app.add_typer(below)
    return typer.main.get_command(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"steersman {__version__}")
        raise typer.Exit


_Version = typer.Option("--version", metavar="", help="Print the version.", is_eager=True, callback=_print_version)


def _top(version: Annotated[bool, _Version] = False) -> None: ...


_top.__doc__ = HELP


#: name -> function, in the order of the help
COMMANDS = {
    "demo": command()(demo),
    "extract": command()(extract),
    "generate": command(steering=True, sampling=True)(generate),
    "chat": command(steering=True, sampling=True)(chat),
    "sweep": command(steering=True)(sweep),
    "ablate": command()(ablate),
    "patch": command()(patch),
    "eval": command(steering=True)(evaluate),
    "edit": command(steering=True)(edit),
    "probe": command()(probe),
    "analyze": command()(analyze),
    "convert": command()(convert),
    "run": command()(run_recipe),
    "serve": command()(serve),
    "doctor": command()(doctor),
    "version": command()(version),
}

#: name -> what it is about, and its commands
GROUPS = {
    "choose": (
        "When to steer, what to ablate, which of several ways, over which layers: by measurement.",
        {name: command(steering=name != "ablation")(function) for name, function in CHOOSE.items()},
    ),
    "vectors": (
        "List, inspect, share and combine the files that hold vectors.",
        {name: command()(function) for name, function in VECTORS.items()},
    ),
    "skill": (
        "What a coding agent should know to use Steersman.",
        {name: command()(function) for name, function in SKILL.items()},
    ),
}
