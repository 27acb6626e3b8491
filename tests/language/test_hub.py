"""What is pushed to the hub comes back the same, with a card that a reader can use."""

from __future__ import annotations

import ast
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.language.fake_hub import OID, Hub, pointed_at, serving
from tests.language.strategies import shape, vector

from steersman import Ablate, Add, Plan, SteeringVector
from steersman.errors import FileFormatError
from steersman.files import hub as sharing
from steersman.vector import Origin

QWEN = Origin.of(shape(name="Qwen/Qwen3-1.7B"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Hub]:
    with serving() as running:
        pointed_at(running, monkeypatch, tmp_path)
        yield running


def test_a_vector_comes_back_as_it_was_pushed(hub: Hub, tmp_path: Path) -> None:
    url = vector().push_to_hub("me/happy", token="secret")
    assert url == f"{hub.endpoint}/me/happy/commit/{OID}"
    assert set(hub.files["me/happy", "main"]) == {"vector.safetensors", "README.md"}
    assert SteeringVector.from_pretrained("me/happy", cache_dir=str(tmp_path / "c")) == vector()


def test_a_plan_comes_back_as_it_was_pushed(hub: Hub) -> None:
    plan = Plan([Add(vector(), 1.5, layers=[1, 2]), Ablate(vector()[1])])
    plan.push_to_hub("me/kind", token="secret")
    assert set(hub.files["me/kind", "main"]) == {"plan.safetensors", "README.md"}
    assert Plan.from_pretrained("me/kind") == plan


def test_options_reach_the_hub(hub: Hub) -> None:
    vector().push_to_hub("me/happy", private=True, token="secret", commit_message="Share joy", revision="v2/new")
    assert hub.visibility == {"me/happy": "private"}
    assert {token for _, path, token, _ in hub.seen if "validate" not in path} == {"secret"}
    assert list(hub.files) == [("me/happy", "v2/new")]
    (header,) = [body for _, path, _, body in hub.seen if "/commit/" in path]
    assert header["value"]["summary"] == "Share joy"
    hub.seen.clear()
    assert SteeringVector.from_pretrained("me/happy", revision="v2/new", token="other") == vector()
    assert {token for _, _, token, _ in hub.seen} == {"other"}
    assert all("v2%2Fnew" in path for _, path, _, _ in hub.seen)


def test_a_repository_that_exists_is_pushed_to_again(hub: Hub) -> None:
    vector().push_to_hub("me/happy", token="secret")
    (vector() * 2).push_to_hub("me/happy", token="secret")
    assert SteeringVector.from_pretrained("me/happy") == vector() * 2
    (header,) = {body["value"]["summary"] for _, path, _, body in hub.seen if "/commit/" in path}
    assert header == "Upload vector.safetensors with steersman"


def test_a_repository_without_a_vector_says_so(hub: Hub) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    hub.files["me/empty", "main"] = {"README.md": b"nothing"}
    with pytest.raises(EntryNotFoundError):
        SteeringVector.from_pretrained("me/empty")


def test_what_comes_from_the_hub_is_untrusted_too(hub: Hub) -> None:
    hub.files["me/bad", "main"] = {"vector.safetensors": b"\x80\x04pickle", "plan.safetensors": b""}
    for load in (SteeringVector.from_pretrained, Plan.from_pretrained):
        with pytest.raises(FileFormatError):
            load("me/bad")


def test_a_folder_and_a_file_need_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    plan = Plan([Add(vector())])
    vector().save(tmp_path / "vector.safetensors")
    plan.save(tmp_path / "plan.safetensors")
    for where in (tmp_path, tmp_path / "vector.safetensors"):
        assert SteeringVector.from_pretrained(str(where)) == vector()
    assert Plan.from_pretrained(str(tmp_path)) == plan
    (tmp_path / "plan.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"the folder .* holds no plan\.safetensors"):
        Plan.from_pretrained(str(tmp_path))


# -- the card ----------------------------------------------------------------------------------------------------


def card(hub: Hub, repo: str) -> str:
    return hub.files[repo, "main"]["README.md"].decode()


def code(text: str) -> str:
    return text.partition("```python\n")[2].partition("```")[0]


def test_the_card_of_a_vector_says_what_it_is_and_how_to_use_it(hub: Hub) -> None:
    vector(origin=QWEN, layer=0).push_to_hub("me/happy", token="secret")
    text = card(hub, "me/happy")
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert head.splitlines() == [
        "library_name: steersman",
        "tags: [steersman, activation-steering, steering-vector]",
        "base_model: Qwen/Qwen3-1.7B",
    ]
    assert "# happy" in body
    for row in ("model | Qwen/Qwen3-1.7B", "layers | 0-3", "chosen layer | 0", "width | 6", "method | mean_difference"):
        assert f"| {row} |" in body
    assert 'SteeringVector.from_pretrained("me/happy")' in code(text)
    assert "layers=0)" in code(text)
    ast.parse(code(text))


def test_the_card_of_a_plan_lists_its_interventions(hub: Hub) -> None:
    v = vector(origin=QWEN)
    Plan([Add(v, 1.5, layers=[1, 2]), Ablate(v[1])]).push_to_hub("me/kind", token="secret")
    text = card(hub, "me/kind")
    assert "base_model: Qwen/Qwen3-1.7B" in text
    assert "| Add(happy) | `{" in text
    assert '"vector": "happy"' in text
    assert "| Ablate | `{" in text
    ast.parse(code(text))


@pytest.mark.parametrize("model", ["a/b\nlicense: evil", "/home/me/model", "gpt2", "a/b/c", "a b/c", "ä/b"])
def test_only_a_hub_id_is_a_base_model(model: str, hub: Hub) -> None:
    vector(origin=replace(QWEN, model=model)).push_to_hub("me/happy", token="secret")
    head = card(hub, "me/happy").split("---")[1]
    assert "base_model" not in head
    assert "license" not in head


def test_odd_names_stay_within_their_cell(hub: Hub) -> None:
    vector(name="a | b\n# c", method="x\n\n```").push_to_hub("me/happy", token="secret")
    text = card(hub, "me/happy")
    assert "# a \\| b # c\n" in text
    assert "| method | x ``` |" in text
    assert code(text)


@pytest.mark.parametrize("facts", [{"origin": None, "layer": None, "method": None, "name": None}, {"layer": 2}])
def test_a_card_leaves_out_what_is_not_known(facts: dict[str, Any], hub: Hub) -> None:
    vector(**facts).push_to_hub("me/happy", token="secret")
    text = card(hub, "me/happy")
    assert "None" not in text
    assert f"layers={facts['layer'] or 2})" in code(text)
    assert "# happy" in text


def test_a_card_is_text(hub: Hub) -> None:
    assert sharing.card("t", None, [("a", None), ("b", 1)], "\nprint()\n").endswith(
        "| b | 1 |\n\n```python\nprint()\n```\n"
    )
