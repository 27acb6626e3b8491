"""Files are untrusted: a damaged or hostile one is refused by type, and a failed write leaves what was there."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.language.strategies import WIDTH, eraser, tensor, vector

from steersman import Add, Erase, Mean, Plan, SteeringVector, mlp
from steersman.errors import FileFormatError, InterventionError, SteersmanError
from steersman.files import container
from steersman.files.atomic import replacing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.safetensors"


def small() -> SteeringVector:
    return SteeringVector({0: torch.tensor([1.0, 2.0])}, name="v")


def by_hand(path: Path, document: Any = None, tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> Path:
    """A safetensors file with whatever is claimed in it."""
    facts = {"format": "steersman", "kind": "steering vector", "format_version": "1"}
    own, parts = small().parts()
    text = document if isinstance(document, str) else json.dumps(parts if document is None else document)
    save_file(own if tensors is None else tensors, path, {**facts, "document": text, **metadata})
    return path


def refused(path: Path, load: Callable[[Path], object] = SteeringVector.load) -> str:
    with pytest.raises(FileFormatError) as error:
        load(path)
    return str(error.value)


# -- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [small(), Plan([Add(small(), layers=0)])], ids=["vector", "plan"])
def test_a_file_cut_at_any_byte_is_refused(what: Any, path: Path) -> None:
    whole = Path(what.save(path)).read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, type(what).load)


def test_a_file_with_bytes_too_many_is_refused(path: Path) -> None:
    path.write_bytes(Path(small().save(path)).read_bytes() + b"\0")
    refused(path)


@pytest.mark.parametrize("what", [small(), Plan([Add(small(), layers=0)])], ids=["vector", "plan"])
def test_a_file_with_any_byte_changed_is_read_or_refused(what: Any, path: Path) -> None:
    whole, rng = Path(what.save(path)).read_bytes(), random.Random(0)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([rng.randrange(256)]) + whole[at + 1 :])
        with suppress(SteersmanError):
            type(what).load(path)


@given(data=st.binary(max_size=64))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_refused(data: bytes, path: Path) -> None:
    for content in (data, struct.pack("<Q", len(data)) + data):
        path.write_bytes(content)
        refused(path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9, container.MAX_HEADER + 1])
def test_a_header_that_claims_to_be_huge_is_refused_unread(length: int, path: Path) -> None:
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    assert "is truncated, or no safetensors file (10 bytes)" in refused(path)


def test_a_header_that_is_huge_is_refused_unread(path: Path) -> None:
    with path.open("wb") as opened:
        opened.write(struct.pack("<Q", container.MAX_HEADER + 1))
        opened.truncate(container.MAX_HEADER + 100)
    assert "declares a header of 104857601 bytes; more than 104857600 is refused" in refused(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "pt"}, "is a safetensors file, but not one of Steersman's"),
        ({"kind": "plan"}, "holds a plan, not a steering vector"),
        ({"format_version": "2"}, "has format version '2'; this release reads 1; upgrade"),
        ({"format_version": ""}, "has format version ''"),
        ({"format_version": "²"}, "has format version '²'"),
        ({"format_version": "9" * 5000}, "this release reads 1"),
        ({"document": ""}, "its JSON document cannot be read"),
        ({"document": "[" * 100_000}, "its JSON document cannot be read"),
        ({"document": '{"layer": ' + "9" * 5000 + "}"}, "its JSON document cannot be read"),
        ({"document": '{"layer": NaN}'}, "NaN is no JSON number"),
        ({"document": '{"layer": -Infinity}'}, "-Infinity is no JSON number"),
        ({"document": "[]"}, "its JSON document is no object"),
        ({"document": "{}"}, "no steering vector: 'projections'"),
    ],
)
def test_a_file_that_claims_something_else_is_refused_with_the_reason(
    metadata: dict[str, str], message: str, path: Path
) -> None:
    assert message in refused(by_hand(path, **metadata))


def test_a_foreign_file_is_named_as_such(path: Path) -> None:
    save_file({"layer3.v": torch.ones(3)}, path)
    assert "is a safetensors file, but not one of Steersman's" in refused(path)
    path.write_bytes(b"PK\x03\x04" + b"\0" * 100)
    refused(path)


@pytest.mark.parametrize(
    "bad",
    [
        torch.tensor([1.0, float("nan")]),
        torch.tensor([1.0, float("inf")]),
        torch.tensor([1, 2]),
        torch.tensor([True]),
        torch.tensor([1j]),
        torch.ones(2).to(torch.float8_e4m3fn),
        torch.ones(2, 2),
        torch.empty(0),
        torch.tensor(1.0),
    ],
    ids=str,
)
def test_tensors_that_are_no_directions_are_refused(bad: torch.Tensor, path: Path) -> None:
    refused(by_hand(path, tensors={"layers.0": bad}))


@pytest.mark.parametrize("name", ["../../etc/passwd", "layers.-1", "layers./0", "layers.0\0", "layers.1e3", ""])
def test_tricks_with_names_are_refused(name: str, path: Path) -> None:
    refused(by_hand(path, tensors={name: torch.ones(2)}))


def test_halves_are_read_as_floats(path: Path) -> None:
    read = SteeringVector.load(by_hand(path, tensors={"layers.0": torch.tensor([1.0, 2.0]).bfloat16()}))
    assert read == small()


def test_no_file_is_said_to_be_no_file(tmp_path: Path) -> None:
    for load in (SteeringVector.load, Plan.load):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            load(tmp_path / "none.safetensors")
        with pytest.raises((FileNotFoundError, FileFormatError)):
            load(tmp_path)


# -- plans that do not hold together -----------------------------------------------------------------------------

ITEM = {"operation": "add", "vector": "v", "layers": [0]}
VECTOR = {"type": "vector", **small().parts()[1]}
TENSOR = {"type": "tensor"}
ONE = {"0.tensor": torch.ones(2)}


def plan_file(path: Path, tensors: dict[str, torch.Tensor], entries: Any, item: Any = ITEM) -> Path:
    return by_hand(path, {"spec": {"interventions": [item]}, "entries": entries}, tensors, kind="plan")


def test_a_plan_written_by_hand_is_read(path: Path) -> None:
    assert Plan.load(plan_file(path, ONE, [["v", TENSOR]])) == Plan([Add(torch.ones(2), layers=0)])


@pytest.mark.parametrize(
    ("tensors", "entries"),
    [
        (ONE, []),
        (ONE, [["w", TENSOR]]),
        (ONE, [["v", TENSOR], ["v", TENSOR]]),
        (ONE, [["v", TENSOR], ["w", TENSOR]]),
        ({**ONE, "1.tensor": torch.ones(2)}, [["v", TENSOR]]),
        ({**ONE, "0.other": torch.ones(2)}, [["v", TENSOR]]),
        ({"-1.tensor": torch.ones(2)}, [["v", TENSOR]]),
        ({"x.tensor": torch.ones(2)}, [["v", TENSOR]]),
        ({"tensor": torch.ones(2)}, [["v", TENSOR]]),
        ({"9" * 30 + ".tensor": torch.ones(2)}, [["v", TENSOR]]),
        ({"0.tensor": torch.ones(2, 2, 2)}, [["v", TENSOR]]),
        (ONE, [["v", VECTOR]]),
        ({"0.layers.0": torch.ones(2, 2)}, [["v", VECTOR]]),
        ({"0.layers.0": torch.ones(2)}, [["v", {**VECTOR, "layer": 5}]]),
        ({"0.layers.0": torch.ones(2)}, [["v", {**VECTOR, "extra": 5}]]),
        (ONE, [["v", {"type": "eraser", "site": "resid_post"}]]),
        ({"0.1.write": torch.ones(2, 1)}, [["v", {"type": "eraser"}]]),
        ({f"0.1.{p}": torch.ones(2, 1) for p in ("write", "read", "mean")}, [["v", {"type": "eraser"}]]),
        (ONE, [["v", {"type": "values"}]]),
        ({"0.1": torch.ones(2)}, [["v", {"type": "values", "origin": [1]}]]),
        (ONE, [["v", {"type": "function"}]]),
        (ONE, [["v", {}]]),
        (ONE, [["v", None]]),
        (ONE, [["v"]]),
        (ONE, [[["v"], TENSOR]]),
        (ONE, {"v": TENSOR}),
        (ONE, 7),
        (ONE, None),
    ],
)
def test_a_plan_whose_entries_do_not_fit_is_refused(tensors: dict[str, torch.Tensor], entries: Any, path: Path) -> None:
    with pytest.raises(SteersmanError):
        Plan.load(plan_file(path, tensors, entries))


@pytest.mark.parametrize("document", [{}, {"entries": []}, {"spec": 5, "entries": []}, {"spec": None, "entries": []}])
def test_a_plan_without_its_parts_is_refused(document: dict[str, Any], path: Path) -> None:
    with pytest.raises(SteersmanError):
        Plan.load(by_hand(path, document, {}, kind="plan"))


def test_an_unknown_key_in_a_file_is_refused_as_anywhere(path: Path) -> None:
    with pytest.raises(SteersmanError, match="unknown key 'strenth'; did you mean 'strength'"):
        Plan.load(plan_file(path, ONE, [["v", TENSOR]], {**ITEM, "strenth": 2}))


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_plan_with_any_part_of_its_document_replaced_is_read_or_refused(data: st.DataObject, path: Path) -> None:
    plan = Plan([Add(vector(), layers=1), Erase(eraser()), Mean(mlp(1), {1: tensor(WIDTH)})])
    tensors, document = container.read(plan.save(path), "plan")
    at: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(st.sampled_from([None, True, -1, 1e308, "", "x", [], {}, [[]], {"a": 1}, 10**400]))
    by_hand(path, document, tensors, kind="plan")
    with suppress(SteersmanError):
        Plan.load(path)


# -- writing -----------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file_and_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small().save(path)
    before = path.read_bytes()

    def fail(_: object, temporary: Path, *__: object) -> None:
        temporary.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(container, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        (small() * 2).save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_write_is_seen_whole_or_not_at_all(path: Path) -> None:
    small().save(path)
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert SteeringVector.load(path) == small()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_the_permissions_of_a_file_follow_the_umask(mask: int, path: Path) -> None:
    old = os.umask(mask)
    try:
        small().save(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_missing_folder_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist; create it first"):
        small().save(tmp_path / "nowhere" / "v.safetensors")


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 115 + ".safetensors")
    assert SteeringVector.load(small().save(target)) == small()


def test_a_folder_in_the_way_is_left_alone(path: Path) -> None:
    path.mkdir()
    with pytest.raises(OSError):
        small().save(path)
    assert list(path.parent.iterdir()) == [path]


def test_facts_are_copied_as_a_file_would_give_them_back() -> None:
    facts = {"a": (1, 2), 3: None}
    stored = container.as_stored(facts, "facts")
    assert stored == {"a": [1, 2], "3": None}
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for bad in ({"x": float("nan")}, {"x": {1}}, {(1, 2): 3}, deep):
        with pytest.raises(InterventionError, match="facts must be JSON values"):
            container.as_stored(bad, "facts")
