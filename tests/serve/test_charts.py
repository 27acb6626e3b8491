"""The JSON of a chart holds the numbers that the SVG shows, and both are the library's."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tests.serve.conftest import Live
from tests.serve.test_jobs import SWEEP

import steersman as sm
from steersman import demo as packaged
from steersman.charts import Figure

TEXT = "The movie was great and the food was awful"


def _chart(live: Live, name: str, **body: Any) -> dict[str, Any]:
    """The chart as JSON, drawn from it, and as the server draws it."""
    with live.http() as client:
        answer = client.post(f"/v1/charts/{name}", json=body)
        assert answer.status_code == 200, answer.text
        drawn = client.post(f"/v1/charts/{name}", json=body | {"format": "svg"})
    assert drawn.headers["content-type"] == "image/svg+xml"
    found = answer.json()
    assert Figure(found["chart"], found["arguments"]).svg() == drawn.text
    return found


def _values(svg: str, name: str) -> list[str]:
    return re.findall(rf'data-{name}="([^"]*)"', svg)


def test_token_projections(live: Live) -> None:
    found = _chart(live, "token-projections", vector="happy", text=TEXT, layer=8)
    own = sm.projections(live.model, TEXT, live.vector("happy"), 8)
    assert found == json.loads(json.dumps(own.figure().document()))
    svg = own.svg()
    assert [float(value) for value in _values(svg, "value")] == pytest.approx(found["arguments"]["values"])
    with live.http() as client:
        plain = client.post("/v1/projections", json={"vector": "happy", "text": TEXT, "layer": 8}).json()
        steered = client.post(
            "/v1/projections", json={"vector": "happy", "text": TEXT, "layer": 8, "steering": ["happy:1@8"]}
        ).json()
    assert plain["values"] == found["arguments"]["values"]
    gap = live.vector("happy").gap[8]
    assert steered["values"][-1] - plain["values"][-1] == pytest.approx(gap, rel=1e-4)  # the last prompt token
    assert steered["values"][:-1] == pytest.approx(plain["values"][:-1], abs=1e-4)


def test_a_continuation_counts_as_generated(live: Live) -> None:
    body = {"vector": "happy", "text": TEXT, "continuation": " and it was good", "layer": 8}
    with live.http() as client:
        plain = client.post("/v1/projections", json=body).json()
        steered = client.post("/v1/projections", json=body | {"steering": ["happy:1@8"]}).json()
    prompt = len(live.model.tokens.encode(TEXT))
    moved = [after - before for before, after in zip(plain["values"], steered["values"], strict=True)]
    gap = live.vector("happy").gap[8]
    assert moved[: prompt - 1] == pytest.approx([0.0] * (prompt - 1), abs=1e-4)
    assert moved[prompt - 1 :] == pytest.approx([gap] * (len(moved) - prompt + 1), rel=1e-3)
    whole = sm.projections(live.model, TEXT + " and it was good", live.vector("happy"), 8)
    assert (plain["tokens"], plain["values"]) == (whole.tokens, pytest.approx(whole.values, abs=1e-4))


def test_lens(live: Live) -> None:
    found = _chart(live, "lens", vector="happy", layer=8, k=5)
    assert found == json.loads(json.dumps(sm.lens(live.model, live.vector("happy"), 8, 5).figure().document()))
    measured = _chart(live, "lens", vector="happy", layer=8, k=3, prompt="I think the movie was")
    assert measured["arguments"]["boosted"] != found["arguments"]["boosted"][:3]


def test_cosines(live: Live) -> None:
    found = _chart(live, "cosines", vectors=["happy", "formal"], layer=8)["arguments"]
    own = sm.cosine_matrix([live.vector("happy"), live.vector("formal")], layer=8)
    assert found["names"] == ["happy", "formal"]
    assert found["values"] == own.to_numpy().tolist()
    assert found["random_sd"] == own.random_sd


def test_geometry(live: Live) -> None:
    found = _chart(live, "geometry", vector="formal", layer=8)["arguments"]
    own = packaged.pairs("formal")
    assert (len(found["positive"]), len(found["negative"])) == (len(own.positive), len(own.negative))
    assert sum(found["explained"]) <= 1


def test_a_sweeps_charts(live: Live) -> None:
    with live.http() as client:
        job = live.wait(client.post("/v1/sweeps", json=SWEEP).json()["id"])
    dose = _chart(live, "dose-response", sweep=job["id"], layer=8, max_kl=1.0)["arguments"]
    assert dose["strengths"] == [-1.0, 0.0, 1.0]
    assert dose["effects"][1] == 0.0
    assert len(dose["random"]) == len(dose["kl"]) == 3
    by_name = _chart(live, "dose-response", vector="happy", layer=8, max_kl=1.0)["arguments"]
    assert by_name == dose
    effects = _chart(live, "heatmap", sweep=job["id"], max_kl=1.0)["arguments"]
    assert effects["rows"] == [7, 8]
    assert effects["values"][1] == dose["effects"]
    assert effects["chosen"] is not None
    costs = _chart(live, "heatmap", vector="happy", value="kl", max_kl=1e-9)["arguments"]
    assert costs["values"][1] == dose["kl"]
    assert costs["chosen"] is None
    with live.http() as client:
        page = client.get(f"/v1/jobs/{job['id']}/report")
        assert page.status_code == 200
        assert "<svg" in page.text
        assert "happy" in page.text


def test_the_ablation_of_heads(live: Live) -> None:
    prompts = ["The capital of France is", "The capital of Germany is"]
    with live.http() as client:
        body = {"prompts": prompts, "target": " Paris", "foil": " London", "mode": "zero"}
        job = live.wait(client.post("/v1/ablations", json=body).json()["id"])
    found = _chart(live, "heads", ablation=job["id"])
    own = sm.ablation_study(
        live.model, prompts, sites=sm.heads("all"), mode="zero", metric=sm.logit_difference(" Paris", " London")
    )
    assert found == json.loads(json.dumps(own.figure().document()))
    assert len(found["arguments"]["values"]) == live.model.n_layers


@pytest.mark.parametrize(("chart", "body", "status", "code"), [
    ("dose-response", {}, 400, "invalid_value"),
    ("dose-response", {"vector": "unswept"}, 409, "not_measured"),
    ("dose-response", {"sweep": "job-1"}, 404, "job_not_found"),
    ("heads", {"ablation": "job-1"}, 404, "job_not_found"),
    ("lens", {"vector": "hapy"}, 404, "vector_not_found"),
    ("lens", {"vector": "happy", "layer": 99}, 400, "steering_mismatch"),
    ("token-projections", {"vector": "happy"}, 400, "invalid_value"),
    ("token-projections", {"vector": "happy", "text": "a " * 400}, 400, "invalid_prompt"),
    ("cosines", {"vector": ["happy"]}, 400, "unknown_key"),
    ("nothing", {}, 404, "not_found"),
])  # fmt: skip
@pytest.mark.usefixtures("unswept")
def test_charts_that_cannot_be_drawn(live: Live, chart: str, body: dict[str, Any], status: int, code: str) -> None:
    with live.http() as client:
        answer = client.post(f"/v1/charts/{chart}", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_probes_of_a_few_examples(live: Live) -> None:
    """Of an extraction with a layer's examples only; kept once they are fitted."""
    positive = [f"I love the {noun}" for noun in ("movie", "food", "day", "book", "city", "song", "game", "house")]
    negative = [text.replace("love", "hate") for text in positive]
    body = {"name": "loved", "positive": positive, "negative": negative, "layers": [3, 8], "read": "mean"}
    with live.http() as client:
        job = live.wait(client.post("/v1/extractions", json=body).json()["id"])
        assert job["status"] == "succeeded", job["error"]
        found = _chart(live, "probes", vector="loved")["arguments"]
        assert found["layers"] == [3, 8]
        assert all(0 <= value <= 1 for value in found["accuracy"])
        assert found["majority"] == 0.5
        assert len(_chart(live, "geometry", vector="loved", layer=3)["arguments"]["positive"]) == 8
        client.delete("/v1/vectors/loved")
