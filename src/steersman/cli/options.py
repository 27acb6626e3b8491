"""The options that commands share, added to each command's own by :func:`command`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from . import config
from .session import Run

_OUTPUT, _STEERING, _SAMPLING = "Output and environment", "Steering", "Generation"


def _shared(*names: str, **more: Any) -> Any:
    """An option of every command; its variable is ``STEERSMAN_<NAME>``, whatever the command."""
    long = next(name for name in names if name.startswith("--"))
    variable = "STEERSMAN_" + long[2:].upper().replace("-", "_")
    more.setdefault("metavar", "")
    return typer.Option(*names, rich_help_panel=_OUTPUT, envvar=variable, show_envvar=False, **more)


def _load_config(ctx: typer.Context, value: Path | None) -> Path | None:
    """Put the values of a TOML file below flags and variables, and above defaults."""
    if value is not None:
        names = {str(parameter.name) for parameter in ctx.command.params}
        ctx.default_map = {**(ctx.default_map or {}), **config.read(value, _table(ctx), names)}
    return value


def _words(ctx: typer.Context) -> str:
    """The command as it is typed: ``generate``, ``vectors ls``."""
    return " ".join(ctx.command_path.split()[1:]) or str(ctx.info_name)


def _table(ctx: typer.Context) -> str:
    """The command's table in a configuration file; those of a group share the group's."""
    return _words(ctx).split()[0]


SHARED: dict[str, tuple[Any, Any]] = {
    "config": (
        Annotated[
            Path | None,
            _shared(
                "--config",
                metavar="FILE",
                help="Read settings from this TOML file.",
                is_eager=True,
                callback=_load_config,
            ),
        ],
        None,
    ),
    "json_": (Annotated[bool, _shared("--json", help="Print one JSON document instead of text.")], False),
    "dry_run": (
        Annotated[bool, _shared("--dry-run", help="Say what would be done, and what it takes; do nothing.")],
        False,
    ),
    "quiet": (Annotated[bool, _shared("--quiet", "-q", help="Print results and errors only.")], False),
    "verbose": (Annotated[bool, _shared("--verbose", help="Print warnings of all libraries, and tracebacks.")], False),
    "seed": (Annotated[int, _shared("--seed", metavar="N", help="Seed of everything random.")], 0),
    "device": (
        Annotated[
            str | None,
            _shared(
                "--device",
                metavar="DEVICE",
                help="cpu, cuda, cuda:1, mps, or auto (several devices).",
                show_default="what there is",
            ),
        ],
        None,
    ),
    "dtype": (
        Annotated[
            str | None,
            _shared(
                "--dtype", metavar="DTYPE", help="float32, bfloat16, float16, or auto (as stored).", show_default="auto"
            ),
        ],
        None,
    ),
    "offline": (Annotated[bool, _shared("--offline", help="Never look at the network.")], False),
}


def _steering(*names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=_STEERING, show_envvar=False, **more)


def _generation(*names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=_SAMPLING, show_envvar=False, **more)


_VECTOR_HELP = "NAME|PATH|ORG/REPO, then :STRENGTH and @LAYERS, such as happy:1.5@10-14 or iti:15@all. Repeat."
_OPERATION_HELP = "What the vectors do: add, ablate, clamp (with --value), affine (--alpha), rotate (--angle)."
_WHERE_HELP = 'Which tokens: last+generation, all, prompt\\[a:b], after("text"), ...'
_Text, _Number, _Count = str | None, float | None, int | None

STEERING: dict[str, tuple[Any, Any]] = {
    "vector": (Annotated[list[str] | None, _steering("--vector", "-v", metavar="VECTOR", help=_VECTOR_HELP)], None),
    "vectors": (
        Annotated[Path, _steering("--vectors", metavar="DIR", help="Where a NAME is looked up first.")],
        Path("."),
    ),
    "plan": (
        Annotated[Path | None, _steering("--plan", metavar="FILE", help="A saved plan; it acts before the vectors.")],
        None,
    ),
    "operation": (Annotated[str, _steering("--operation", metavar="NAME", help=_OPERATION_HELP)], "add"),
    "value": (
        Annotated[_Number, _steering("--value", metavar="X", help="clamp: the projection to set, in residual units.")],
        None,
    ),
    "alpha": (
        Annotated[
            _Number, _steering("--alpha", metavar="X", help="affine: 0 is the negative class mean, 1 the positive.")
        ],
        None,
    ),
    "angle": (
        Annotated[_Number, _steering("--angle", metavar="X", help="rotate: the angle to the vector, in radians.")],
        None,
    ),
    "unit": (
        Annotated[
            _Text,
            _steering(
                "--unit",
                metavar="UNIT",
                help="add: count strength in norm (the residual's) or gap (between the classes).",
                show_default="as stored",
            ),
        ],
        None,
    ),
    "positions": (
        Annotated[
            _Text, _steering("--positions", metavar="WHERE", help=_WHERE_HELP, show_default="the operation's own")
        ],
        None,
    ),
}

SAMPLING: dict[str, tuple[Any, Any]] = {
    "max_new_tokens": (
        Annotated[int, _generation("--max-new-tokens", "-n", metavar="N", min=1, help="Tokens to generate at most.")],
        40,
    ),
    "temperature": (
        Annotated[
            _Number,
            _generation("--temperature", metavar="X", help="Sample at this temperature.", show_default="greedy"),
        ],
        None,
    ),
    "top_p": (
        Annotated[
            _Number,
            _generation("--top-p", metavar="P", help="Sample from the smallest set of tokens with this probability."),
        ],
        None,
    ),
    "top_k": (Annotated[_Count, _generation("--top-k", metavar="K", help="Sample from the k likeliest tokens.")], None),
}


def command(*, steering: bool = False, sampling: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a function ``f(run, **own)`` the shared options, which it finds in ``run``.

    Args:
        steering: also the options that make a plan, in ``run.steering``.
        sampling: also those of generation, in ``run.sampling``.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        groups = [STEERING if steering else {}, SAMPLING if sampling else {}, SHARED]
        own = [p for name, p in inspect.signature(function, eval_str=True).parameters.items() if name != "run"]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for group in groups
            for name, (annotation, default) in group.items()
        ]
        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [context, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *added]

        def wrapper(ctx: typer.Context, **values: Any) -> None:
            settings = {name.rstrip("_"): value for name, value in values.items() if name != "config"}
            steering_values, sampling_values, shared = ({name: values.pop(name) for name in group} for group in groups)
            opened: Any = ctx.obj if callable(ctx.obj) else Run  # a recipe runs its steps in runs of its own
            run: Run = opened(_words(ctx), settings, steering_values, sampling_values, **shared)
            with run:
                function(run, **values)

        wrapper.__doc__ = function.__doc__
        wrapper.__name__ = function.__name__
        wrapper.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate
