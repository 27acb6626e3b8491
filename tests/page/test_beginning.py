"""Servers that are not the tour's: with keys, and with an empty folder."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect
from tests.page.conftest import BASELINE, PATIENCE, STEERED, Open, Seen, answer, card, settled, violations
from tests.serve.conftest import Live, demo, serving

from steersman.serve import Settings
from steersman.serve.packaged import PRESETS, prepare

KEYS = {"api_key": "reading-key", "admin_key": "admin-key-1"}


def refused(seen: Seen, *statuses: int) -> None:
    """The browser notes refusals by itself; nothing else has gone wrong."""
    assert [one for one in seen.troubles if not any(str(status) in one for status in statuses)] == []
    seen.troubles.clear()


def test_a_server_with_keys(visit: Open, seen: Seen, tmp_path: Path) -> None:
    prepare(demo(), Settings(tmp_path, name="demo"))
    with serving(tmp_path, ui=True, **KEYS) as live:
        page = visit(f"?token={live.app.state.gate.token}", server=live)
        assert "?token" not in page.url
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


def test_the_tour_begins_with_what_was_measured(visit: Open, tmp_path: Path) -> None:
    prepare(demo(), Settings(tmp_path, name="demo"))
    with serving(tmp_path, ui=True) as live:
        page = visit(server=live)
        with live.http() as client:
            bands = {name: client.get(f"/v1/vectors/{name}/analysis").json()["bands"] for name in PRESETS}
        for name, (_, layer) in PRESETS.items():
            band = next(one for one in bands[name] if one["layer"] == layer)
            shown = card(page, name).locator(".band")
            assert float(shown.get_attribute("data-low") or "nan") == band["low"]
            assert float(shown.get_attribute("data-high") or "nan") == band["high"]
            expect(card(page, name).locator(".caption")).to_contain_text("and repetition ≤ 0.2, on 12 prompts")
            expect(card(page, name).locator(".caption")).not_to_contain_text("Outside")
        expect(page.locator('#lab-panel circle[data-series="effect"]')).to_have_count(11)
        expect(page.locator("#lab-panel .named")).to_contain_text("Towards wonderful, great")
        page.get_by_role("tab", name="Layers").click()
        expect(page.locator("#lab-panel rect.cell")).to_have_count(11 * len(bands["happy"]), timeout=PATIENCE)


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
        # too few examples to choose a layer by: it begins in the middle, and acts
        expect(card(page, "rainy").locator(".facts")).to_contain_text("At layer 6")
        expect(page.locator(f"{STEERED} .applied")).to_contain_text("add rainy × 1 at layer 6", timeout=PATIENCE)
        settled(page)
