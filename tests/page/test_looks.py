"""For everybody: by keyboard only, on a phone, in the dark, with a screen reader."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from tests.page.conftest import (
    BASELINE,
    PATIENCE,
    STEERED,
    Open,
    answer,
    answered,
    card,
    generated,
    settled,
    violations,
)
from tests.serve.conftest import Live


def tab_to(page: Page, what: str, most: int = 80) -> None:
    """Press Tab until the element that a script's expression describes has the focus."""
    for _ in range(most):
        if page.evaluate(f"(() => {{ const on = document.activeElement; return !!({what}); }})()"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no element with {what} can be reached by the keyboard")


@pytest.mark.usefixtures("swept")
def test_keyboard_only(visit: Open, live: Live) -> None:
    page = visit()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skip to the prompt
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    page.keyboard.press("Control+A")
    page.keyboard.type("The day was")
    page.keyboard.press("Control+Enter")
    answered(page, BASELINE, generated(live, None, "The day was"))
    page.evaluate("document.activeElement.blur()")
    tab_to(page, "on.type === 'range' && on.ariaLabel === 'Strength of happy'")
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    assert card(page, "happy").get_by_role("slider").input_value() == "0.5"
    answered(page, STEERED, generated(live, ["happy:0.5@8"], "The day was"))
    tab_to(page, "on.role === 'tab'")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Layers")).to_be_focused()
    expect(page.locator("#lab-panel rect.cell").first).to_be_visible(timeout=PATIENCE)
    tab_to(page, "on.matches('rect[data-row]')")
    row, column = page.evaluate("[document.activeElement.dataset.i, document.activeElement.dataset.j].map(Number)")
    page.keyboard.press("ArrowDown" if row == 0 else "ArrowUp")
    page.keyboard.press("ArrowRight" if column == 0 else "ArrowLeft")
    layer, strength = page.evaluate("[document.activeElement.dataset.row, document.activeElement.dataset.column]")
    assert (layer, int(strength)) == (str([6, 8][1 - row]), [-1, 0, 1, 2][1 if column == 0 else column - 1])
    page.keyboard.press("Enter")
    assert card(page, "happy").get_by_role("slider").input_value() == strength
    answered(page, STEERED, generated(live, [f"happy:{strength}@{layer}"], "The day was"))
    tab_to(page, "on.textContent === 'Export'", 120)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Export")).to_be_focused()


@pytest.mark.usefixtures("swept")
def test_a_phone(visit: Open, live: Live) -> None:
    page = visit(wide=360, tall=740)
    for name in ("Dose", "Layers", "Tokens", "Words", "Geometry", "Likeness", "Heads"):
        page.get_by_role("tab", name=name).click()
        settled(page)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, f"{name} is {wide} wide"
        size = page.evaluate(
            "Math.min(99, ...[...document.querySelectorAll('#lab-panel svg text')].map((t) => t.getScreenCTM().a * 12))"
        )
        assert size >= 9, f"letters of {name} are {size} pixels high"
    card(page, "happy").get_by_role("slider").fill("-2")
    answered(page, STEERED, generated(live, ["happy:-2@8"]))
    assert violations(page) == []
    page.get_by_role("button", name="New direction").click()
    box = page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert box["width"] <= 360
    assert page.get_by_role("dialog").evaluate("one => one.scrollWidth <= one.clientWidth")


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_violation_in_light_or_dark(visit: Open, scheme: str) -> None:
    page = visit(scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    assert (sum(page.evaluate(paper)) > 380) == (scheme == "light")
    page.locator(".card summary").first.click()
    page.get_by_label("Only if the prompt leans a way").first.check()
    settled(page)
    assert violations(page) == []
    page.get_by_label("Only if the prompt leans a way").first.uncheck()
    for name in ("Layers", "Tokens", "Words", "Geometry", "Likeness", "Heads"):
        page.get_by_role("tab", name=name).click()
        settled(page)
        assert violations(page) == [], name
    for name in ("New direction", "Export", "History"):
        page.get_by_role("button", name=name).click()
        expect(page.get_by_role("dialog")).to_be_visible()
        if name == "New direction":
            page.get_by_role("button", name="Fill in an example").click()
            expect(page.locator("mark").first).to_be_visible(timeout=PATIENCE)
        if name == "Export":
            expect(page.locator(".code")).to_contain_text("steersman", timeout=PATIENCE)
        assert violations(page) == [], name
        page.keyboard.press("Escape")
    # the choice of the reader wins over the system's, and stays
    other = "dark" if scheme == "light" else "light"
    page.locator("nav select").select_option(other)
    assert (sum(page.evaluate(paper)) > 380) == (other == "light")
    page.reload()
    settled(page)
    assert (sum(page.evaluate(paper)) > 380) == (other == "light")
    assert answer(page, STEERED)
