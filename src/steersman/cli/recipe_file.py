"""A recipe: one TOML file that says what is found, how it is chosen, what is measured and what is kept.

model = "demo"

[extract]
pairs = "sentiment"

[sweep]
prompts = "prompts.txt"
positive = [" great"]
negative = [" awful"]

[export]
plan = "happy.plan.safetensors"

Each of the tables ``extract``, ``sweep``, ``eval`` and ``generate`` is the command of that name, its keys the command's
options.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

from . import config
from .failures import InputError
from .options import SHARED, STEERING

#: kind of export -> the ending of its file; folders have none
EXPORTS = {
    "vector": ".safetensors", "plan": ".safetensors", "gguf": ".gguf", "checkpoint": "", "adapter": "", "edited": "",
    "report": ".html",
}  # fmt: skip
_TOP: Mapping[str, type] = {"model": str, "output": str, "seed": int, "dtype": str}
_TABLES = ("extract", "sweep", "plan", "eval", "generate", "export")
#: options of the commands that a recipe gives itself
_GIVEN = {
    "extract": {"output", "show_read"},
    "sweep": {"output", "plan", "vectors"},
    "eval": {"output", "against", *STEERING},
    "generate": {"output", *STEERING},
}
#: what names a file or something else: a packaged set, a vector, a repository
_PERHAPS_FILES = ("pairs", "vector")
#: what [eval] takes over from [sweep] unless it has a target of its own
INHERITED = ("positive", "negative", "regex", "probe", "probe_layer", "instruction")
_CONTROLS = ("neutral", "random", "max_kl")


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        key: as a recipe spells it, such as ``max-kl``.
        flag: as the command line does, such as ``--max-kl``.
        off: what switches it off, of a switch that has such a word.
        switch, several, file: whether it takes no value, may be repeated, names a file.
    """

    key: str
    flag: str
    off: str | None
    switch: bool
    several: bool
    file: bool


@dataclass(frozen=True)
class Recipe:
    """What a recipe says, checked as far as that goes without a model.

    Attributes:
        path: the file; relative paths in it are meant from its folder.
        digest: SHA-256 of the file.
        document: the whole, as read.
        model: what is steered: ``demo``, a folder, or a Hugging Face id.
        output: the folder of what is found.
        seed, dtype: for every step; None where it does not say.
        tables: table -> option -> value, of the steps; relative paths made whole.
        plan: a plan's spec, instead of a sweep.
        plan_digest: of the plan that it is to come to, if that is said: the same directions, not only their names.
        exports: kind -> path.
    """

    path: Path
    digest: str
    document: Mapping[str, Any]
    model: str
    output: Path
    seed: int | None
    dtype: str | None
    tables: Mapping[str, Mapping[str, Any]]
    plan: Mapping[str, Any] | None
    plan_digest: str | None
    exports: Mapping[str, Path]

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.path.parent

    @property
    def planned(self) -> bool:
        """Whether a plan comes of it."""
        return "sweep" in self.tables or self.plan is not None

    @property
    def name(self) -> str:
        """What the vector is called."""
        return str(self.tables.get("extract", {}).get("name", self.path.stem))


def read(path: Path) -> Recipe:
    """A recipe from its file.

    Raises:
        InputError: no such file, no TOML, an unknown key (with the nearest one), a value of the wrong type, a file that
            is not there, or tables that contradict each other.
    """
    document, digest = _parsed(path)
    tables = {key for key, value in document.items() if isinstance(value, dict)}
    _check_kind(path, document)
    config.check(path, "at the top", sorted(document), (*_TOP, *_TABLES))
    for key, kind in _TOP.items():
        value = document.get(key)
        if key in document and (not isinstance(value, kind) or isinstance(value, bool)):
            raise InputError(f"{path}: {key} = {value!r} is no {_WORDS[kind]}")
    for key in (document.keys() - tables) & set(_TABLES):
        raise InputError(f"{path}: {key} is a table", fix=f"write [{key}], and its keys below")
    if "model" not in document:
        raise InputError(f"{path} names no model", fix='begin with model = "demo", a folder, or a Hugging Face id')
    _check_tables(path, tables)
    folder = path.parent
    steps = {name: _options(path, name, document[name]) for name in _GIVEN if name in document}
    plan: dict[str, Any] | None = dict(document["plan"]) if "plan" in document else None
    planned = None if plan is None else plan.pop("digest", None)
    if not isinstance(planned, str | None):
        raise InputError(f"{path}, [plan]: digest = {planned!r} is no text")
    _check_vector(path, steps)
    _inherit(path, steps)
    model, output = str(document["model"]), str(document.get("output", path.stem))
    return Recipe(
        path, digest, document, str(folder / model) if (folder / model).is_dir() and model != "demo" else model,
        folder / output, document.get("seed"), document.get("dtype"), steps, plan,
        planned, _exports(path, document.get("export", {})),
    )  # fmt: skip


def _parsed(path: Path) -> tuple[dict[str, Any], str]:
    try:
        content = path.read_bytes()
        return config.parsed(path, content), hashlib.sha256(content).hexdigest()
    except FileNotFoundError:
        raise InputError(f"there is no recipe {path}", fix="give a TOML file") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder", fix="give a TOML file") from None


def _check_kind(path: Path, document: Mapping[str, Any]) -> None:
    """A file of settings for commands is told from a recipe."""
    from .config import COMMANDS

    for name in COMMANDS:
        settings = name not in _TABLES or (name == "generate" and "model" not in document)
        if settings and isinstance(document.get(name), dict):
            raise InputError(
                f"{path} holds settings of steer {name}, which is no step of a recipe",
                fix=f"steer {name} ... --config {path}",
            )


def _check_tables(path: Path, tables: set[str]) -> None:
    """Whether the steps that are there follow from each other."""
    if not tables:
        raise InputError(f"{path} says nothing to do", fix=f"add a table: {', '.join(f'[{name}]' for name in _TABLES)}")
    if {"sweep", "plan"} <= tables:
        raise InputError(f"{path} has a sweep and a plan", why="a sweep chooses the plan", fix="leave one of them out")
    if "eval" in tables and not tables & {"sweep", "plan"}:
        raise InputError(f"{path}: [eval] has no plan to measure", fix="add [sweep], which chooses one, or [plan]")


def _check_vector(path: Path, steps: Mapping[str, Mapping[str, Any]]) -> None:
    """Whether it is clear which vector a sweep tries."""
    if "sweep" not in steps:
        return
    if "extract" in steps and "vector" in steps["sweep"]:
        raise InputError(f"{path}: [sweep] names a vector, and [extract] makes one", fix="leave one of them out")
    if "extract" not in steps and "vector" not in steps["sweep"]:
        raise InputError(f"{path}: [sweep] has no vector", fix='add [extract], or vector = "happy.safetensors"')


@cache
def command_of(name: str) -> Any:
    """A command as the command line has it."""
    from .app import build

    group: Any = build()
    return group.commands[name]


@cache
def options_of(command: str) -> dict[str, Option]:
    """The options of a command that a recipe may set, by the names of their parameters."""
    from .app import COMMANDS

    function = COMMANDS[command]
    found: dict[str, Option] = {}
    for parameter in command_of(command).params:
        name = str(parameter.name)
        if name in SHARED or name in _GIVEN[command] or not parameter.opts[0].startswith("-"):
            continue
        flag = next(word for word in parameter.opts if word.startswith("--"))
        off = parameter.secondary_opts[0] if parameter.secondary_opts else None
        kinds = get_args(get_args(function.__annotations__[name])[0]) or get_args(function.__annotations__[name])
        found[name] = Option(flag[2:], flag, off, parameter.is_flag, parameter.multiple, Path in kinds)
    return found


def _options(path: Path, command: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """A table's values by the names of the parameters; paths from the recipe's folder."""
    options = options_of(command)
    names = {option.key: name for name, option in options.items()}
    given = {key.replace("_", "-"): value for key, value in table.items()}
    texts = {"prompts": _texts(path, given.pop("prompts", None))} if command == "generate" else {}
    config.check(path, f"in [{command}]", sorted(given), [*names, *texts])
    return texts | {names[key]: _value(path, command, options[names[key]], value) for key, value in given.items()}


def _value(path: Path, command: str, option: Option, value: Any) -> Any:
    where = f"{path}, [{command}]: {option.key} = {value!r}"
    if option.switch != isinstance(value, bool):
        raise InputError(f"{where} is {'no' if option.switch else 'a'} switch", fix=f"see steer {command} --help")
    if isinstance(value, dict):
        raise InputError(f"{where} is a table", fix=f"see steer {command} --help")
    if isinstance(value, list) and not option.several:
        value = ",".join(str(item) for item in cast("list[Any]", value))
    if option.several and not isinstance(value, list):
        value = [value]
    if option.key in _PERHAPS_FILES and not option.file:
        return [_perhaps(path, item) for item in value] if isinstance(value, list) else _perhaps(path, value)
    return str(path.parent / str(value)) if option.file else value


def _texts(path: Path, value: Any) -> list[str]:
    """The prompts of ``[generate]``: a list of them, or a file as the other tables name."""
    found: Any = value
    if isinstance(value, str) and value:
        from .inputs import read_prompts

        found = read_prompts(path.parent / value)[0]
    if (
        not isinstance(found, list)
        or not found
        or not all(one and isinstance(one, str) for one in cast("list[Any]", found))
    ):
        raise InputError(f"{path}, [generate] has no prompts", fix='write prompts = ["I think"], or the name of a file')
    return cast("list[str]", found)


def _perhaps(path: Path, value: Any) -> str:
    """A file of the recipe's folder, or the name of something else."""
    own = path.parent / str(value)
    looks = Path(str(value)).suffix in (".jsonl", ".csv", ".safetensors", ".gguf", ".svec", ".pt")
    return str(own) if looks or own.exists() else str(value)


def _inherit(path: Path, steps: dict[str, dict[str, Any]]) -> None:
    """An evaluation has the target and the controls of its sweep, unless it says otherwise; never its prompts."""
    if not {"sweep", "eval"} <= steps.keys():
        return
    own, swept = steps["eval"], steps["sweep"]
    if not own.keys() & {"positive", "negative", "choices", "regex", "probe"}:
        own.update({name: swept[name] for name in INHERITED if name in swept and name not in own})
    own.update({name: swept[name] for name in _CONTROLS if name in swept and name not in own})
    if own.keys() & {"positive", "regex", "probe"} and "prompts" not in own:
        raise InputError(
            f"{path}: [eval] has no prompts",
            why="what a sweep has chosen on its own prompts looks better on them than it is",
            fix='add prompts = "others.txt" to [eval]',
        )


def _exports(path: Path, table: Mapping[str, Any]) -> dict[str, Path]:
    config.check(path, "in [export]", sorted(table), EXPORTS)
    found: dict[str, Path] = {}
    for kind, value in table.items():
        target = path.parent / str(value)
        if not isinstance(value, str) or not value or (EXPORTS[kind] and target.suffix != EXPORTS[kind]):
            ending = f"a file ending in {EXPORTS[kind]}" if EXPORTS[kind] else "a folder"
            raise InputError(f"{path}, [export]: {kind} = {value!r} is not the name of {ending}")
        if not target.parent.is_dir():
            raise InputError(f"there is no folder {target.parent}", fix=f"mkdir -p {target.parent}")
        if target in found.values():
            raise InputError(f"{path}, [export]: two things cannot be {target.name}", fix="give each a name of its own")
        found[kind] = target
    return found


_WORDS = {str: "text", int: "whole number"}
