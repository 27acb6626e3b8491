"""The page in a real browser, on the real server and the embedded model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from tests.serve.conftest import Live, demo, serving

from steersman.serve import Settings
from steersman.serve.packaged import prepare

ROOT = Path(__file__).parents[2]
AXE = ROOT / "ui" / "node_modules" / "axe-core" / "axe.min.js"
#: Milliseconds that a test waits for what is to come, on however busy a machine.
PATIENCE = 120_000
PROMPT = "I think the movie was"
STEERED = '.column[data-side="right"]'
BASELINE = '.column[data-side="left"]'


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server as ``steer serve demo --ui`` prepares it."""
    folder = tmp_path_factory.mktemp("page")
    prepare(demo(), Settings(folder, name="demo"))
    with serving(folder, ui=True) as found:
        yield found


@pytest.fixture(scope="session")
def swept(live: Live) -> str:
    """A small sweep of `happy`."""
    body = {
        "vector": "happy", "prompts": [PROMPT, "The day was"], "positive": [" great"], "negative": [" awful"],
        "layers": [6, 8], "strengths": [-1, 0, 1, 2], "random": 8,
    }  # fmt: skip
    with live.http() as client:
        job = client.post("/v1/sweeps", json=body).json()["id"]
    found = live.wait(job)
    assert found["status"] == "succeeded", found["error"]
    return job


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "these tests need Chromium: apt install chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass
class Seen:
    """What went by while a page was open."""

    requests: list[str] = field(default_factory=list[str])
    bodies: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])
    troubles: list[str] = field(default_factory=list[str])


Open = Callable[..., Page]


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def visit(browser: Browser, live: Live, seen: Seen) -> Iterator[Open]:
    """Open the page; when the test is over, nothing has come from elsewhere and nothing has gone wrong."""
    contexts: list[Any] = []
    origins: set[str] = set()

    def opened(
        state: str = "", *, wide: int = 1280, tall: int = 900, scheme: Any = "light", wait: bool = True,
        server: Live = live,
    ) -> Page:  # fmt: skip
        context = browser.new_context(
            viewport={"width": wide, "height": tall}, color_scheme=scheme, reduced_motion="reduce",
            accept_downloads=True, permissions=["clipboard-read", "clipboard-write"],
        )  # fmt: skip
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: seen.troubles.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: seen.troubles.append(str(error)))
        page.on("request", lambda request: _noted(seen, request))
        origins.add(server.url)
        page.goto(f"{server.url}/{state}")
        if wait:
            settled(page)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [url for url in seen.requests if not url.startswith((*origins, "blob:", "data:"))] == []
    assert seen.troubles == []


def _noted(seen: Seen, request: Any) -> None:
    seen.requests.append(request.url)
    if request.method == "POST":
        seen.bodies.append((request.url.rpartition("/v1/")[2], request.post_data_json))


def settled(page: Page) -> None:
    """Both columns have ended, and the lab shows what it can."""
    for side in (BASELINE, STEERED):
        expect(page.locator(side)).to_have_attribute("data-state", "done", timeout=PATIENCE)
    expect(page.locator("#lab-panel")).to_have_attribute("aria-busy", "false", timeout=PATIENCE)


def answer(page: Page, side: str) -> str:
    """The text that a column has generated."""
    return page.locator(f"{side} .answer").get_attribute("data-answer") or ""


def answered(page: Page, side: str, text: str) -> None:
    """A column comes to show a text, and the page that text."""
    expect(page.locator(f"{side} .answer")).to_have_attribute("data-answer", text, timeout=PATIENCE)
    expect(page.locator(f"{side} .said")).to_have_text(text, timeout=PATIENCE)


def generated(live: Live, steering: Any, prompt: str = PROMPT, tokens: int = 24) -> str:
    """What the API answers."""
    body = {"model": "demo", "prompt": prompt, "max_tokens": tokens, "seed": 0, "steering": steering}
    with live.http() as client:
        return client.post("/v1/completions", json=body).json()["choices"][0]["text"]


def card(page: Page, name: str) -> Locator:
    """The card of a vector."""
    return page.locator(".card").filter(has=page.get_by_role("switch", name=name, exact=True))


def violations(page: Page) -> list[str]:
    """What axe-core finds against WCAG 2.2 AA and good practice."""
    # evaluated rather than added as a script, which the page's policy would refuse
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


__all__ = ["BASELINE", "PROMPT", "STEERED", "answer", "answered", "card", "generated", "settled", "violations"]
