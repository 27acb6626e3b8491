"""The hook that mkdocs calls: adds the generated pages to the site, and the pages that lie outside of ``docs/``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File
from typer.cli import get_docs_for_click

import steersman as sm
from steersman import spec
from steersman.cli.app import build
from tools.pages import architectures, engines

ROOT = Path(__file__).parents[2]


def on_files(files: Any, config: Any) -> Any:
    """Add what is generated."""
    pages = {
        "index.md": home(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "contributing.md": linked((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")),
        "reference/cli.md": command_line(),
        "reference/spec.md": schema(),
        "reference/engines.md": engines.page(sm.demo_model()),
        "reference/architectures.md": architectures.page(),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def home() -> str:
    """The README, its links made relative to the site."""
    return linked((ROOT / "README.md").read_text(encoding="utf-8"))


def linked(text: str) -> str:
    """A page of the root as a page of the site."""
    text = re.sub(r"\]\(docs/", "](", text)
    text = re.sub(r"\]\(CONTRIBUTING\.md", "](contributing.md", text)
    return re.sub(r"\]\(CHANGELOG\.md", "](changelog.md", text)


def command_line() -> str:
    """Every command with its options, as ``--help`` has them."""
    command = build()
    text = get_docs_for_click(
        obj=command, ctx=typer.Context(command, info_name="steer"), name="steer", title="Commands"
    )
    return re.sub(r"\[/?(bold|dim|cyan|green|yellow)\]", "", text)


def schema() -> str:
    """The JSON schema of a plan."""
    return "\n".join([
        "# The spec: a plan as JSON",
        "",
        "One form everywhere: `plan.spec()` in Python, recipes in TOML, the body of a request to a server, and",
        "`vllm_xargs`. Unknown keys are refused. Tensors are named, and lie in a registry, a file or a folder.",
        "",
        "```json",
        json.dumps(spec.json_schema(), indent=2),
        "```",
        "",
    ])  # fmt: skip
