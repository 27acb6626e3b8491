"""Under the slider: every operation, which tokens, and conditions."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect
from tests.page.conftest import BASELINE, STEERED, Open, answer, answered, card, generated
from tests.serve.conftest import Live


def opened(page: Page) -> Locator:
    own = card(page, "happy")
    own.get_by_text("Layers, tokens, operation, condition").click()
    return own


@pytest.mark.parametrize(("operation", "number", "more"), [
    ("ablate", None, {}),
    ("clamp", ("Value of the projection", "9"), {"value": 9}),
    ("affine", ("Share of the way", "1"), {"alpha": 1}),
    ("rotate", ("Angle to it", "0.7"), {"angle": 0.7}),
])  # fmt: skip
def test_operations(visit: Open, live: Live, operation: str, number: Any, more: dict[str, Any]) -> None:
    page = visit()
    own = opened(page)
    own.locator("label").filter(has_text=re.compile("^Operation")).locator("select").select_option(operation)
    if number:
        own.get_by_label(number[0]).fill(number[1])
        own.get_by_label(number[0]).blur()
    said = {"vector": "happy", "strength": 1, "layers": [8], "operation": operation, **more}
    answered(page, STEERED, generated(live, {"interventions": [said]}))
    expect(page.locator(f"{STEERED} .applied")).to_contain_text(f"{operation} happy × 1 at layer 8")
    expect(own.locator(".caption")).to_contain_text("This combination has not been measured")
    # the address says it all
    again = visit(f"#{page.url.partition('#')[2]}")
    assert answer(again, STEERED) == answer(page, STEERED)


def test_tokens_layers_and_units(visit: Open, live: Live) -> None:
    page = visit()
    own = opened(page)
    own.get_by_label("Tokens").select_option("generation")
    own.get_by_label("Layers, 0 to 12").fill("6-8")
    own.get_by_label("One unit of strength is").select_option("norm")
    own.get_by_role("slider").fill("0.3")
    said = {"vector": "happy", "strength": 0.3, "layers": [6, 7, 8], "positions": "generation", "unit": "norm"}
    answered(page, STEERED, generated(live, {"interventions": [said]}))
    expect(page.locator(f"{STEERED} .applied")).to_contain_text("touched 0 of the prompt")
    own.get_by_label("Layers, 0 to 12").fill("6-")
    expect(own.get_by_label("Layers, 0 to 12")).to_have_attribute("aria-invalid", "true")


def test_a_condition_acts_only_where_it_holds(visit: Open, live: Live) -> None:
    page = visit()
    own = opened(page)
    own.get_by_label("Only if the prompt leans a way").check()
    for side, threshold, holds in (("above", "1", False), ("below", "1", True)):
        own.locator("fieldset select").last.select_option(side)
        own.get_by_label("threshold").fill(threshold)
        own.get_by_label("threshold").blur()
        layer = int(own.locator("fieldset").get_by_label("layer").input_value())
        said = {"vector": "happy", "strength": 1, "layers": [8],
                "when": {"vector": "happy", "layer": layer, side: float(threshold)}}  # fmt: skip
        answered(page, STEERED, generated(live, {"interventions": [said]}))
        told = page.locator(f"{STEERED} .applied")
        if holds:
            expect(told).to_contain_text("add happy")
        else:
            expect(told).to_contain_text("its condition did not hold")
            assert answer(page, STEERED) == answer(page, BASELINE)
