"""Where text goes: results to stdout, everything else to stderr; plain when piped or with NO_COLOR."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Wider terminals are not filled: lines longer than this are hard to read.
WIDEST = 100


def _console(stream: TextIO, **options: Any) -> Console:
    from rich.console import Console

    terminal = stream.isatty() or bool(os.environ.get("FORCE_COLOR"))
    plain = not terminal or "NO_COLOR" in os.environ
    console = Console(file=stream, highlight=False, emoji=False, color_system=None if plain else "auto", **options)
    if not terminal or console.width > WIDEST:
        console.width = WIDEST
    return console


def result_console() -> Console:
    """A console on stdout, at most 100 columns wide."""
    return _console(sys.stdout)


def error_console() -> Console:
    """A console on stderr."""
    return _console(sys.stderr)


def fancy(console: Console) -> bool:
    """Whether the console can show more than ASCII."""
    return console.encoding.lower().startswith("utf")


def figures(*columns: str, left: int = 1, indent: int = 0) -> Table:
    """A table of numbers without lines: the first ``left`` columns flush left, the others right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for number, name in enumerate(columns):
        justify = "left" if number < left else "right"
        padding = " " * indent if number == 0 else ""
        table.add_column(padding + name, justify=justify, no_wrap=True)
    return table


def show(console: Console, renderable: Any) -> None:
    """Print a table; when piped, without spaces at the ends of lines."""
    if console.is_terminal or console.record:
        console.print(renderable)
        return
    with console.capture() as captured:
        console.print(renderable)
    for line in captured.get().splitlines():
        console.file.write(line.rstrip() + "\n")


def plural(count: int, noun: str) -> str:
    """``1 pass``, ``2 passes``."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{count} {noun}{ending}"


def escape(text: str) -> str:
    """Text with no markup in it."""
    from rich.markup import escape as escaped

    return escaped(text)
