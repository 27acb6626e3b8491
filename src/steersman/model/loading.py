"""Loading and saving models: from the hub, from a folder, and edited models as base and plan."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import FileFormatError, MismatchError, UnsupportedError
from ..files.atomic import replacing
from ..plan import PLAN_FILE, Plan

if TYPE_CHECKING:
    from .steering_model import SteeringModel

EDIT_FILE = "steersman_edit.json"
_SHARED_OPTIONS = ("revision", "token", "cache_dir", "trust_remote_code", "local_files_only")


def demo_folder() -> Path:
    """The folder of the embedded model."""
    return Path(str(files("steersman") / "demo" / "model"))


def load(cls: type[SteeringModel], name: str, options: dict[str, Any]) -> SteeringModel:
    """What :meth:`SteeringModel.from_pretrained` does."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (Path(name) / EDIT_FILE).is_file():
        return _load_edit(cls, Path(name), options)
    source = str(demo_folder()) if name == "demo" else name
    shared = {key: options[key] for key in _SHARED_OPTIONS if key in options}
    defaults: dict[str, Any] = {"dtype": "float32"} if name == "demo" else {"dtype": "auto"}
    tokenizer: Any = AutoTokenizer.from_pretrained(source, **shared)
    hf: Any = AutoModelForCausalLM.from_pretrained(source, **(defaults | options))
    hf.eval()
    return cls(hf, tokenizer, name=name)


def _load_edit(cls: type[SteeringModel], folder: Path, options: dict[str, Any]) -> SteeringModel:
    try:
        document = json.loads((folder / EDIT_FILE).read_text(encoding="utf-8"))
        base, fingerprint, revision = (cast("str | None", document[k]) for k in ("base", "fingerprint", "revision"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{folder / EDIT_FILE} does not describe an edited model: {error}") from error
    plan = Plan.load(folder / PLAN_FILE)
    if not isinstance(base, str):
        raise FileFormatError(f"{folder / EDIT_FILE} names no base model")
    pinned = {} if revision is None else {"revision": revision}
    model = cls.from_pretrained(base, **(pinned | options))
    if model.shape.fingerprint != fingerprint:
        raise MismatchError(
            f"the edit in {folder} was made for {base} with configuration {fingerprint}, but {base} now has "
            f"{model.shape.fingerprint}; give the revision= it was made for"
        )
    return model.edit(plan)


def save(model: SteeringModel, target: str) -> None:
    """What :meth:`SteeringModel.save_pretrained` does."""
    folder = Path(target)
    if not model.plan:
        folder.mkdir(parents=True, exist_ok=True)
        model.hf.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        return
    config = model.architecture.hf.config
    base = model.shape.name if model.shape.name == "demo" else str(getattr(config, "_name_or_path", "") or "")
    if not base:
        raise UnsupportedError(
            "an edited model is saved as its base and its plan, and this base was never loaded from anywhere; save the "
            "base first, load it from there, and edit that; or save the plan alone: edited.plan.save(...)"
        )
    base = str(Path(base).resolve()) if Path(base).is_dir() else base
    document = {
        "format_version": 1,
        "base": base,
        "revision": getattr(config, "_commit_hash", None),
        "fingerprint": model.shape.fingerprint,
        "plan": model.plan.digest,
    }
    folder.mkdir(parents=True, exist_ok=True)
    model.plan.save(folder / PLAN_FILE)
    with replacing(folder / EDIT_FILE) as temporary:
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
