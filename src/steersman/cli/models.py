"""Loading the model that a command names, and describing it without loading its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SteersmanError
from .failures import InputError
from .session import go_offline

if TYPE_CHECKING:
    from ..model import SteeringModel
    from ..shape import ModelShape

_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Outline:
    """A model known by its configuration alone.

    Attributes:
        name: as given.
        shape: what plans are checked against.
        parameters: how many.
        bytes: what its weights take in memory.
        dtype, device: where and how it would be loaded.
        tokens: encodes prompts.
        hf: the modules without weights.
    """

    name: str
    shape: ModelShape
    parameters: int
    bytes: int
    dtype: str
    device: str
    tokens: Any
    hf: Any

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of what a dry run says about it."""
        shape = self.shape
        return [
            (
                "model",
                f"{self.name}: {shape.model_type}, {shape.n_layers} layers, width {shape.d_model}, "
                f"{count(self.parameters)} parameters",
            ),
            ("weights", f"{size(self.bytes)} as {self.dtype} on {self.device}"),
        ]

    def as_json(self) -> dict[str, Any]:
        """The same as values."""
        return {
            "name": self.name,
            "model_type": self.shape.model_type,
            "fingerprint": self.shape.fingerprint,
            "layers": self.shape.n_layers,
            "d_model": self.shape.d_model,
            "parameters": self.parameters,
            "weight_bytes": self.bytes,
            "dtype": self.dtype,
            "device": self.device,
        }


def load(name: str, *, device: str | None, dtype: str | None, progress: bool) -> SteeringModel:
    """Load a model: ``demo``, a folder, or a hub id.

    Raises:
        InputError: it is none of these, or cannot be read.
    """
    source = _checked(name, dtype)
    _quieten(progress and source != "demo" and not Path(source).is_dir())
    from ..model import SteeringModel

    if source == "demo":
        _one_thread()
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    place = _device(device)
    if place == "auto":
        options["device_map"] = "auto"
    elif place != "cpu":
        options["device_map"] = {"": place}
    try:
        return SteeringModel.from_pretrained(source, **options)
    except SteersmanError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise _unloadable(name, error) from error


def outline(name: str, *, device: str | None, dtype: str | None) -> Outline:
    """A model's shape, size and tokenizer, from its configuration; no weights are read.

    Raises:
        InputError, ArchitectureError: as loading would.
    """
    source = _checked(name, dtype)
    _quieten(False)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from ..model.architecture import find_architecture
    from ..model.loading import EDIT_FILE, demo_folder
    from ..model.tokens import Tokens

    if (Path(source) / EDIT_FILE).is_file():
        source = str(json.loads((Path(source) / EDIT_FILE).read_text(encoding="utf-8"))["base"])
    source = str(demo_folder()) if source == "demo" else source
    try:
        config: Any = AutoConfig.from_pretrained(source)
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
        stored = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
        wanted = dtype if dtype not in (None, "auto") else "float32" if name == "demo" else stored
        with torch.device("meta"):
            hf: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, str(wanted)))
    except (OSError, ValueError, KeyError) as error:
        raise _unloadable(name, error) from error
    shape = find_architecture(hf, name=name, prove=False).shape
    parameters = sum(p.numel() for p in hf.parameters())
    weight = sum(p.numel() * p.element_size() for p in hf.parameters())
    return Outline(name, shape, parameters, weight, str(wanted), _device(device), Tokens(tokenizer), hf)


def max_positions(hf: Any) -> int | None:
    """The longest sequence the configuration allows, if it says so."""
    return getattr(hf.config, "max_position_embeddings", None)


def _checked(name: str, dtype: str | None) -> str:
    """The model's name, after checks that need no heavy import."""
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"--dtype {dtype} is unknown", fix=f"use one of {', '.join(_DTYPES)}")
    if name == "demo":
        go_offline()
        _require_demo()
        return name
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", "steersman_edit.json")):
            raise InputError(
                f"the folder {name} holds no model",
                why="it has no config.json",
                fix="give the folder that save_pretrained wrote",
            )
        return str(path)
    if looks_local or path.is_file():
        why = "it is a file; a model is a folder" if path.is_file() else None
        raise InputError(
            f"there is no model folder {name}",
            why=why,
            fix="give a folder, a Hugging Face id such as openai-community/gpt2, or demo",
        )
    if get_close_matches(name, ["demo"], 1, 0.75):
        raise InputError(f"there is no model {name!r}", fix="did you mean 'demo'?")
    return name


def _require_demo() -> None:
    from ..demo import MODEL_FOLDER

    if not (MODEL_FOLDER / "config.json").is_file():
        raise InputError(
            "the embedded model is missing from this installation",
            why=f"there is no {MODEL_FOLDER / 'config.json'}",
            fix="install steersman again, or name another model",
            code=1,
        )


def _one_thread() -> None:
    """The embedded model is too small to gain from threads, and loses much where cores are busy."""
    import torch

    torch.set_num_threads(1)


def _device(device: str | None) -> str:
    import torch

    if device is None:
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "auto":
        return device
    try:
        place = torch.device(device)
    except RuntimeError:
        raise InputError(f"--device {device} is unknown", fix="use cpu, cuda, cuda:1, mps or auto") from None
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(place.type, True)
    if not there or (place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count()):
        raise InputError(
            f"--device {device} is not there",
            why=f"torch {torch.__version__} sees no such device here",
            fix="use --device cpu, or see steer doctor",
        )
    return device


def _quieten(progress: bool) -> None:
    """No bars over files that lie here already."""
    import transformers

    if not progress:
        transformers.utils.logging.disable_progress_bar()


def _unloadable(name: str, error: Exception) -> InputError:
    text = (str(error) or type(error).__name__).strip()
    first = text.splitlines()[0]
    if Path(name).expanduser().is_dir():
        return InputError(
            f"the model in {name} cannot be loaded", why=first, fix="see steer doctor, or run again with --verbose"
        )
    return InputError(
        f"the model {name} could not be loaded",
        why=first,
        fix="give a folder, a Hugging Face id such as openai-community/gpt2, or demo; without a network, add --offline "
        "to use the cache",
    )


def count(number: int) -> str:
    """``124,439,808`` as ``124.4M``."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f}{unit}"
    return str(number)


def size(number: float) -> str:
    """Bytes, as people read them."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f} B"
