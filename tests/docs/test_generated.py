"""The generated pages are what the engines say, and the navigation names every page there is."""

from __future__ import annotations

from pathlib import Path

import yaml
from tools.pages import architectures, engines

import steersman as sm

ROOT = Path(__file__).parents[2]
GENERATED = {
    "index.md", "changelog.md", "contributing.md", "reference/cli.md", "reference/spec.md", "reference/engines.md",
    "reference/architectures.md",
}  # fmt: skip


def test_the_table_of_engines_is_their_own_answer() -> None:
    page = engines.page(sm.demo_model())
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in page.splitlines()
        if "|" in line
    }
    assert rows["Zero, of heads"] == ["every", "every", "`all`", "no", "no"]
    assert rows["Rotate"][2:] == ["no", "no", "no"]
    assert "no" not in {cells[0] for name, cells in rows.items() if name not in ("operation", "---")}


def test_every_family_is_listed() -> None:
    page = architectures.page()
    assert "| `gpt2` |" in page
    assert "| `llama` |" in page


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    found = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}

    def pages(node: object) -> set[str]:
        if isinstance(node, str):
            return {node}
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return set().union(*(pages(child) for child in children))

    assert pages(yaml.safe_load(text)["nav"]) == found | GENERATED
