"""Files of texts that commands are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .failures import InputError


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        InputError: there is no such file, or it is not UTF-8.
    """
    try:
        return [line.rstrip("\n") for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise InputError(f"there is no file {path}", fix="give a text file with one example a line") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", why=str(error)) from error


def read_prompts(path: Path) -> tuple[list[Any], list[str] | None]:
    """Prompts, and the source of each if the file names them.

    A ``.jsonl`` file has a ``prompt`` (a text, or a chat) and perhaps a ``source`` in each line; any other is a text
    file with one prompt a line.

    Raises:
        InputError, DataError: it cannot be read so.
    """
    if path.suffix != ".jsonl":
        return read_lines(path), None
    from ..data.pairs import read_jsonl

    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        if not row.get("prompt"):
            raise InputError(f"{path}, line {number} has no prompt", fix='write {"prompt": "...", "source": "..."}')
    sources = [str(row["source"]) for row in rows if "source" in row]
    if sources and len(sources) < len(rows):
        raise InputError(f"{path} names the source of {len(sources)} of {len(rows)} prompts", fix="name all, or none")
    return [row["prompt"] for row in rows], sources or None
