"""Directions are made from two columns, and measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests.page.conftest import BASELINE, PATIENCE, PROMPT, STEERED, Open, answer, answered, card, generated
from tests.serve.conftest import Live

from steersman.demo import pairs


def test_extract_from_two_columns(visit: Open, live: Live) -> None:
    page = visit()
    page.get_by_role("button", name="New direction").click()
    drawer = page.get_by_role("dialog")
    some = pairs("sentiment")
    positive, negative = [str(one) for one in some.positive[:20]], [str(one) for one in some.negative[:20]]
    drawer.get_by_label("Name").fill("cheer")
    drawer.get_by_label("More of this").fill("\n".join(positive))
    drawer.get_by_label("Less of this").fill("\n".join(negative))
    # the token that is read is the one the API says
    expect(drawer.locator("mark").first).to_be_visible(timeout=PATIENCE)
    with live.http() as client:
        asked = {"positive": positive[:2], "negative": negative[:2], "read": "last"}
        texts = client.post("/v1/read", json=asked).json()["texts"]
    assert drawer.locator("mark").all_text_contents() == [
        part["text"] for one in texts for part in one["stretches"] if part["read"]
    ]
    drawer.get_by_role("button", name="Make it").click()
    expect(drawer.get_by_role("heading", name="cheer is ready")).to_be_visible(timeout=PATIENCE)
    with live.http() as client:
        found = client.get("/v1/vectors/cheer/analysis").json()
    rows = [found["quality"]["layers"][str(layer)] for layer in found["layers"]]
    curve = drawer.locator('circle[data-series="held out"]')
    assert [float(dot.get_attribute("data-y") or "nan") for dot in curve.all()] == [row["accuracy"] for row in rows]
    for warning in found["warnings"]:
        expect(drawer.get_by_text(warning)).to_be_visible()
    drawer.get_by_role("button", name="Try it").click()
    expect(card(page, "cheer").get_by_role("switch")).to_be_checked()
    both = {"interventions": [
        {"vector": "cheer", "strength": 1}, {"vector": "happy", "strength": 1, "layers": [8]},
    ]}  # fmt: skip
    answered(page, STEERED, generated(live, both))
    with live.http() as client:
        client.delete("/v1/vectors/cheer")


def test_a_sweep_puts_the_band_on_the_track(visit: Open, live: Live, tmp_path: Path) -> None:
    stiff = live.vector("formal") * 0.9
    stiff.save(tmp_path / "stiff.safetensors")
    with live.http() as client:
        assert client.put("/v1/vectors/stiff", content=(tmp_path / "stiff.safetensors").read_bytes()).is_success
    page = visit()
    # the form asks again what was asked before
    card(page, "formal").get_by_text("Layers, tokens, operation, condition").click()
    card(page, "formal").get_by_role("button", name="Measure the band").click()
    form = page.get_by_role("dialog")
    assert form.get_by_label("Words it should make likelier").input_value() == "rather, truly"
    page.keyboard.press("Escape")
    own = card(page, "stiff")
    expect(own.locator(".caption")).to_contain_text("Nobody has measured yet")
    expect(own.locator(".band")).to_have_count(0)
    own.get_by_role("button", name="Measure the band").first.click()
    form.get_by_label("Words it should make likelier").fill("rather, truly")
    form.get_by_label("Words it should make rarer").fill("super, totally")
    form.get_by_label("Prompts, one a line").fill("The song is\nThe room is")
    form.get_by_label("Strengths").fill("-1, 0, 1, 2")
    form.get_by_label("Layers").fill("10, 8")
    form.get_by_label("Random directions").fill("4")
    form.get_by_role("button", name="Measure").click()
    expect(own.locator(".band")).to_be_visible(timeout=PATIENCE)
    with live.http() as client:
        found = client.get("/v1/vectors/stiff/analysis").json()
    band = next(one for one in found["bands"] if one["layer"] == stiff.layer)
    shown = own.locator(".band")
    assert float(shown.get_attribute("data-low") or "nan") == band["low"]
    assert float(shown.get_attribute("data-high") or "nan") == band["high"]
    expect(own.locator(".caption")).to_contain_text("on 2 prompts")
    expect(own.locator(".caption")).to_contain_text("KL ≤ 0.1")
    # past the band, the card says so; at a layer that was not swept, nothing is claimed
    own.get_by_role("slider").fill(str(band["high"] + 0.5))
    expect(own.locator(".caption")).to_contain_text("Outside of the measured band")
    own.get_by_text("Layers, tokens, operation, condition").click()
    own.get_by_label("Layers, 0 to 12").fill("3")
    own.get_by_label("Layers, 0 to 12").blur()
    expect(own.locator(".caption")).to_contain_text("This layer has not been measured")
    with live.http() as client:
        client.delete("/v1/vectors/stiff")


def test_a_measurement_tells_how_far_it_is_and_can_be_stopped(visit: Open, live: Live) -> None:
    page = visit()
    own = card(page, "happy")
    own.get_by_text("Layers, tokens, operation, condition").click()
    own.get_by_role("button", name="Measure the band").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Layers").fill("0-12")
    form.get_by_label("Random directions").fill("400")
    form.get_by_role("button", name="Measure").click()
    progress = own.locator(".progress")
    expect(progress).to_contain_text("measuring: layer", timeout=PATIENCE)
    expect(progress).to_contain_text("of 13")
    assert int(progress.locator("progress").get_attribute("max") or 0) == 13
    progress.get_by_role("button", name="Stop").click()
    expect(progress).to_have_count(0, timeout=PATIENCE)
    expect(own.locator(".band")).to_be_visible()  # of what was measured before
    with live.http() as client:
        newest = client.get("/v1/jobs").json()["data"][0]
        assert (newest["kind"], newest["status"]) == ("sweep", "cancelled")
        client.delete(f"/v1/jobs/{newest['id']}")


@pytest.mark.usefixtures("swept")
def test_a_cell_of_the_map_sets_the_page(visit: Open, live: Live) -> None:
    page = visit()
    before = answer(page, BASELINE)
    page.get_by_role("tab", name="Layers").click()
    cell = page.locator('.lab rect[data-row="6"][data-column="2"]')
    expect(cell).to_be_visible(timeout=PATIENCE)
    cell.click()
    assert card(page, "happy").get_by_role("slider").input_value() == "2"
    expect(card(page, "happy").locator(".facts")).to_contain_text("At layer 6")
    answered(page, STEERED, generated(live, ["happy:2@6"]))
    assert answer(page, BASELINE) == before


def test_a_file_of_examples_and_a_file_of_a_vector(visit: Open, live: Live, tmp_path: Path) -> None:
    page = visit()
    file = tmp_path / "rain.jsonl"
    file.write_text("".join(json.dumps({"positive": f"wet {i}", "negative": f"dry {i}"}) + "\n" for i in range(3)))
    page.get_by_role("button", name="New direction").click()
    drawer = page.get_by_role("dialog")
    drawer.locator('input[type="file"]').set_input_files(file)
    expect(drawer.get_by_label("More of this")).to_have_value("wet 0\nwet 1\nwet 2")
    expect(drawer.get_by_label("Less of this")).to_have_value("dry 0\ndry 1\ndry 2")
    assert drawer.get_by_label("Name").input_value() == "rain"
    page.keyboard.press("Escape")
    expect(drawer).to_have_count(0)
    with live.http() as client:
        (tmp_path / "twin.safetensors").write_bytes(client.get("/v1/vectors/happy/file").content)
    page.locator(".upload input").set_input_files(tmp_path / "twin.safetensors")
    expect(card(page, "twin").get_by_role("switch")).to_be_checked(timeout=PATIENCE)
    own = card(page, "happy").get_by_role("switch")
    own.uncheck()
    answered(page, STEERED, generated(live, ["twin"], PROMPT))
    page.locator(".card").filter(has_text="twin").get_by_text("Layers, tokens").click()
    card(page, "twin").get_by_role("button", name="Delete").click()
    card(page, "twin").get_by_role("button", name="Delete twin for good").click()
    expect(page.get_by_role("switch", name="twin")).to_have_count(0, timeout=PATIENCE)
