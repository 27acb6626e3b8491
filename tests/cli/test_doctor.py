from __future__ import annotations

import pytest

from steersman import demo
from steersman.cli import checks


@pytest.fixture(autouse=True)
def _embedded(monkeypatch) -> None:
    """As if the embedded model were there, whether it is or not."""
    monkeypatch.setattr(checks, "embedded", lambda: checks.Check("installation", "embedded model", "ok", "there"))


def test_an_installation_that_is_sound(steer) -> None:
    found = steer("doctor")
    assert found.code == 0
    for text in ("installation", "python", "torch build", "Nothing is broken."):
        assert text in found.out


def test_a_model_that_can_be_steered(steer, model) -> None:
    document = steer("doctor", model, "--json").json
    found = {(check["section"], check["name"]): check for check in document["checks"]}
    assert document["schema"] == "steersman.doctor/1"
    assert document["ok"]
    assert found["model", "family"]["found"] == "gpt2"
    assert found["sites", "resid_mid"]["found"] == "every layer"
    assert found["tokenizer", "beginning"]["found"] == "adds '<s>'"
    assert "bit for bit" in found["steering", "strength 0"]["found"]
    assert found["steering", "cache"]["status"] in ("ok", "note")


def test_sites_that_a_model_lacks_are_named_with_the_reason(steer, tmp_path) -> None:
    from tests.models import tiny, tiny_tokenizer

    tiny("falcon").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    found = steer("doctor", tmp_path)
    assert found.code == 0, found.out
    assert "resid_mid" in found.out
    assert "no layer: " in found.out


def test_something_broken_is_exit_1_with_the_fix(steer, monkeypatch) -> None:
    monkeypatch.setattr(checks, "_NEEDED", {"torch": "99.0", "no-such-package": "1.0"})
    found = steer("doctor")
    assert found.code == 1
    assert "fix: pip install -U 'torch>=99.0'" in found.out
    assert "fix: pip install 'no-such-package>=1.0'" in found.out
    assert "2 broken" in found.out


def test_a_model_that_cannot_be_loaded_is_broken(steer, tmp_path) -> None:
    found = steer("doctor", tmp_path / "none")
    assert found.code == 1
    assert "there is no model folder" in " ".join(found.out.split())


def test_a_missing_embedded_model_is_said(steer, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(demo, "MODEL_FOLDER", tmp_path)
    found = steer("generate", "demo", "the")
    assert found.code == 1
    assert "the embedded model is missing" in found.err
