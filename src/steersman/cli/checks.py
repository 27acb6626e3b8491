"""What ``steer doctor`` looks at: each check a small function that returns what it found."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ..model import SteeringModel

Status = Literal["ok", "note", "warn", "broken"]

_NEEDED = {
    "torch": "2.7",
    "transformers": "5.16",
    "safetensors": "0.6",
    "huggingface-hub": "1.0",
    "tokenizers": "0.22",
    "accelerate": "1.10",
    "numpy": "2.0",
    "scipy": "1.14",
    "scikit-learn": "1.6",
    "pydantic": "2.9",
}
_EXTRAS = {
    "nnsight": "steering inside nnsight traces",
    "datasets": "pairs from Hugging Face datasets",
    "gguf": "llama.cpp control vectors",
    "peft": "models with adapters",
    "vllm": "serving",
    "ray": "extraction in bulk",
    "matplotlib": "figures for papers",
    "fastapi": "the server",
    "optuna": "tuning beyond a grid",
}


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        section, name: where it belongs and what was looked at.
        status: ``"broken"`` makes the command fail.
        found: in words.
        fix: what to do about it.
    """

    section: str
    name: str
    status: Status
    found: str
    fix: str | None = None


def installation() -> Iterator[Check]:
    """Python, the packages needed and the extras."""
    from .. import __version__

    good = sys.version_info >= (3, 11)
    yield Check("installation", "steersman", "ok", __version__)
    yield Check(
        "installation",
        "python",
        "ok" if good else "broken",
        platform.python_version(),
        None if good else "use Python 3.11 or newer",
    )
    for name, least in _NEEDED.items():
        yield _package(name, least)
    there = [name for name in _EXTRAS if find_spec(name) is not None]
    missing = [name for name in _EXTRAS if name not in there]
    yield Check("installation", "optional", "ok", ", ".join(there) or "none")
    if missing:
        yield Check("installation", "not installed", "note", ", ".join(f"{name} ({_EXTRAS[name]})" for name in missing))


def _package(name: str, least: str) -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check("installation", name, "broken", "missing", f"pip install '{name}>={least}'")
    numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2] if part.isdigit())
    old = numbers < tuple(int(part) for part in least.split("."))
    return Check(
        "installation", name, "broken" if old else "ok", found, f"pip install -U '{name}>={least}'" if old else None
    )


def machine() -> Iterator[Check]:
    """What models would run on."""
    import os

    import torch

    built: Any = torch.version
    build = f"CUDA {built.cuda}" if built.cuda else f"ROCm {built.hip}" if getattr(built, "hip", None) else "CPU only"
    yield Check("machine", "torch build", "ok", build)
    names = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    mps = ["Apple GPU"] if torch.backends.mps.is_available() else []
    yield Check(
        "machine",
        "devices",
        "ok",
        ", ".join([*names, *mps, f"cpu ({os.cpu_count()} cores, {torch.get_num_threads()} threads)"]),
    )
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    yield Check(
        "machine",
        "network",
        "note" if offline else "ok",
        "not used (offline)" if offline else "may be used for the hub",
    )


def embedded() -> Check:
    """Whether the embedded model is in this installation."""
    from ..demo import MODEL_FOLDER

    files = list(MODEL_FOLDER.glob("*")) if MODEL_FOLDER.is_dir() else []
    if not (MODEL_FOLDER / "config.json").is_file():
        return Check("installation", "embedded model", "broken", "missing", "install steersman again")
    return Check("installation", "embedded model", "ok", f"{sum(f.stat().st_size for f in files) / 1e6:.1f} MB")


def architecture(model: SteeringModel) -> Iterator[Check]:
    """Family, dimensions, the proof, and the sites of every layer. The proof ran when the model was loaded."""
    shape, found = model.shape, model.architecture
    known = found.family != "unknown"
    name = f"{found.family}" if known else f"unknown ({shape.model_type}), found by its structure"
    yield Check("model", "family", "ok" if known else "note", name)
    size = f"{shape.n_layers} layers, width {shape.d_model}, {shape.n_heads} heads of {shape.d_head}"
    yield Check("model", "shape", "ok", size)
    weight: Any = found.embedding.weight
    yield Check("model", "weights", "ok", f"{str(weight.dtype).removeprefix('torch.')} on {model.device}")
    yield Check("model", "proof", "ok", "passed: every site reads and writes what it claims, in every layer")
    yield from _sites(model)


def _sites(model: SteeringModel) -> Iterator[Check]:
    from ..sites import COMPONENTS

    for component in COMPONENTS:
        missing = {layer: why for (name, layer), why in model.shape.unavailable.items() if name == component}
        everywhere = len(missing) == model.n_layers
        if not missing:
            yield Check("sites", component, "ok", "every layer")
            continue
        why = "; ".join(sorted(set(missing.values())))
        where = "no layer" if everywhere else f"not in layers {', '.join(map(str, sorted(missing)))}"
        yield Check("sites", component, "note", f"{where}: {why}")


def tokenizer(model: SteeringModel) -> Iterator[Check]:
    """BOS, template and padding."""
    own = model.tokenizer
    start, ids = getattr(own, "bos_token_id", None), model.tokens.encode("Hello")
    adds = start is not None and ids[:1] == [start]
    yield Check(
        "tokenizer", "beginning", "ok", f"adds {own.bos_token!r}" if adds else "adds no beginning-of-sequence token"
    )
    yield Check(
        "tokenizer",
        "padding",
        "ok",
        f"{own.pad_token!r}" if getattr(own, "pad_token", None) else "none; padding is masked, so any token serves",
    )
    if not getattr(own, "chat_template", None):
        yield Check("tokenizer", "chat template", "note", "none: prompts are plain text")
        return
    chat = model.tokens.encode([{"role": "user", "content": "Hello"}])
    doubled = start is not None and chat[:2] == [start, start]
    yield Check(
        "tokenizer",
        "chat template",
        "broken" if doubled else "ok",
        "doubles the beginning-of-sequence token" if doubled else "yes",
        "correct the template" if doubled else None,
    )


def steering(model: SteeringModel) -> Iterator[Check]:
    """That steering does what it should and nothing else: off is bit for bit off, and the cache changes nothing."""
    import torch

    from ..operations import Add

    prompt, layer = "The weather today is", model.n_layers // 2
    weight: Any = model.architecture.embedding.weight
    scale = float(weight.detach().float().norm(dim=-1).mean())
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    plan = Add(direction / direction.norm() * scale, layers=layer)
    base = model.logits(prompt)
    none = torch.equal(base, model.logits(prompt, steer=Add(direction, 0.0, layers=layer)))
    yield Check(
        "steering",
        "strength 0",
        "ok" if none else "broken",
        "bit for bit the unsteered model" if none else "differs from the unsteered model",
        None if none else "report this, with the model's name",
    )
    with model.steer(plan):
        moved = model.logits(prompt)
    after = torch.equal(base, model.logits(prompt))
    yield Check(
        "steering",
        "afterwards",
        "ok" if after else "broken",
        "bit for bit the model as before" if after else "the model is changed",
        None if after else "report this, with the model's name",
    )
    acts = not torch.equal(base, moved)
    yield Check(
        "steering",
        "strength 1",
        "ok" if acts else "broken",
        f"layer {layer}, a random direction: max |dlogit| {float((moved - base).abs().max()):.2g}",
    )
    yield _cached(model, prompt, plan)


def _cached(model: SteeringModel, prompt: str, plan: Any) -> Check:
    """One token generated onto the cache, against one forward pass over everything."""
    import torch

    ids = torch.tensor([model.tokens.encode(prompt)], device=model.device)
    weight: Any = model.architecture.embedding.weight
    bits = torch.finfo(weight.dtype).eps
    with torch.inference_mode(), model.steer(plan):
        first = model.hf(input_ids=ids, use_cache=True)
        token = first.logits[:, -1:].argmax(-1)
        cached = model.hf(input_ids=token, past_key_values=first.past_key_values, use_cache=True).logits[0, -1].float()
    text = model.tokens.decode(token[0].tolist(), special=True)
    if model.tokens.continuation(text) != token[0].tolist():
        return Check("steering", "cache", "note", "not compared: the next token does not round-trip through text")
    whole = model.logits(prompt, continuation=text, steer=plan)[0, -1].float()
    off = float((cached - whole).abs().max() / max(1.0, float(whole.abs().max())))
    good = off <= max(1e-5, 16 * bits)
    return Check(
        "steering",
        "cache",
        "ok" if good else "broken",
        f"on equals off to {off:.1g} of the logits' size",
        None if good else "generate with use_cache=False, and report this",
    )
