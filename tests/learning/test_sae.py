"""Decoder rows of sparse autoencoders, from honest and from hostile files."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.models import tiny, tiny_tokenizer

import steersman as sm
from steersman.errors import DataError, FileFormatError
from steersman.extraction import sae as module

DECODER = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))


def saelens(folder: Path, hook: str | None = "blocks.1.hook_resid_pre", nested: bool = False, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    named = {} if hook is None else {"metadata": {"hook_name": hook}} if nested else {"hook_name": hook}
    (folder / "cfg.json").write_text(json.dumps({"d_in": 32, "d_sae": 7, **named, **config}))
    save_file({"W_dec": DECODER, "W_enc": DECODER.T.contiguous()}, folder / "sae_weights.safetensors")
    return folder


def scope(folder: Path, **arrays: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    np.savez(folder / "params.npz", **(arrays or {"W_enc": DECODER.T.numpy(), "W_dec": DECODER.numpy()}))
    return folder


@pytest.mark.parametrize("nested", [False, True])
def test_a_feature_of_saelens_is_its_decoder_row_where_it_was_trained(tmp_path: Path, nested: bool) -> None:
    vector = sm.sae_direction(saelens(tmp_path / "sae", nested=nested), 3)
    assert torch.equal(vector[1], DECODER[3])
    assert (vector.site, vector.layer, vector.layers, vector.method) == ("resid_pre", 1, (1,), "sae")
    assert vector.metadata["norm"] == pytest.approx(float(DECODER[3].norm()))
    assert (vector.metadata["features"], vector.name, dict(vector.gap)) == (7, "feature 3", {})


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("blocks.2.hook_resid_post", "resid_post"),
        ("blocks.2.hook_mlp_out", "mlp_out"),
        ("blocks.2.hook_attn_out", "attn_out"),
        ("blocks.2.attn.hook_z", "z"),
        ("blocks.2.mlp.hook_post", "mlp_post"),
    ],
)
def test_hook_points_are_sites(tmp_path: Path, hook: str, site: str) -> None:
    vector = sm.sae_direction(saelens(tmp_path / "sae", hook), -1)
    assert (vector.site, vector.layers) == (site, (2,))
    assert torch.equal(vector[2], DECODER[-1])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", "<f2"])
def test_a_feature_of_gemma_scope_is_its_decoder_row(tmp_path: Path, order: str, dtype: str) -> None:
    folder = scope(tmp_path / "sae", W_dec=np.array(DECODER.numpy(), dtype=dtype, order=order))  # type: ignore[call-overload]
    tolerance = 1e-3 if dtype == "<f2" else 0
    for index in (3, -2, -7):
        vector = sm.sae_direction(folder, index, layer=20, site="mlp_out", name="birds")
        torch.testing.assert_close(vector[20], DECODER[index], rtol=tolerance, atol=tolerance)
    assert (vector.site, vector.name) == ("mlp_out", "birds")


def test_compressed_archives_are_read_too(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "params.npz", W_dec=DECODER.numpy())
    assert torch.equal(sm.sae_direction(tmp_path, 6, layer=0)[0], DECODER[6])


def test_it_steers(tmp_path: Path) -> None:
    model = sm.SteeringModel(tiny("llama"), tiny_tokenizer())
    vector = sm.sae_direction(saelens(tmp_path / "sae"), 3)
    plain, steered = (
        sm.capture(model, "so it", site="resid_pre", layers=1, steer=s)[1] for s in (None, sm.Add(vector, 2.0))
    )
    torch.testing.assert_close(steered[-1] - plain[-1], 2 * DECODER[3], rtol=1e-4, atol=1e-5)


def test_what_the_folder_says_is_not_overruled(tmp_path: Path) -> None:
    folder = saelens(tmp_path / "sae")
    assert sm.sae_direction(folder, 0, layer=1, site="resid_pre").layer == 1
    with pytest.raises(DataError, match="made for layer 1, not 2"):
        sm.sae_direction(folder, 0, layer=2)
    with pytest.raises(DataError, match="made for site resid_pre, not resid_post"):
        sm.sae_direction(folder, 0, site="resid_post")
    with pytest.raises(DataError, match="name it"):
        sm.sae_direction(scope(tmp_path / "scope"), 0)
    with pytest.raises(DataError, match="name it"):
        sm.sae_direction(saelens(tmp_path / "silent", hook=None), 0)
    with pytest.raises(DataError, match="7 features, so none with the index 7"):
        sm.sae_direction(folder, 7)
    with pytest.raises(FileNotFoundError, match="holds neither"):
        sm.sae_direction(tmp_path / "nowhere", 0)


def npy(header: str) -> bytes:
    """A .npy member with a header of one's own and little behind it."""
    text = header.ljust(118).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)


def archive(folder: Path, member: bytes, name: str = "W_dec.npy") -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr(name, member)
    (folder / "params.npz").write_bytes(buffer.getvalue())
    return folder


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (7, 32), }"), "is of object"),
        (npy("{'descr': '<i4', 'fortran_order': False, 'shape': (7, 32), }"), "is of int32"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (7, 32), }"), "truncated"),
        (npy("{'descr': '<f4', 'fortran_order': True, 'shape': (7, 32), }"), "truncated"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10, 999999999999), }"), r"shape \(10, 999999999999\)"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (7,), }"), r"shape \(7,\)"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-7, 32), }"), "shape"),
        (npy("__import__('os').abort()"), "damaged"),
        (b"nonsense", "damaged"),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path: Path, member: bytes, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        sm.sae_direction(archive(tmp_path, member), 3, layer=0)


def test_no_array_is_ever_unpickled(tmp_path: Path) -> None:
    (tmp_path / "params.npz").write_bytes(b"")
    with pytest.raises(FileFormatError, match="damaged"):
        sm.sae_direction(tmp_path, 0, layer=0)
    np.savez(tmp_path / "params.npz", W_dec=np.array([[object()] * 32] * 7, dtype=object))
    with pytest.raises(FileFormatError, match="is of object"):
        sm.sae_direction(tmp_path, 0, layer=0)
    with pytest.raises(FileFormatError, match="has no W_dec"):
        sm.sae_direction(scope(tmp_path / "other", W=DECODER.numpy()), 0, layer=0)


def test_a_hostile_folder_of_saelens_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileFormatError, match="d_in is 64, but W_dec has rows of 32"):
        sm.sae_direction(saelens(tmp_path / "a", d_in=64), 0)
    with pytest.raises(FileFormatError, match="no such site"):
        sm.sae_direction(saelens(tmp_path / "b", "blocks.1.attn.hook_pattern"), 0)
    for text, message in (("{", "cannot be read"), ("[]", "no JSON object"), ("[" * 100_000, "cannot be read")):
        folder = saelens(tmp_path / "c")
        (folder / "cfg.json").write_text(text)
        with pytest.raises(FileFormatError, match=message):
            sm.sae_direction(folder, 0)
    folder = saelens(tmp_path / "d")
    monkeypatch.setattr(module, "MAX_CONFIG", 10)
    with pytest.raises(FileFormatError, match="no configuration"):
        sm.sae_direction(folder, 0)
    monkeypatch.undo()
    whole = (folder / "sae_weights.safetensors").read_bytes()
    (folder / "sae_weights.safetensors").write_bytes(whole[:-100])
    with pytest.raises(FileFormatError, match="damaged"):
        sm.sae_direction(folder, 0)
    save_file({"W_enc": DECODER}, folder / "sae_weights.safetensors")
    with pytest.raises(FileFormatError, match="has no W_dec; it holds W_enc"):
        sm.sae_direction(folder, 0)
    save_file({"W_dec": DECODER.long()}, folder / "sae_weights.safetensors")
    with pytest.raises(FileFormatError, match="real numbers"):
        sm.sae_direction(folder, 0)
    save_file({"W_dec": DECODER * float("nan")}, folder / "sae_weights.safetensors")
    with pytest.raises(FileFormatError, match="NaN"):
        sm.sae_direction(folder, 0)
