"""What the front end of the vLLM engine reads, remembers and refuses, and the vectors that requests name."""

import json
import random

import pytest
import torch
from tests.vllm_units.test_vllm_units import WIDTH, drawn, shape, two_class

import steersman as sm
from steersman.engines.vllm.requests import Compiler, FrontEnd, Resolved, spec_in
from steersman.engines.vllm.settings import Settings
from steersman.engines.vllm.tables import Capacity
from steersman.errors import FileFormatError, MismatchError, NotAppliedError, SpecError, UnsupportedError
from steersman.registry import Registry


def front(folder, **given):
    chosen = Settings.parse({"vectors": folder, **given})
    capacity = chosen.capacity(3, WIDTH, 4, 64)
    rows = chosen.rows_each(3, WIDTH, 4)
    return FrontEnd(Registry(folder), shape(), capacity, rows, chosen.programs)


def spec(**given):
    return {"interventions": [{"vector": "happy", "layers": [1], **given}]}


def test_the_front_end_refuses_what_does_not_fit(tmp_path):
    two_class().save(tmp_path / "happy.safetensors")
    many = front(tmp_path, rank=1, programs=2)
    assert many.resolve({"steersman": spec()}, 5, 8, None, None) is not None
    assert many.resolve({"steersman": None}, 5, 8, None, None) is None
    assert many.resolve({"steersman": spec(strength=0.0)}, 5, 8, None, None) is None
    flat = {"steersman_vector": "happy", "steersman_layers": [1]}
    same = many.resolve({"steersman": spec()}, 5, 8, None, None)
    assert many.resolve(flat, 5, 8, None, None).keys == same.keys
    refused = [
        ({"steersman": spec(vector="hapy")}, SpecError, "did you mean 'happy'"),
        ({"steersman": spec(strenght=1)}, SpecError, "unknown key 'strenght'"),
        ({"steersman": spec(layers=[9])}, MismatchError, "names layer 9"),
        ({"steersman": spec(positions="prompt[50]")}, NotAppliedError, "select no token"),
        ({"steersman": spec(positions='after("x")')}, Exception, "looks for text"),
        ({"steersman": spec(strength=[1, 2, 3])}, UnsupportedError, "STEERSMAN_PROGRAMS=3"),
        ({"steersman": {"interventions": spec()["interventions"] * 2}}, UnsupportedError, "STEERSMAN_RANK=2"),
        ({"steersman": "{no json"}, SpecError, "JSON"),
        ({"steersman": 3}, SpecError, "must be a spec"),
        ({"steersman": spec(), **flat}, SpecError, "not both"),
        ({**flat, "steersman_foo": 1}, SpecError, "unknown key"),
        ({"steersman": {"resolved": "x", "spec": {}, "segments": [], "programs": []}}, SpecError, "unknown key"),
    ]
    for extra, error, message in refused:
        with pytest.raises(error, match=message):
            many.resolve(extra, 5, 8, None, None)
    with pytest.raises(SpecError, match="without passing through its front end"):
        Resolved.from_extra({"steersman": spec()})
    assert spec_in({"other": 1}) is None


def test_a_text_is_read_once_but_a_name_in_it_every_time(tmp_path):
    two_class(0).save(tmp_path / "happy.safetensors")
    compiler = Compiler(Registry(tmp_path), shape())
    named = json.dumps(spec())
    first = compiler.read(named)
    assert compiler.read(named) is first
    two_class(5).save(tmp_path / "happy.safetensors")
    second = compiler.read(named)
    assert second.key != first.key
    lasting = json.dumps(second.spec)
    (tmp_path / "happy.safetensors").unlink()
    with pytest.raises(SpecError, match="no vector named 'happy'"):
        compiler.read(named)
    assert compiler.read(lasting) is second
    assert compiler.read(json.loads(lasting)) is second
    assert compiler.read(json.dumps(first.spec)) is first
    mixed = json.dumps({"interventions": [*spec()["interventions"], *second.spec["interventions"]]})
    with pytest.raises(SpecError, match="no vector named 'happy'"):
        compiler.read(mixed)
    two_class(0).save(tmp_path / "happy.safetensors")
    before = compiler.read(mixed)
    two_class(5).save(tmp_path / "happy.safetensors")
    assert compiler.read(mixed).key != before.key
    for _ in range(2):  # what is refused is refused again
        with pytest.raises(SpecError, match="unknown key"):
            compiler.read(json.dumps(spec(strenght=1)))


def test_what_a_spec_comes_to_is_told_and_refused_as_a_request_would_be(tmp_path):
    two_class().save(tmp_path / "happy.safetensors")
    engine = front(tmp_path, rank=1)
    told = engine.told(spec())
    digest = Registry(tmp_path).digest("happy")
    assert [item["vector"] for item in told["spec"]["interventions"]] == [digest]
    assert told["digest"] == sm.Plan.from_spec(spec(), Registry(tmp_path)).digest
    (item,) = told["interventions"]
    assert (item["layers"], item["sites"], item["conditional"]) == ([1], ["resid_post"], False)
    with pytest.raises(UnsupportedError, match="STEERSMAN_RANK=2"):
        engine.told({"interventions": spec()["interventions"] * 2})
    with pytest.raises(SpecError, match="did you mean 'happy'"):
        engine.told(spec(vector="hapy"))


def test_only_so_many_texts_and_plans_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr("steersman.engines.vllm.requests._REMEMBERED", 3)
    registry = Registry(tmp_path)
    compiler = Compiler(registry, shape())
    digests = [registry.store(drawn(WIDTH, seed=seed)) for seed in range(5)]
    texts = [json.dumps({"interventions": [{"vector": digest, "layers": [1]}]}) for digest in digests]
    first = compiler.read(texts[0])
    for text in (texts[1], texts[2], texts[0], texts[3]):  # the least recently used goes
        compiler.read(text)
    assert compiler.read(texts[0]) is first
    for text in texts[1:]:
        compiler.read(text)
    again = compiler.read(texts[0])
    assert again is not first
    assert again.key == first.key


def refusing(folder, **given):
    """A front end of an engine that cannot do all."""
    return FrontEnd(Registry(folder), shape(), Capacity(64, 32, 40, 6), 40, 16, **given)


def test_what_an_engine_cannot_know_it_refuses(tmp_path):
    two_class().save(tmp_path / "happy.safetensors")
    when = {"vector": "happy", "layer": 0, "above": 0.0}
    spread, drafting = refusing(tmp_path, conditions=False), refusing(tmp_path, exact_generation=False)
    with pytest.raises(UnsupportedError, match="under pipeline parallelism"):
        spread.resolve({"steersman": spec(when=when)}, 5, 8, None, None)
    assert spread.resolve({"steersman": spec()}, 5, 8, None, None) is not None
    told_apart = [
        {"positions": "generation[1:4]"}, {"positions": "generation[1:]"}, {"strength": [1.0, 2.0, 3.0]},
        {"positions": "prompt[::2]+generation[::2]"},
    ]  # fmt: skip
    for wanted in told_apart:
        with pytest.raises(UnsupportedError, match="with speculative decoding"):
            drafting.resolve({"steersman": spec(**wanted)}, 5, 8, None, None)
    alike = ("all", "prompt", "last", "generation", "last+generation", "prompt[1:3]+generation")
    for wanted in [*({"positions": positions} for positions in alike), {"strength": [1.0, 2.0]}, {"when": when}]:
        assert drafting.resolve({"steersman": spec(**wanted)}, 5, 8, None, None) is not None
    five = [spec(when={**when, "above": threshold})["interventions"][0] for threshold in (0.1, 0.2, 0.3, 0.4, 0.5)]
    with pytest.raises(UnsupportedError, match="5 conditions, and a request may have 4"):
        refusing(tmp_path).resolve({"steersman": {"interventions": five}}, 5, 8, None, None)
    few = front(tmp_path, rows=1)
    with pytest.raises(UnsupportedError, match="STEERSMAN_ROWS=2"):
        few.resolve({"steersman": spec(layers=[0, 1])}, 5, 8, None, None)


@pytest.mark.parametrize("name", ["../happy", "a/b", ".kept", "", "x" * 200, "a\x00b", "nul\n"])
def test_hostile_names_reach_no_file(name, tmp_path):
    registry = Registry(tmp_path)
    for act in (registry.digest, registry.delete, lambda name: registry.put(name, b"x")):
        with pytest.raises(SpecError, match="no name of a vector"):
            act(name)


def test_a_name_may_be_replaced_while_its_old_content_is_in_use(tmp_path):
    registry, other = Registry(tmp_path), Registry(tmp_path)
    path = tmp_path / "happy.safetensors"
    two_class(0).save(path)
    first = registry.digest("happy")
    two_class(5).save(path)
    second = registry.digest("happy")
    assert first != second
    assert torch.equal(other[first][1], two_class(0)[1])  # another process, told the digest
    assert torch.equal(other["happy"][1], two_class(5)[1])
    registry.delete("happy")
    assert registry.names() == []
    assert torch.equal(Registry(tmp_path)[second][1], two_class(5)[1])


def test_damaged_files_are_refused_and_leave_nothing(tmp_path):
    registry = Registry(tmp_path)
    with pytest.raises(FileFormatError):
        registry.put("bad", b"\x00" * 64)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    (tmp_path / "bad.safetensors").write_bytes(random.Random(0).randbytes(100))
    with pytest.raises(FileFormatError, match="'bad'"):
        registry.digest("bad")


def test_an_upload_that_is_too_large_is_refused(tmp_path, monkeypatch):
    two_class().save(tmp_path / "happy.safetensors")
    content = (tmp_path / "happy.safetensors").read_bytes()
    registry = Registry(tmp_path / "other")
    monkeypatch.setattr("steersman.registry.MAX_BYTES", len(content) - 1)
    with pytest.raises(FileFormatError, match="more than"):
        registry.put("happy", content)
    assert registry.names() == []
    monkeypatch.undo()
    registry.put("happy", content)
    assert registry.names() == ["happy"]


def test_kept_content_that_was_changed_is_refused(tmp_path):
    registry = Registry(tmp_path)
    first, second = registry.store(drawn(WIDTH, seed=1)), registry.store(drawn(WIDTH, seed=2))
    kept = {digest: next(tmp_path.rglob(f"{digest}*")) for digest in (first, second)}
    kept[first].write_bytes(kept[second].read_bytes())
    assert torch.equal(Registry(tmp_path)[second], drawn(WIDTH, seed=2))
    with pytest.raises(FileFormatError, match="not what its name says"):
        Registry(tmp_path)[first]


def test_other_entries_than_vectors_are_kept_by_digest(tmp_path):
    registry = Registry(tmp_path)
    tensor = drawn(3, WIDTH)
    digest = registry.store(tensor)
    assert digest == registry.store(tensor.clone())
    assert torch.equal(Registry(tmp_path)[digest], tensor)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"rnak": 3}, "unknown setting"), ({"rank": 0}, "at least 1"), ({"sites": "z"}, "names 'z'")],
)
def test_settings_are_checked(given, message):
    with pytest.raises(SpecError, match=message):
        Settings.parse(given)
