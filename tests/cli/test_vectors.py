"""The group ``steer vectors``, and every format after ``-v``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.files.making import svec

import steersman as sm
from steersman.cli import lookup

SHORT = ("--max-new-tokens", 2)


@pytest.fixture
def folder(vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with glad in every format that can be written, and something that is no vector."""
    shutil.copy(vectors / "glad.safetensors", tmp_path)
    glad = sm.SteeringVector.load(tmp_path / "glad.safetensors")
    glad.save(tmp_path / "llama.gguf")
    svec(tmp_path / "ibm.svec", {str(layer): glad[layer].tolist() for layer in glad})
    (tmp_path / "caa").mkdir()
    for layer in glad:
        torch.save(glad[layer], tmp_path / "caa" / f"vec_layer_{layer}_tiny.pt")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["glad", "llama", "llama.gguf", "ibm", "ibm.svec", "./ibm.svec", "caa", "./caa", "caa/", "glad.safetensors"]
)
def test_a_vector_of_any_format_steers_by_path_or_name(steer, model, folder, name) -> None:
    glad = sm.SteeringVector.load(folder / "glad.safetensors")
    found = steer("generate", model, "the tea is", "-v", f"{name}:3@2", "--json", *SHORT)
    assert found.code == 0, found.err
    loaded = sm.SteeringModel.from_pretrained(model)
    expected = loaded.generate("the tea is", steer=sm.Add(glad[2], 3.0, layers=2), max_new_tokens=2)
    assert found.json["results"][0]["steered"] == expected


def test_all_its_layers(steer, model, folder) -> None:
    plan = steer("generate", model, "the", "-v", "llama:2@all", "--json", *SHORT).json["plan"]
    assert plan["interventions"][0]["layers"] == "all"
    both = steer("generate", model, "the", "-v", "glad@1", "-v", "llama:2@all", "--compare", *SHORT)
    assert "glad +1 @1, glad-2 +2 @all" in both.out
    none = steer("generate", model, "the", "-v", "llama:2", *SHORT)
    assert none.code == 2
    assert "has no chosen layer" in none.err


def test_a_name_prefers_our_own_file(folder) -> None:
    assert lookup.local("glad", folder) == folder / "glad.safetensors"
    sm.SteeringVector.load(folder / "glad.safetensors").save(folder / "glad.gguf")
    assert lookup.local("glad", folder) == folder / "glad.safetensors"
    assert lookup.local("none", folder) is None
    (folder / "empty").mkdir()
    assert lookup.local("empty", folder) is None


class TestList:
    def test_it_lists_what_can_be_read_and_says_what_cannot(self, steer, folder) -> None:
        found = steer("vectors", "ls")
        assert found.code == 0, found.err
        rows = {line.split()[0]: line.split() for line in found.out.splitlines()[1:5]}
        assert rows.keys() == {"caa", "glad.safetensors", "ibm.svec", "llama.gguf"}
        assert rows["glad.safetensors"][1:6] == ["glad", "0-2", "1", "32", "resid_post"]
        assert "packaged: happy, formal" in found.out
        assert "noise.safetensors holds no vector" in found.err

    def test_as_json_and_of_another_folder(self, steer, folder, vectors) -> None:
        document = steer("vectors", "ls", vectors, "--json").json
        assert document["schema"] == "steersman.vectors/1"
        assert [row["name"] for row in document["vectors"]] == ["glad", "wide"]
        assert steer("vectors", "ls", "nowhere").code == 2
        (folder / "empty").mkdir()
        assert "no vectors in" in steer("vectors", "ls", folder / "empty").out


class TestInfo:
    def test_everything_in_the_file(self, steer, model, pairs, tmp_path) -> None:
        target = tmp_path / "glad.safetensors"
        assert steer("extract", model, "--pairs", pairs, "-o", target).code == 0
        found, vector = steer("vectors", "info", target), sm.SteeringVector.load(target)
        for text in ("glad", "mean_difference", "resid_post, width 32", "0-2", "12 positive, 12 negative", "n = 24"):
            assert text in found.out
        layer = vector.quality["layers"][str(vector.layer)]
        (chosen,) = [line for line in found.out.splitlines() if line.endswith("chosen")]
        assert f"{layer['auroc']:.3f}" in chosen
        assert f"{layer['consistency']['cosine']:.2f}" in chosen
        document = steer("vectors", "info", target, "--json").json
        assert document["schema"] == "steersman.vector/1"
        assert document["quality"] == vector.quality
        assert document["lengths"]["0"] == pytest.approx(float(vector[0].norm()))

    def test_a_foreign_one_and_a_missing_one(self, steer, folder) -> None:
        found = steer("vectors", "info", "llama")
        assert "GGUF control vector" in found.out
        assert "No held-out figures are stored." in found.out
        missing = steer("vectors", "info", "glat")
        assert missing.code == 2
        assert "did you mean 'glad'?" in missing.err


class TestOrthogonalize:
    def test_what_is_left_is_at_right_angles_and_saved_with_its_record(self, steer, folder) -> None:
        generator = torch.Generator().manual_seed(5)
        other = sm.SteeringVector({layer: torch.randn(32, generator=generator) for layer in (0, 1)}, name="calm")
        other.save("calm.safetensors")
        glad = sm.SteeringVector.load("glad.safetensors")
        found = steer("vectors", "orthogonalize", "glad", "calm")
        assert found.code == 0, found.err
        saved = sm.SteeringVector.load("glad-without-calm.safetensors")
        assert saved == glad.orthogonalize(other)
        assert saved.layers == (0, 1)
        for layer in saved:
            assert float(saved[layer] @ other[layer]) == pytest.approx(0, abs=1e-4)
            kept = float(saved[layer].norm() / glad[layer].norm())
            assert f"{layer}              {kept:.0%}" in found.out
        record = json.loads((folder / "run.json").read_text())
        assert record["command"] == "vectors orthogonalize"
        assert set(record["inputs"]) == {"glad.safetensors", "calm.safetensors"}

    def test_a_dry_run_and_what_cannot_be(self, steer, folder) -> None:
        before = set(folder.iterdir())
        found = steer("vectors", "orthogonalize", "glad", "glad")
        assert found.code == 2
        assert "nothing is left of it" in found.err
        generator = torch.Generator().manual_seed(5)
        sm.SteeringVector({0: torch.randn(32, generator=generator)}, name="calm").save("calm.safetensors")
        dry = steer("vectors", "orthogonalize", "glad", "calm", "-o", "y.safetensors", "--dry-run")
        assert "would save y.safetensors" in dry.out
        (folder / "calm.safetensors").unlink()
        assert set(folder.iterdir()) == before


class TestSharing:
    @pytest.fixture
    def hub(self, monkeypatch, tmp_path):
        """A hub in a folder: what is pushed can be pulled."""
        store = tmp_path / "hub"
        store.mkdir()

        class Api:
            def __init__(self, token=None) -> None: ...

            def create_repo(self, repo_id, private=None, exist_ok=False):
                (store / "private").write_text(str(private))
                return type("Repo", (), {"repo_id": repo_id})

            def upload_folder(self, *, repo_id, folder_path, commit_message, revision):
                shutil.copytree(folder_path, store / repo_id)
                return type("Commit", (), {"commit_url": f"https://hub/{repo_id}/commit/1 {commit_message}"})

        def download(repo_id, filename, **_):
            if not (store / repo_id / filename).is_file():
                raise FileNotFoundError(f"404: {repo_id}")
            return str(store / repo_id / filename)

        monkeypatch.setattr("huggingface_hub.HfApi", Api)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        return store

    def test_what_is_pushed_is_pulled(self, steer, folder, hub) -> None:
        pushed = steer("vectors", "push", "glad", "me/happy", "--private", "--message", "first")
        assert pushed.code == 0, pushed.err
        assert "uploaded https://hub/me/happy/commit/1 first" in pushed.out
        assert (hub / "private").read_text() == "True"
        assert "steersman" in (hub / "me/happy/README.md").read_text()
        pulled = steer("vectors", "pull", "me/happy")
        assert pulled.code == 0, pulled.err
        glad = sm.SteeringVector.load(folder / "glad.safetensors")
        assert sm.SteeringVector.load(folder / "happy.safetensors") == glad
        assert json.loads((folder / "run.json").read_text())["repository"] == "me/happy"

    def test_a_foreign_file_is_pushed_as_our_own(self, steer, folder, hub) -> None:
        assert steer("vectors", "push", "llama.gguf", "me/llama").code == 0
        assert sm.SteeringVector.load(hub / "me/llama/vector.safetensors").metadata["format"] == "GGUF control vector"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["pull", "happy"], "write ORG/REPO"),
            (["pull", "me/none"], "404: me/none"),
            (["pull", "me/none", "-o", "x.pt"], "-o x.safetensors"),
            (["push", "none", "me/none"], "there is no vector none here"),
            (["push", "glad", "none"], "write ORG/REPO"),
            (["push", "glad", "me/none", "--offline"], "--offline allows no upload"),
        ],
    )
    def test_wrong_input_is_exit_2(self, steer, folder, hub, arguments, message) -> None:
        before = set(folder.iterdir())
        found = steer("vectors", *arguments)
        assert found.code == 2, found.err
        assert message in found.err
        assert set(folder.iterdir()) == before
        assert list(hub.iterdir()) == []

    def test_a_dry_run_touches_neither(self, steer, folder, hub) -> None:
        assert "would download me/happy to happy.safetensors" in steer("vectors", "pull", "me/happy", "--dry-run").out
        assert "would upload glad.safetensors to me/x" in steer("vectors", "push", "glad", "me/x", "--dry-run").out
        assert list(hub.iterdir()) == []
        assert not (folder / "happy.safetensors").exists()

    def test_a_refused_upload_is_exit_1(self, steer, folder, hub, monkeypatch) -> None:
        def refuse(self, *_, **__):
            raise OSError("403 Forbidden")

        monkeypatch.setattr("steersman.SteeringVector.push_to_hub", refuse)
        found = steer("vectors", "push", "glad", "me/x")
        assert found.code == 1
        assert "403 Forbidden" in found.err


def test_settings_of_the_group_in_a_file(steer, folder) -> None:
    (folder / "x.toml").write_text('[vectors]\nname = "renamed"\noutput = "z.safetensors"\n')
    generator = torch.Generator().manual_seed(5)
    sm.SteeringVector({0: torch.randn(32, generator=generator)}, name="calm").save("calm.safetensors")
    found = steer("vectors", "orthogonalize", "glad", "calm", "--config", "x.toml")
    assert found.code == 0, found.err
    assert sm.SteeringVector.load("z.safetensors").name == "renamed"
