"""Every Python block of the README and the pages runs, and prints what the page says it prints.

A block of Python followed by a block marked ``text`` is checked against it. After a change on purpose:
``UPDATE_EXAMPLES=1 make test-docs`` writes what was printed into the pages.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```python\n(?P<code>.*?)```(?:\n+```text\n(?P<shown>.*?)```)?", re.DOTALL)


def blocks(page: Path) -> Iterator[re.Match[str]]:
    yield from BLOCK.finditer(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))], ids=lambda page: page.name)
def test_the_page_says_what_happens(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    text, update = page.read_text(encoding="utf-8"), bool(os.environ.get("UPDATE_EXAMPLES"))
    shown_anew: list[tuple[tuple[int, int], str]] = []
    for number, block in enumerate(blocks(page)):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            source = f"{page.name}:{number}"
            lines = block["code"].splitlines(keepends=True)
            linecache.cache[source] = (len(block["code"]), None, lines, source)  # traces read their own source
            exec(compile(block["code"], source, "exec"), names)
        shown = block["shown"]
        if shown is None:
            assert not printed.getvalue().strip(), f"{page.name} prints without showing it:\n{printed.getvalue()}"
        elif update:
            shown_anew.append((block.span("shown"), f"{printed.getvalue().rstrip()}\n"))
        else:
            assert printed.getvalue().rstrip() == shown.rstrip()
    if update:
        for (start, end), printed_text in reversed(
            shown_anew
        ):  # from the end, so that earlier places stay where they are
            text = text[:start] + printed_text + text[end:]
        page.write_text(text, encoding="utf-8")
