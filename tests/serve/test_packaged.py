"""The embedded model is served with vectors and with what was measured of them, which is what this server measures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serve.conftest import demo, serving
from tools.measured import measured

import steersman as sm
from steersman import demo as packaged
from steersman.serve import Settings
from steersman.serve.packaged import PRESETS, prepare, request

#: The strengths that are measured anew, and what depends on all that were swept.
PART = [-1.0, 0.0, 1.0]
OF_ALL = {"p_value", "slope", "anti_steerable"}


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_first_screen_has_a_band_and_begins_within_it(tmp_path: Path, name: str) -> None:
    strength, layer = PRESETS[name]
    prepare(demo(), Settings(tmp_path, name="demo"))
    with serving(tmp_path) as live, live.http() as client:
        found = client.get(f"/v1/vectors/{name}/analysis").json()
    band = next(one for one in found["bands"] if one["layer"] == layer)
    assert band["low"] < 0 < strength <= band["high"]
    assert band["prompts"] == len(request(name).prompts)
    assert f"{strength:g}" in band["repetition"]
    assert len(found["bands"]) > 5
    assert found["has_pairs"]


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_vector_is_the_one_extracted_from_the_pairs(name: str) -> None:
    found = sm.SteeringVector.load(packaged.MEASURED_FOLDER / f"{name}.safetensors")
    own = packaged.vector(name, demo())
    assert (found.layers, found.layer, found.method, found.site) == (own.layers, own.layer, own.method, own.site)
    for layer in own:
        np.testing.assert_allclose(found[layer], own[layer], atol=1e-4 * own.norms[layer])


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_sweep_is_what_a_job_of_this_server_finds(name: str) -> None:
    kept = json.loads((packaged.MEASURED_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    asked, layer = request(name), PRESETS[name][1]
    assert kept["job"]["request"] == asked.model_dump(mode="json") | {"digest": kept["job"]["result"]["digest"]}
    content = (packaged.MEASURED_FOLDER / f"{name}.safetensors").read_bytes()
    own = measured(demo(), content, asked.model_copy(update={"layers": [layer], "strengths": PART}))
    assert own["job"]["result"]["digest"] == kept["job"]["result"]["digest"]
    there = [row for row in kept["sweep"]["rows"] if row["layer"] == layer and row["strength"] in PART]
    assert len(there) == len(own["sweep"]["rows"]) == len(PART)
    for expected, row in zip(there, own["sweep"]["rows"], strict=True):
        for key in set(row) - OF_ALL:
            if expected[key] is None:
                assert row[key] is None
            else:
                assert row[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-4), (row["strength"], key)
    kept_texts, texts = (document["job"]["result"]["repetition"][str(layer)] for document in (kept, own))
    for strength, share in texts.items():
        assert share == pytest.approx(kept_texts[strength], abs=0.1)  # of greedy texts, in which near ties may turn


def test_what_is_there_is_left_and_nothing_is_claimed_of_it(stocked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(stocked, folder)
    shutil.rmtree(folder / "jobs")
    own = packaged.vector("happy", demo()) * 2.0
    own.save(folder / "happy.safetensors")
    before = (folder / "happy.safetensors").read_bytes()
    prepare(demo(), Settings(folder, name="demo"))
    prepare(demo(), Settings(folder, name="demo"))
    assert (folder / "happy.safetensors").read_bytes() == before
    with serving(folder) as live, live.http() as client:
        found: dict[str, Any] = {name: client.get(f"/v1/vectors/{name}/analysis").json() for name in PRESETS}
        assert [one["kind"] for one in client.get("/v1/jobs").json()["data"]] == ["sweep"]
    assert found["happy"]["bands"] == []
    assert found["formal"]["bands"] != []
