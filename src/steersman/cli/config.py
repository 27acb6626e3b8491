"""Settings from a TOML file: shared ones at the top, those of a command in a table of its name.

device = "cuda"

[generate]
max-new-tokens = 60
vector = ["happy:1.5@10"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from .failures import InputError

COMMANDS = (
    *("demo", "extract", "generate", "chat", "sweep", "choose", "eval", "ablate", "patch", "probe", "analyze", "edit"),
    *("vectors", "convert", "run", "doctor", "serve", "version"),
)
_SHARED = ("json", "dry_run", "quiet", "verbose", "seed", "device", "dtype", "offline")


def read(path: Path, command: str, names: Iterable[str]) -> dict[str, Any]:
    """The settings for a command whose parameters have these names.

    Raises:
        InputError: the file is missing or no TOML, or it has a key that nobody knows.
    """
    try:
        document = parsed(path, path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"there is no configuration file {path}", fix="check the path given to --config") from None
    tables = {key: cast("dict[str, Any]", value) for key, value in document.items() if isinstance(value, dict)}
    check(path, "at the top", tables, sorted(COMMANDS))
    top = {_name(key): value for key, value in document.items() if key not in tables}
    check(path, "at the top", top, sorted(_SHARED))
    own = {_name(key): value for key, value in tables.get(command, {}).items()}
    known = {name.rstrip("_") for name in names} - {"config", "help"}
    check(path, f"in [{command}]", own, sorted(known))
    merged = top | own
    return {name: merged[name.rstrip("_")] for name in names if name.rstrip("_") in merged}


def _name(key: str) -> str:
    return key.replace("-", "_")


def parsed(path: Path, content: bytes) -> dict[str, Any]:
    """The document of a TOML file that holds this; InputError if it is none."""
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML file", why=str(error), fix="see https://toml.io for the format") from error


def check(path: Path, where: str, keys: Iterable[str], known: Iterable[str]) -> None:
    """InputError, with the nearest of the known keys, if a key is none of them."""
    allowed = list(known)
    for key in keys:
        if key not in allowed:
            close = get_close_matches(key, allowed, 1)
            fix = f"did you mean {close[0]!r}?" if close else "remove it"
            raise InputError(f"{path} has the unknown key {key!r} {where}", why=f"known: {', '.join(allowed)}", fix=fix)
