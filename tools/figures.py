"""Draws the figures of the pages anew, by running the pages' own code where their images lie.

python -m tools.figures [PAGE ...]
"""

from __future__ import annotations

import contextlib
import linecache
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
#: pages that show what their code draws
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if '.svg"' in page.read_text(encoding="utf-8")]
BLOCK = re.compile(r"```python\n(?P<code>.*?)```", re.DOTALL)


def main() -> None:
    """Run the pages, or those named; what they print is checked elsewhere."""
    for page in [page for page in PAGES if page.stem in sys.argv[1:] or not sys.argv[1:]]:
        names: dict[str, object] = {"__name__": "example"}
        with contextlib.chdir(IMAGES), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            for number, block in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8"))):
                source, code = f"{page.name}:{number}", block["code"]
                linecache.cache[source] = (len(code), None, code.splitlines(keepends=True), source)  # for traces
                exec(compile(code, source, "exec"), names)
        print(f"drew the figures of {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
