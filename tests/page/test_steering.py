"""What somebody does first: look, move a slider, send a link."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import expect
from tests.page.conftest import (
    BASELINE,
    PATIENCE,
    PROMPT,
    STEERED,
    Open,
    Seen,
    answer,
    answered,
    card,
    generated,
    settled,
)
from tests.serve.conftest import Live

from steersman.serve.packaged import PRESETS

AT_ONE = {"interventions": [{"vector": "happy", "strength": 1, "layers": [8]}]}


def test_the_first_screen_shows_a_difference(visit: Open, live: Live) -> None:
    page = visit()
    answered(page, BASELINE, generated(live, None))
    answered(page, STEERED, generated(live, AT_ONE))
    assert answer(page, BASELINE) != answer(page, STEERED)
    expect(card(page, "happy").get_by_role("switch")).to_be_checked()
    expect(card(page, "formal").get_by_role("switch")).not_to_be_checked()
    expect(page.locator(f"{STEERED} .applied")).to_contain_text("add happy × 1 at layer 8: touched 1 of the prompt")
    # each token has the projection that the API gives
    expect(page.locator(f"{STEERED} .token").first).to_be_visible(timeout=PATIENCE)
    with live.http() as client:
        text = PROMPT + answer(page, STEERED)
        values = client.post("/v1/projections", json={"vector": "happy", "layer": 8, "text": text}).json()["values"]
    shown = [float(token.get_attribute("data-value") or "nan") for token in page.locator(f"{STEERED} .token").all()]
    assert shown == values[-len(shown) :]


def test_a_slider_changes_the_steered_text_and_nothing_else(visit: Open, live: Live, seen: Seen) -> None:
    page = visit()
    before, steered = answer(page, BASELINE), answer(page, STEERED)
    asked = len([body for path, body in seen.bodies if path == "completions" and body["steering"] is None])
    slider = page.get_by_role("slider", name="Strength of happy")
    slider.fill("-2")
    other = generated(live, {"interventions": [{"vector": "happy", "strength": -2, "layers": [8]}]})
    assert other != steered
    answered(page, STEERED, other)
    assert answer(page, BASELINE) == before
    assert asked == len([body for path, body in seen.bodies if path == "completions" and body["steering"] is None]) == 1
    slider.fill("1")
    answered(page, STEERED, steered)
    # the history has both, and brings the other one back
    page.get_by_role("button", name="History").click()
    page.locator(".history button").filter(has_text="happy × -2").click()
    answered(page, STEERED, other)
    assert slider.input_value() == "-2"


def test_a_link_restores_the_state(visit: Open, live: Live) -> None:
    page = visit()
    card(page, "formal").get_by_role("switch").check()
    page.locator(".prompt textarea").fill("The weather today is")
    page.locator(".knobs input").first.fill("12")
    page.get_by_label("Left column").select_option("system")
    page.locator(f"{BASELINE} input").fill("Everything is lovely.")
    page.locator(f"{BASELINE} input").blur()
    both = {"interventions": [
        {"vector": name, "strength": strength, "layers": [8]} for name, (strength, _) in PRESETS.items()
    ]}  # fmt: skip
    answered(page, STEERED, generated(live, both, "The weather today is", 12))
    told = "Everything is lovely.\nThe weather today is"
    answered(page, BASELINE, generated(live, None, told, 12))
    page.get_by_role("tab", name="Words").click()
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Link copied")).to_be_visible()
    link = urlsplit(page.evaluate("navigator.clipboard.readText()"))
    assert parse_qs(link.fragment)["prompt"] == ["The weather today is"]
    again = visit(f"#{link.fragment}")
    assert answer(again, STEERED) == answer(page, STEERED)
    assert answer(again, BASELINE) == answer(page, BASELINE)
    assert again.locator(".prompt textarea").input_value() == "The weather today is"
    expect(again.get_by_role("tab", name="Words")).to_have_attribute("aria-selected", "true")
    assert urlsplit(again.url).fragment == link.fragment


def test_either_side_runs_any_plan_and_a_conversation_goes_on(visit: Open, live: Live, seen: Seen) -> None:
    page = visit()
    page.get_by_label("Left column").select_option("tokens")
    page.locator(f"{BASELINE} input").fill("happy:-1@8 formal:1@8")
    page.locator(f"{BASELINE} input").blur()
    answered(page, BASELINE, generated(live, ["happy:-1@8", "formal:1@8"]))
    page.locator(f"{BASELINE} input").fill("hapy:-1@8")
    page.locator(f"{BASELINE} input").blur()
    expect(page.locator(f"{BASELINE} [role=alert]")).to_contain_text("hapy", timeout=PATIENCE)
    assert [trouble for trouble in seen.troubles if "404" not in trouble] == []  # the browser notes the refusal
    seen.troubles.clear()
    page.get_by_label("Left column").select_option("preset:happy")
    answered(page, BASELINE, answer(page, STEERED))
    page.get_by_label("Left column").select_option("plain")
    page.get_by_label("Have a conversation").check()
    page.locator(".prompt textarea").fill("Hello there")
    page.locator(".prompt textarea").press("Enter")
    with live.http() as client:
        body = {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 24, "seed": 0}
        whole = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        answered(page, BASELINE, whole)
        settled(page)
        page.get_by_role("button", name="Reply").click()
        page.locator(".prompt textarea").fill("And you?")
        before = [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": whole}]
        body["messages"] = [*before, {"role": "user", "content": "And you?"}]
        whole = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        answered(page, BASELINE, whole)
