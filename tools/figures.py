"""Draws the figures of the pages anew, by running the pages' own code where their images lie.

python -m tools.figures
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "tutorials" / "circuits.md", *sorted((ROOT / "docs" / "cookbook").glob("*.md")))
IMAGES = ROOT / "docs" / "images"
BLOCK = re.compile(r"```python\n(?P<code>.*?)```", re.DOTALL)


def main() -> None:
    """Run the pages; what they print is checked elsewhere."""
    for page in PAGES:
        names: dict[str, object] = {"__name__": "example"}
        with contextlib.chdir(IMAGES), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
                exec(compile(block["code"], page.name, "exec"), names)
        print(f"drew the figures of {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
