"""The built page that is committed is that of the source, small, and needs nothing from elsewhere."""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path

import pytest

from steersman.serve.page import STATIC

UI = Path(__file__).parents[2] / "ui"
PARTS = ("index.html", "package-lock.json", "public", "src", "vite.config.ts")
#: Bytes of scripts and styles, compressed, that a visitor waits for.
BUDGET = 120 * 1024


def sources() -> list[str]:
    """Paths of what the page is built from, in order, as ui/vite.config.ts lists them."""
    found = [
        file.relative_to(UI).as_posix()
        for part in PARTS
        for file in ([UI / part] if (UI / part).is_file() else (UI / part).rglob("*"))
        if file.is_file()
    ]
    return sorted(name for name in found if ".test." not in name)


@pytest.mark.skipif(not UI.is_dir(), reason="the page's source is not part of an installation")
def test_it_was_built_from_this_source() -> None:
    digest = hashlib.sha256()
    for name in sources():
        digest.update(f"{name}\n".encode() + (UI / name).read_bytes() + b"\n")
    built = (STATIC / "source.txt").read_text(encoding="utf-8").strip()
    assert built == digest.hexdigest(), "the page in serve/static is not built from ui/ as it is: run make ui"


def test_it_is_small() -> None:
    files = [*STATIC.glob("assets/*.js"), *STATIC.glob("assets/*.css")]
    assert files
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) <= BUDGET


def test_its_document_holds_no_script_and_names_no_other_host() -> None:
    document = (STATIC / "index.html").read_text(encoding="utf-8")
    named = re.findall(r'(?:src|href)="([^"]+)"', document)
    assert len(named) >= 3
    assert all((STATIC / name).is_file() for name in named)
    assert re.findall(r"<script[^>]*>([^<]*)</script>", document) == [""]
    assert "<style" not in document
    assert " style=" not in document
    assert "//" not in "".join(named)


def test_its_styles_fetch_nothing() -> None:
    for file in STATIC.glob("assets/*.css"):
        text = file.read_text(encoding="utf-8")
        assert "url(" not in text
        assert "@import" not in text
