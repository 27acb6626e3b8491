"""Servers that are not the tour's: with keys, and with an empty folder."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect
from tests.page.conftest import BASELINE, PATIENCE, STEERED, Open, Seen, answer, card, settled, violations
from tests.serve.conftest import Live, demo, serving

from steersman.serve import Settings
from steersman.serve.packaged import prepare

KEYS = {"api_key": "reading-key", "admin_key": "admin-key-1"}


def refused(seen: Seen, *statuses: int) -> None:
    """The browser notes refusals by itself; nothing else has gone wrong."""
    assert [one for one in seen.troubles if not any(str(status) in one for status in statuses)] == []
    seen.troubles.clear()


def test_a_server_with_keys(visit: Open, seen: Seen, tmp_path: Path) -> None:
    prepare(demo(), Settings(tmp_path, name="demo"))
    with serving(tmp_path, ui=True, **KEYS) as live:
        page = visit(f"?token={live.app.state.gate.token}", server=live)
        assert "token" not in page.url
        assert answer(page, STEERED) != answer(page, BASELINE)
        # elsewhere there is no session, and the token was good once
        other = visit(f"?token={live.app.state.gate.token or 'gone'}", server=live, wait=False)
        expect(other.get_by_role("heading", name="This server has a key")).to_be_visible(timeout=PATIENCE)
        refused(seen, 401)
        assert violations(other) == []
        other.get_by_label("Key").fill("no-such-key")
        other.get_by_role("button", name="Open the page").click()
        expect(other.get_by_role("alert")).to_contain_text("no key of this server")
        refused(seen, 401)
        other.get_by_label("Key").fill(KEYS["api_key"])
        other.get_by_role("button", name="Open the page").click()
        settled(other)
        assert answer(other, STEERED) == answer(page, STEERED)
        # a key to read and generate changes nothing
        own = card(other, "happy")
        own.get_by_text("Layers, tokens, operation, condition").click()
        own.get_by_role("button", name="Measure the band").click()
        other.get_by_role("button", name="Measure", exact=True).click()
        expect(other.get_by_role("dialog").get_by_role("alert")).to_contain_text("admin")
        refused(seen, 403)
        assert KEYS["api_key"] not in other.evaluate("JSON.stringify([localStorage, document.cookie, location.href])")


def test_an_empty_folder(visit: Open, live: Live, tmp_path: Path) -> None:
    with serving(tmp_path, ui=True) as bare:
        page = visit(server=bare, wait=False)
        expect(page.get_by_text("No directions yet.")).to_be_visible(timeout=PATIENCE)
        settled(page)
        assert answer(page, STEERED) == answer(page, BASELINE) != ""
        expect(page.locator(f"{STEERED} .applied")).to_contain_text("Nothing steers")
        expect(page.locator("#lab-panel")).to_contain_text("Make a direction first")
        for name in ("Layers", "Tokens", "Words", "Geometry", "Probes", "Likeness"):
            page.get_by_role("tab", name=name, exact=True).click()
            expect(page.locator("#lab-panel")).to_contain_text("Make a direction first")
        assert violations(page) == []
        page.get_by_role("button", name="Make one from examples").click()
        drawer = page.get_by_role("dialog")
        drawer.get_by_role("button", name="Fill in an example").click()
        drawer.get_by_role("button", name="Make it").click()
        expect(drawer.get_by_role("heading", name="rainy is ready")).to_be_visible(timeout=PATIENCE)
        drawer.get_by_role("button", name="Try it").click()
        expect(card(page, "rainy").get_by_role("switch")).to_be_checked()
