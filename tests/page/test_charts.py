"""Every chart draws the API's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.page.conftest import BASELINE, PATIENCE, PROMPT, STEERED, Open, Seen, answer, settled
from tests.serve.conftest import Live

from steersman.charts.figure import Figure

HEADS = {"prompts": [PROMPT, "The day was"], "target": " great", "foil": " awful", "mode": "mean"}


def asked(live: Live, chart: str, body: dict[str, Any]) -> dict[str, Any]:
    with live.http() as client:
        answer = client.post(f"/v1/charts/{chart}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["arguments"]


def marks(page: Page, selector: str, *names: str) -> list[tuple[str, ...]]:
    """The data of marks, in the order they are drawn."""
    found = page.locator(f"#lab-panel {selector}")
    expect(found.first).to_be_attached(timeout=PATIENCE)
    script = "(all, names) => all.map((one) => names.map((name) => one.dataset[name] ?? ''))"
    return [tuple(one) for one in found.evaluate_all(script, list(names))]


def numbers(page: Page, selector: str, *names: str) -> list[tuple[float, ...]]:
    return [tuple(float(one) for one in row) for row in marks(page, selector, *names)]


def turn(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    expect(page.locator("#lab-panel")).to_have_attribute("aria-busy", "false", timeout=PATIENCE)


@pytest.mark.usefixtures("swept")
def test_charts_of_a_sweep(visit: Open, live: Live, tmp_path: Path) -> None:
    page = visit()
    dose = asked(live, "dose-response", {"vector": "happy", "layer": 8})
    assert numbers(page, 'circle[data-series="effect"]', "x", "y") == list(
        zip(dose["strengths"], dose["effects"], strict=True)
    )
    assert numbers(page, 'circle[data-series="KL"]', "x", "y") == list(zip(dose["strengths"], dose["kl"], strict=True))
    low, high = marks(page, "path.control", "low", "high")[0]
    band = [[float(a), float(b)] for a, b in zip(low.split(","), high.split(","), strict=True)]
    assert band == dose["random"]
    assert numbers(page, "[data-budget]", "budget") == [(0.1,)]
    # the figure and the numbers that are saved are the server's
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save figure").click()
    assert Path(saved.value.path()).read_text(encoding="utf-8") == Figure("dose_response", dose).svg()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save numbers").click()
    assert json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))["arguments"] == dose

    for value in ("effect", "kl"):
        turn(page, "Layers")
        page.get_by_label("Show").select_option(value)
        found = asked(live, "heatmap", {"vector": "happy", "value": value})
        expected = [
            (str(row), str(column), found["values"][i][j])
            for i, row in enumerate(found["rows"])
            for j, column in enumerate(found["columns"])
        ]
        first = page.locator("#lab-panel rect.cell").first
        expect(first).to_have_attribute("data-value", str(expected[0][2]), timeout=PATIENCE)
        shown = [(row, column, float(one)) for row, column, one in marks(page, "rect.cell", "row", "column", "value")]
        assert shown == expected
        chosen = found.get("chosen")
        outlined = [i for i, (flag,) in enumerate(marks(page, "rect.cell", "chosen")) if flag]
        assert outlined == ([chosen[0] * len(found["columns"]) + chosen[1]] if chosen else [])


def test_charts_of_a_vector(visit: Open, live: Live, seen: Seen) -> None:
    page = visit()
    turn(page, "Tokens")
    text = PROMPT + answer(page, STEERED)
    found = asked(live, "token-projections", {"vector": "happy", "layer": 8, "text": text})
    shown = marks(page, "rect.cell", "token", "value")
    assert [(token, float(value)) for token, value in shown] == list(zip(found["tokens"], found["values"], strict=True))

    turn(page, "Words")
    found = asked(live, "lens", {"vector": "happy", "layer": 8, "k": 12})
    shown = marks(page, "rect.bar", "side", "token", "value")
    assert [(side, [token, float(value)]) for side, token, value in shown] == [
        (side, one) for side in ("boosted", "suppressed") for one in found[side]
    ]
    assert set(numbers(page, "[data-control]", "control")) == {(found["control"],)}

    turn(page, "Geometry")
    for layer in (8, 3):
        page.get_by_role("slider", name="Layer of the chart").fill(str(layer))
        found = asked(live, "geometry", {"vector": "happy", "layer": layer})
        first = page.locator('#lab-panel circle[data-group="positive"]').first
        expect(first).to_have_attribute("data-x", str(found["positive"][0][0]), timeout=PATIENCE)
        for group in ("positive", "negative"):
            points = numbers(page, f'circle[data-group="{group}"]', "x", "y")
            assert points == [tuple(point) for point in found[group]]

    turn(page, "Likeness")
    found = asked(live, "cosines", {"layer": 3})
    shown = [float(value) for (value,) in marks(page, "rect.cell", "value")]
    assert shown == [value for row in found["values"] for value in row]

    turn(page, "Probes")
    found = asked(live, "probes", {"vector": "happy"})
    assert numbers(page, 'circle[data-series="held out"]', "x", "y", "low", "high") == [
        (layer, accuracy, *interval)
        for layer, accuracy, interval in zip(found["layers"], found["accuracy"], found["intervals"], strict=True)
    ]
    shuffled = numbers(page, 'circle[data-series="shuffled labels"]', "y")
    assert [one for (one,) in shuffled] == found["shuffled"]
    assert numbers(page, "[data-best]", "best") == [(found["best"],)]


def test_the_chart_of_heads(visit: Open, live: Live) -> None:
    page = visit()
    turn(page, "Heads")
    page.get_by_label("Prompts, one a line").fill("\n".join(HEADS["prompts"]))
    page.get_by_label("Word that should follow").fill("great")
    page.get_by_label("and not").fill("awful")
    page.get_by_role("button", name="Switch them off").click()
    expect(page.locator("#lab-panel rect.cell").first).to_be_visible(timeout=PATIENCE)
    with live.http() as client:
        job = next(one for one in client.get("/v1/jobs").json()["data"] if one["kind"] == "ablation")
        assert client.get(f"/v1/jobs/{job['id']}").json()["request"].items() >= HEADS.items()
    found = asked(live, "heads", {"ablation": job["id"]})
    shown = [float(value) for (value,) in marks(page, "rect.cell", "value")]
    assert shown == [value for row in found["values"] for value in row]
    assert len(shown) == live.model.n_layers * live.model.n_heads
    settled(page)
    assert answer(page, BASELINE)
