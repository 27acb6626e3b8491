"""From file to file: nothing is lost that the target can hold, and the check would notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.files.making import CONTROL, FIXTURES, I32, TRUTH, gguf_file, llama_cpp, svec
from tests.language.strategies import vector

from steersman import Ablate, Add, Plan, SteeringVector
from steersman.convert import convert, read, verify
from steersman.errors import FileFormatError, InterventionError, UnsupportedError
from steersman.files import control_vector

SOURCES = [FIXTURES / "repeng.gguf", FIXTURES / "aisteer360.svec", FIXTURES / "caa"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
@pytest.mark.parametrize("ending", ["safetensors", "gguf"])
def test_every_format_converts_without_losing_a_bit(source: Path, ending: str, tmp_path: Path) -> None:
    done = convert(source, tmp_path / f"v.{ending}", check=True)
    assert done.layers == (1, 2, 3)
    assert done.left_out == ()
    assert done.verified == (("steersman", "gguf") if ending == "gguf" else ("steersman",))
    back = SteeringVector.load(done.target)
    assert {i: back[i].numpy().tobytes() for i in back} == {i: a.tobytes() for i, a in TRUTH.items()}


def test_own_files_keep_everything(tmp_path: Path) -> None:
    own = vector()
    done = convert(own.save(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", check=True)
    assert SteeringVector.load(done.target) == own
    assert done.format == "steersman vector"


def test_layers_that_the_target_cannot_hold_are_named(tmp_path: Path) -> None:
    done = convert(vector().save(tmp_path / "a.safetensors"), tmp_path / "b.gguf", strength=2.0, check=True)
    assert (done.layers, done.left_out) == ((1, 2, 3), (0,))
    assert torch.equal(torch.from_numpy(llama_cpp(Path(done.target))[1]), vector()[1] * 2)


def test_options_reach_the_reader(tmp_path: Path) -> None:
    (tmp_path / "v.gguf").write_bytes(gguf_file(values=CONTROL | {"controlvector.layer_count": (I32, 3)}))
    done = convert(tmp_path / "v.gguf", tmp_path / "v.safetensors", index_offset=-1, site="resid_pre")
    assert (done.vector.layers, done.vector.site, done.verified) == ((0, 1, 2), "resid_pre", ())


def test_a_plan_that_only_adds_is_folded(tmp_path: Path) -> None:
    plan = Plan([Add(vector(), 2.0, layers=[1, 2], positions="all"), Add(vector(), layers=1, positions="all")])
    done = convert(plan.save(tmp_path / "p.safetensors"), tmp_path / "p.gguf", check=True)
    assert done.format == "plan"
    assert torch.allclose(done.vector[1], vector()[1] * 3)
    with pytest.raises(UnsupportedError, match="only adds"):
        read(Plan([Ablate(vector()[1])]).save(tmp_path / "q.safetensors"))
    with pytest.raises(InterventionError, match="is a plan"):
        read(tmp_path / "p.safetensors", site="resid_pre")


@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        ("v.pt", {}, FileFormatError, "use one of these"),
        ("v", {}, FileFormatError, "use one of these"),
        ("v.svec", {}, FileFormatError, "by itself|use one of these"),
        ("v.safetensors", {"strength": 2.0}, InterventionError, r"\.gguf"),
        ("v.gguf", {"strength": 0.0}, UnsupportedError, "adds nothing"),
        ("v.gguf", {"site": "resid_pre"}, UnsupportedError, "resid_pre"),
        ("nowhere/v.gguf", {}, FileNotFoundError, "does not exist"),
    ],
)
def test_a_target_that_cannot_be_is_refused_and_not_written(
    target: str, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    source = svec(tmp_path / "v.svec", explained_variances={})
    before = source.read_bytes()
    with pytest.raises(error, match=message):
        convert(source, tmp_path / target, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["v.svec"]
    assert source.read_bytes() == before


def test_a_file_is_not_converted_onto_itself(tmp_path: Path) -> None:
    path = Path(vector().save(tmp_path / "v.safetensors"))
    (tmp_path / "link.safetensors").symlink_to(path)
    for target in (path, tmp_path / "link.safetensors"):
        with pytest.raises(FileFormatError, match="by itself"):
            convert(path, target)


def test_the_check_notices_a_bit_a_layer_and_a_sign_of_zero(tmp_path: Path) -> None:
    v = SteeringVector({1: torch.tensor([1.0, 0.0]), 2: torch.tensor([1.0, 2.0])})
    for ending in ("safetensors", "gguf"):
        path = Path(v.save(tmp_path / f"v.{ending}"))
        expected = dict(v.directions)
        assert verify(path, expected)
        for wrong in (
            expected | {1: torch.tensor([1.0, -0.0])},
            expected | {2: torch.tensor([1.0, 2.0000002])},
            expected | {3: torch.tensor([1.0, 2.0])},
            {1: expected[1]},
        ):
            with pytest.raises(FileFormatError, match="not what was written"):
                verify(path, wrong)


def test_a_writer_that_loses_a_bit_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = control_vector.write

    def lossy(path: Path, directions: dict[int, torch.Tensor], **options: Any) -> str:
        return write(path, {i: tensor.bfloat16().float() for i, tensor in directions.items()}, **options)

    monkeypatch.setattr(control_vector, "write", lossy)
    with pytest.raises(FileFormatError, match="not what was written"):
        convert(FIXTURES / "repeng.gguf", tmp_path / "v.gguf", check=True)
