"""Showing how far long work has come: a bar on a terminal, or whatever the caller does with the figures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from .reading import Item

#: Called with (tokens done, tokens in all).
Report = Callable[[int, int], None]
#: True and False turn the bar on and off; None shows it on a terminal, once the work has taken a while.
ProgressLike = bool | Report | None

#: Seconds before a bar appears unasked.
PATIENCE = 2.0


@contextmanager
def reporting(progress: ProgressLike, items: Sequence[Item], what: str) -> Generator[Callable[[Sequence[int]], None]]:
    """A function to call with the numbers of items that are done.

    Args:
        progress: see :data:`ProgressLike`.
        items: all of them.
        what: what a bar is labelled with.
    """
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield lambda numbers: None
        return
    sizes = {item.number: len(item.ids) for item in items}
    whole, done = sum(sizes.values()), 0
    bar = _Bar(what, whole, 0.0 if progress is True else PATIENCE)
    report: Report = progress if callable(progress) else bar.show

    def advance(numbers: Sequence[int]) -> None:
        nonlocal done
        done += sum(sizes[number] for number in numbers)
        report(done, whole)

    try:
        yield advance
    finally:
        bar.close()


class _Bar:
    """A progress bar on stderr that appears only when there is something to wait for."""

    def __init__(self, what: str, whole: int, patience: float) -> None:
        self._what, self._whole, self._patience = what, whole, patience
        self._begun = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def show(self, done: int, whole: int) -> None:
        if self._bar is None:
            if time.monotonic() - self._begun < self._patience:
                return
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} tokens"))
            console = Console(stderr=True)
            transient = console.is_terminal
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=transient)
            self._task = self._bar.add_task(self._what, total=whole)
            self._bar.start()
        self._bar.update(self._task, completed=done)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
