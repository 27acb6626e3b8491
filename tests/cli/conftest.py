"""A tiny model and vectors in folders, and the command line run in this process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import tiny, tiny_tokenizer

from steersman import SteeringVector, cli


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random model with three layers of width 32 and 256 positions."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny("gpt2").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def untemplated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same without a chat template."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    tiny("gpt2").save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the vectors glad (fits the model) and wide (does not)."""
    folder = tmp_path_factory.mktemp("vectors")
    generator = torch.Generator().manual_seed(3)

    def save(name: str, width: int) -> None:
        directions = {layer: torch.randn(width, generator=generator) * 3 for layer in range(3)}
        SteeringVector(directions, name=name, layer=1, projections={1: (-2.0, 2.0)}).save(
            folder / f"{name}.safetensors"
        )

    save("glad", 32)
    save("wide", 48)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twelve contrast pairs of a word that the tokenizer knows."""
    nouns = ("tea", "sea", "sun", "dog", "cat", "bed", "hat", "pie", "bus", "job", "car", "map")
    rows = [{"positive": f"the {noun} is great of", "negative": f"the {noun} is awful of"} for noun in nouns]
    path = tmp_path / "mood.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def steer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``steer("generate", ...)`` in this process."""

    def run(*arguments: object, stdin: str = "", **environment: str) -> Result:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return run
