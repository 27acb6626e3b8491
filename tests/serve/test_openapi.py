"""Requests made up from the server's own OpenAPI document: none breaks it. ``make test-serve`` makes up thousands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from tests.serve.conftest import Live, serving

from steersman.serve.packaged import prepare

CASES = int(os.environ.get("STEERSMAN_FUZZ_CASES", "60"))
#: Answers that a stream of events would keep open, or that would start long work for real.
SMALL = {"new_tokens": 4, "jobs": 2}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("fuzzed")
    with serving(folder, limits=SMALL) as live:
        prepare(live.model, live.settings)
        yield live


def test_the_document_is_whole(live: Live) -> None:
    with live.http() as client:
        document = client.get("/openapi.json").json()
    text = str(document)
    assert "HTTPValidationError" not in text
    refs = set(__import__("re").findall(r"#/components/schemas/([A-Za-z]+)", text))
    assert refs <= set(document["components"]["schemas"])
    assert {"/v1/chat/completions", "/v1/sweeps", "/v1/jobs/{name}/events", "/v1/charts/lens"} <= set(document["paths"])


def test_no_request_breaks_the_server(fuzzed: Live) -> None:
    with fuzzed.http() as client:
        document = client.get("/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
        assert len(operations) > 25
        each = max(round(1.3 * CASES / len(operations)), 1)  # those without parameters have one case only
        counts: dict[int, int] = {}
        for operation in operations:
            cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode))

            @settings(
                max_examples=each, deadline=None, database=None, verbosity=Verbosity.quiet, derandomize=True,
                phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=cases)
            def send(case: schemathesis.Case) -> None:
                answer = case.call(base_url=fuzzed.url)
                counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
                assert answer.status_code < 500, (case.method, case.formatted_path, case.body, answer.text)
                if answer.status_code >= 400 and answer.content:
                    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

            send()
        assert client.get("/ready").status_code == 200
        assert sum(counts.values()) >= 0.9 * CASES
        assert 400 in counts


def test_files_are_only_in_the_servers_folder(fuzzed: Live) -> None:
    allowed = {"jobs", "pairs", "presets", ".kept", "checkpoints"}
    found = {path.name for path in Path(fuzzed.settings.folder).iterdir()}
    assert all(name in allowed or name.endswith(".safetensors") for name in found)
