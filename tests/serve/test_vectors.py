"""Vectors and presets: stored under names, checked before they are, and gone when deleted."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from tests.serve.conftest import Live, demo, serving

import steersman as sm


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("own")) as found:
        yield found


def _vector(name: str = "mine", width: int = 128, seed: int = 0) -> sm.SteeringVector:
    draw = torch.Generator().manual_seed(seed)
    return sm.SteeringVector({layer: torch.randn(width, generator=draw) for layer in (4, 8)}, name=name, layer=8)


def _file(tmp_path: Path, vector: sm.SteeringVector) -> bytes:
    return Path(vector.save(tmp_path / "v.safetensors")).read_bytes()


def test_a_vector_goes_up_steers_comes_back_and_goes(own: Live, tmp_path: Path) -> None:
    vector = _vector()
    with own.http() as client:
        put = client.put("/v1/vectors/mine", content=_file(tmp_path, vector))
        assert put.status_code == 200, put.text
        assert put.json()["layers"] == [4, 8]
        assert [one["name"] for one in client.get("/v1/vectors").json()["data"]] == ["mine"]
        body = {"prompt": "I think", "max_tokens": 6, "steering": {"mine": 1.5}}
        text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
        assert text == own.model.generate("I think", steer=sm.Add(vector, 1.5), max_new_tokens=6)
        back = tmp_path / "back.safetensors"
        back.write_bytes(client.get("/v1/vectors/mine/file").content)
        assert sm.SteeringVector.load(back) == vector
        assert client.get("/v1/vectors/mine/file?format=gguf").content[:4] == b"GGUF"
        assert client.delete("/v1/vectors/mine").json()["deleted"] is True
        assert client.get("/v1/vectors/mine").status_code == 404
        assert client.post("/v1/completions", json=body).json()["error"]["code"] == "vector_not_found"


def test_a_name_stands_for_what_was_put_last(own: Live, tmp_path: Path) -> None:
    with own.http() as client:
        texts: list[str] = []
        for seed in (1, 2):
            vector = _vector(seed=seed) * 4
            client.put("/v1/vectors/twice", content=_file(tmp_path, vector)).raise_for_status()
            body = {"prompt": "I think", "max_tokens": 6, "steering": {"twice": 1}}
            texts.append(client.post("/v1/completions", json=body).json()["choices"][0]["text"])
            assert texts[-1] == own.model.generate("I think", steer=sm.Add(vector), max_new_tokens=6)
        assert texts[0] != texts[1]


def _hostile(tmp_path: Path) -> dict[str, bytes]:
    good = _file(tmp_path, _vector())
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])

    def with_header(changed: object) -> bytes:
        text = json.dumps(changed).encode()
        return struct.pack("<Q", len(text)) + text + good[8 + length :]

    nan = torch.full((128,), float("nan"))
    layer = next(key for key in header if key != "__metadata__")
    huge = header | {layer: header[layer] | {"shape": [2**40], "data_offsets": [0, 2**42]}}
    overlap = header | {layer: header[layer] | {"data_offsets": [0, 4]}}
    document = json.loads(header["__metadata__"]["document"])
    meta = header["__metadata__"]
    return {
        "empty": b"", "truncated": good[:-10], "half a header": good[:40], "text": b"hello world, this is no file",
        "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n(S'true'\ntR.",
        "nan": save({"layers.4": nan}, meta | {"document": json.dumps(document | {"layer": 4})}),
        "huge shape": with_header(huge), "overlapping": with_header(overlap),
        "huge header": struct.pack("<Q", 2**62) + good[8:],
        "deep document": with_header(header | {"__metadata__": meta | {"document": "[" * 100_000}}),
        "another kind": with_header(header | {"__metadata__": meta | {"kind": "plan"}}),
        "newer": with_header(header | {"__metadata__": meta | {"format_version": "99"}}),
        "foreign": save({"layers.4": torch.ones(128)}),
        "path in its layers": with_header({f"../{k}" if k != "__metadata__" else k: v for k, v in header.items()}),
        "other width": _file(tmp_path, _vector(width=64)),
        "layer beyond": _file(tmp_path, sm.SteeringVector({40: torch.ones(128)})),
    }  # fmt: skip


def test_hostile_uploads_are_refused_and_leave_nothing(own: Live, tmp_path: Path) -> None:
    with own.http() as client:
        before = client.get("/v1/vectors").json()
        for what, content in _hostile(tmp_path).items():
            answer = client.put("/v1/vectors/hostile", content=content)
            assert answer.status_code == 400, what
            assert answer.json()["error"]["code"] in ("invalid_file", "steering_mismatch", "invalid_steering"), what
            assert str(own.settings.folder) not in answer.text, what
        assert client.get("/v1/vectors").json() == before
        assert client.get("/v1/vectors/hostile").status_code == 404


@pytest.mark.parametrize(
    "name", ["..%2f..%2fevil", "%2fetc%2fpasswd", ".hidden", "a%20b", "%00", "x" * 200, "a%2fb", "%c3%a4"]
)
def test_names_that_are_no_names(own: Live, tmp_path: Path, name: str) -> None:
    with own.http() as client:
        for answer in (
            client.put(f"/v1/vectors/{name}", content=_file(tmp_path, _vector())), client.get(f"/v1/vectors/{name}"),
            client.delete(f"/v1/vectors/{name}"), client.put(f"/v1/presets/{name}", json={"steering": {"a": 1}}),
            client.get(f"/v1/jobs/{name}"),
        ):  # fmt: skip
            assert answer.status_code in (400, 404, 405), answer.text
    assert not list(own.settings.folder.parent.glob("evil*"))


def test_uploads_that_are_too_large(tmp_path: Path) -> None:
    with serving(tmp_path / "small", limits={"upload": 4096}) as live, live.http() as client:
        answer = client.put("/v1/vectors/big", content=b"a" * 5000)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_a_damaged_file_is_listed_with_what_is_wrong(own: Live) -> None:
    path = own.settings.folder / "damaged.safetensors"
    path.write_bytes(b"nonsense")
    with own.http() as client:
        found = {one["name"]: one for one in client.get("/v1/vectors").json()["data"]}
        assert "error" in found["damaged"]
        assert client.get("/v1/models").status_code == 200
    path.unlink()


def test_presets_are_stored_and_served_as_models(own: Live, tmp_path: Path) -> None:
    steering = {"interventions": [{"vector": "mine", "strength": 2.0, "layers": [4]}]}
    with own.http() as client:
        client.put("/v1/vectors/mine", content=_file(tmp_path, _vector())).raise_for_status()
        assert client.put("/v1/presets/calm", json={"steering": ["mine:2@4"]}).json()["steering"] == steering
        assert client.get("/v1/presets").json()["data"] == [{"name": "calm", "object": "preset", "steering": steering}]
        body = {"model": "demo:calm", "prompt": "I think", "max_tokens": 6}
        text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
        assert text == own.model.generate("I think", steer=sm.Add(_vector(), 2.0, layers=4), max_new_tokens=6)
        assert client.put("/v1/presets/none", json={"steering": None}).status_code == 400
        assert client.put("/v1/presets/bad", json={"steering": {"nobody": 1}}).status_code == 404
        assert client.delete("/v1/presets/calm").json()["deleted"] is True
        assert client.post("/v1/completions", json=body).json()["error"]["code"] == "model_not_found"
        assert client.delete("/v1/presets/calm").status_code == 404


def test_the_registry_is_read_by_another_server_of_the_folder(own: Live, tmp_path: Path) -> None:
    with own.http() as client:
        client.put("/v1/vectors/shared", content=_file(tmp_path, _vector())).raise_for_status()
    with serving(own.settings.folder, demo()) as other, other.http() as client:
        assert "shared" in [one["name"] for one in client.get("/v1/vectors").json()["data"]]
