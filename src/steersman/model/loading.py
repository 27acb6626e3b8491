"""Loading and saving models: from the hub, from a folder, and edited models as base and plan."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    if not Path(source).is_dir():
        shared_edit = _edit_on_hub(source, options)
        if shared_edit is not None:
            return _load_edit(cls, shared_edit, options)
    shared = {key: options[key] for key in _SHARED_OPTIONS if key in options}
    defaults: dict[str, Any] = {"dtype": "float32"} if name == "demo" else {"dtype": "auto"}
    tokenizer: Any = AutoTokenizer.from_pretrained(source, **shared)
    hf: Any = AutoModelForCausalLM.from_pretrained(source, **(defaults | options))
    hf.eval()
    return cls(hf, tokenizer, name=name)


def _edit_on_hub(repo: str, options: dict[str, Any]) -> Path | None:
    """The folder of an edited model that was pushed to the hub; None for an ordinary repository.

    Asked only where there is no ``config.json``, which every ordinary model has.
    """
    from transformers.utils import cached_file  # pyright: ignore[reportPrivateImportUsage]

    own = {key: options[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in options}
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    if cached_file(repo, "config.json", **own, **quiet) is not None:
        return None
    files = [cached_file(repo, file, **own, **quiet) for file in (EDIT_FILE, PLAN_FILE)]
    return None if None in files else Path(str(files[0])).parent


def _load_edit(cls: type[SteeringModel], folder: Path, options: dict[str, Any]) -> SteeringModel:
    base, facts = _described(folder)
    plan = Plan.load(folder / PLAN_FILE)
    if plan.digest != facts["plan"]:
        raise FileFormatError(f"{folder / PLAN_FILE} is not the plan that {EDIT_FILE} speaks of; save the edit again")
    own = {key: value for key, value in options.items() if key != "revision"}  # that of the edit, not of its base
    pinned = {} if facts["revision"] is None else {"revision": facts["revision"]}
    model = cls.from_pretrained(base, **(pinned | own))
    if model.shape.fingerprint != facts["fingerprint"]:
        raise MismatchError(
            f"the edit in {folder} was made for {base} with configuration {facts['fingerprint']}, but {base} now has "
            f"{model.shape.fingerprint}; give the revision= it was made for"
        )
    start = 0
    for count, name in facts["edits"]:
        model = model.edit(Plan(plan.interventions[start : start + count]), name=name)
        start += count
    return model


def _described(folder: Path) -> tuple[str, dict[str, Any]]:
    """The base of an edit, and what else its file says."""
    try:
        document = json.loads((folder / EDIT_FILE).read_text(encoding="utf-8"))
        facts: dict[str, Any] = {key: document[key] for key in ("fingerprint", "revision", "plan")}
        facts["edits"] = [(int(edit["interventions"]), edit["name"]) for edit in document["edits"]]
        base = document["base"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{folder / EDIT_FILE} does not describe an edited model: {error}") from error
    if not isinstance(base, str):
        raise FileFormatError(f"{folder / EDIT_FILE} names no base model")
    return base, facts


def save(model: SteeringModel, target: str) -> None:
    """What :meth:`SteeringModel.save_pretrained` does."""
    folder = Path(target)
    if not model.plan:
        folder.mkdir(parents=True, exist_ok=True)
        model.hf.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        return
    base = _base(model)
    if not base:
        raise UnsupportedError(
            "an edited model is saved as its base and its plan, and this base was never loaded from anywhere; save the "
            "base first, load it from there, and edit that; or save the plan alone: edited.plan.save(...)"
        )
    base = str(Path(base).resolve()) if Path(base).is_dir() else base
    _write_edit(model, folder, base)


def _write_edit(model: SteeringModel, folder: Path, base: str) -> None:
    document = {
        "format_version": 1,
        "base": base,
        "revision": getattr(model.architecture.hf.config, "_commit_hash", None),
        "fingerprint": model.shape.fingerprint,
        "plan": model.plan.digest,
        "edits": [{"name": edit.name, "interventions": len(edit.plan)} for edit in model.edits],
    }
    folder.mkdir(parents=True, exist_ok=True)
    model.plan.save(folder / PLAN_FILE)
    with replacing(folder / EDIT_FILE) as temporary:
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _base(model: SteeringModel) -> str:
    """The hub id or folder that the weights were loaded from; "demo" for the embedded model."""
    own: str = model.shape.name
    return own if own == "demo" else str(getattr(model.architecture.hf.config, "_name_or_path", "") or "")


def push(model: SteeringModel, repo_id: str, options: dict[str, Any]) -> str:
    """What :meth:`SteeringModel.push_to_hub` does."""
    from ..files import hub

    if not model.plan:
        return hub.push_folder(repo_id, lambda folder: save(model, folder), "Upload model with steersman", **options)
    base = _base(model)
    if base != "demo" and (not base or Path(base).is_dir()):
        where = f"the folder {base}" if base else "nowhere"
        raise UnsupportedError(
            f"an edited model is shared as its base and its plan, and its base is in {where}, where others cannot find "
            "it; load the base from the hub, push the plan alone (edited.plan.push_to_hub), or bake it and push that"
        )
    origin = getattr(model.architecture.hf.config, "_commit_hash", None)
    facts = [("base", base), ("revision", origin)] + [
        (edit.name or f"edit {number}", ", ".join(item.label for item in edit.plan))
        for number, edit in enumerate(model.edits)
    ]
    usage = f"""
import steersman as sm

model = sm.SteeringModel.from_pretrained("{repo_id}")
print(model.generate("I think"))
"""
    card = hub.card(repo_id.rpartition("/")[2], base, facts, usage)

    def write(folder: str) -> None:
        _write_edit(model, Path(folder), base)
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")

    return hub.push_folder(repo_id, write, "Upload edited model with steersman", **options)
