"""Baking: an edited model becomes an ordinary checkpoint, or an adapter, that does the same without any hook."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import BusyError, InterventionError, UnsupportedError
from ...files.folders import replacing_folder
from ...model import SteeringModel
from ...model.architecture import Architecture
from ...plan import Plan, PlanLike
from .placement import place
from .report import REPORT_FILE, BakeReport, write_documents
from .rewriting import Rewrite, rewrite
from .seen import Seen, look
from .source import Source, loaded_from
from .verification import Reference, Verification, reference, verify
from .writers import Writers
from .writing import write_checkpoint

#: Files of a checkpoint that hold weights, or that a bake writes anew.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
_OWN = ("README.md", REPORT_FILE, "config.json", "steersman_edit.json")

Progress = Callable[[int, int], None]


def bake(
    model: SteeringModel,
    folder: str | Path,
    plan: PlanLike = None,
    *,
    adapter: bool = False,
    dtype: str | torch.dtype | None = None,
    prompts: Sequence[str] | None = None,
    max_new_tokens: int = 16,
    tolerance: float | None = None,
    from_memory: bool = False,
    overwrite: bool = False,
    load_options: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> BakeReport:
    """Write an edited model as an ordinary checkpoint: its plan becomes part of its weights, exactly.

    Plain transformers loads what is written, and anything else that reads such checkpoints; nothing of this package is
    needed. Additions become biases; one direction ablated at all writers becomes orthogonalised weights (embeddings
    untied first); any other affine map of what attention or an MLP adds, of heads or of neurons, becomes part of their
    output matrix. What no weights do exactly is refused before anything is written, with the reason.

    The checkpoint that the model was loaded from is read and written tensor by tensor, so that the weights are never
    in memory a second time; what is not changed keeps its bits. It is then loaded and compared with the hooks, logits
    at every token and greedy text, before it takes its place. If they differ by more than rounding, nothing is left.

    Args:
        model: an edited model; or any model, with ``plan``.
        folder: where to write. A folder baked before is replaced, in one step; another one that is not empty only with
            ``overwrite``.
        plan: applied after the model's own edits.
        adapter: write a PEFT adapter (LoRA of the rank of each map) instead, for the base as it is: also where its
            weights are quantised.
        dtype: to store all weights in, such as ``"float32"``; as they are stored unless given.
        prompts: texts for the verification, instead of a few of our own.
        max_new_tokens: how many tokens are generated greedily after each of them.
        tolerance: the largest ``|dlogit| / max(1, |logit|)`` allowed, instead of what the precision explains.
        from_memory: take the weights from memory rather than from where they were loaded; they are if that place is
            not known or not in safetensors.
        overwrite: replace a folder that is not empty and was not baked.
        load_options: for loading the result (the base again, for an adapter of a dispatched or quantised one) to verify
            it, such as ``device_map="auto"``; by default the device and precision of ``model``.
        progress: called with the bytes written so far and in all.

    Returns:
        What was changed, what the verification found, and which files were written.

    Raises:
        UnsupportedError: no weights of this architecture do this exactly; nothing was written.
        VerificationError: the result does not do what the hooks do; nothing was left.
        FileExistsError: ``folder`` holds something else.
    """
    target = Path(folder)
    edited = _edited(model, plan)
    source_folder = loaded_from(_lm(edited)) if not from_memory else None
    _check_target(target, source_folder, overwrite)
    if adapter:
        from .adapter import bake_adapter

        return bake_adapter(edited, target, prompts, max_new_tokens, tolerance, load_options or {})
    _check_plain(edited)
    stored = _dtype(dtype)
    changes = rewrite(place(edited.plan, edited.shape), Writers(edited.architecture, look(edited.base)))
    expected = reference(edited, prompts, max_new_tokens)
    with replacing_folder(target) as to:
        spare = to / ".memory"
        source = _source(edited, source_folder, spare, changes)
        write_checkpoint(source, changes.changes, to, dtype=stored, progress=progress)
        _write_rest(edited, source, changes, stored, to)
        shutil.rmtree(spare, ignore_errors=True)
        checked = _verified(edited, to, expected, source, changes, stored, tolerance, load_options or {})
        report = _report(edited, target, to, source, changes, checked)
        write_documents(to, report, edited.plan, getattr(_lm(edited).config, "_commit_hash", None))
    return report


def check_bakeable(architecture: Architecture, plan: PlanLike, *, adapter: bool = False) -> Rewrite:
    """What a bake would change, asked of a model that needs no weights (it may be on the meta device).

    Raises:
        UnsupportedError, MismatchError: what a bake would raise before it runs the model.
    """
    writers = Writers(architecture, Seen(architecture, blind=True))
    return rewrite(place(plan, architecture.shape), writers, adapter=adapter)


def _edited(model: SteeringModel, plan: PlanLike) -> SteeringModel:
    added = Plan.of(plan)
    edited = model.edit(added) if added else model
    if not edited.plan.actions(edited.shape):
        raise InterventionError(
            "there is nothing to bake: the plan does nothing; give a model edited by a plan, or plan="
        )
    if model.base.steered_by(None):
        raise BusyError(f"{model.shape.name} is being steered; leave the context, and bake model.edit(plan) instead")
    return edited


def _lm(model: SteeringModel) -> Any:
    return model.architecture.hf


def _check_target(target: Path, source: Path | None, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file; give a folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    if source is not None and target.exists() and target.resolve() == source.resolve():
        raise FileExistsError(f"{target} is where the model was loaded from; give another folder")
    if target.exists() and any(target.iterdir()) and not (target / REPORT_FILE).is_file() and not overwrite:
        raise FileExistsError(f"{target} is not empty and was not baked; give another folder, or overwrite=True")


def _check_plain(model: SteeringModel) -> None:
    hf = _lm(model)
    if hasattr(hf, "peft_config"):
        raise UnsupportedError(
            f"{model.shape.name} is wrapped by PEFT, whose weights are not those of a checkpoint; "
            "use hf.merge_and_unload(), and wrap what it returns"
        )
    if getattr(hf, "is_quantized", False) or getattr(hf, "hf_quantizer", None) is not None:
        raise UnsupportedError(
            f"{model.shape.name} is quantised, and rewriting its weights would round them anew; bake an adapter "
            "(adapter=True), or load the model unquantised"
        )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found is not None and not (isinstance(found, torch.dtype) and found.is_floating_point and found.itemsize > 1):
        raise InterventionError(f"dtype={dtype!r}: use float32, bfloat16 or float16")
    if isinstance(dtype, str) and found is None:
        raise InterventionError(f"dtype={dtype!r}: use float32, bfloat16 or float16")
    return found


def _source(model: SteeringModel, folder: Path | None, spare: Path, changes: Rewrite) -> Source:
    """The checkpoint to read: that on disk if it holds all that is changed, else what is in memory, written out."""
    hf = _lm(model)
    if folder is not None:
        found = Source(folder, hf)
        if not found.lacking(_held(changes)):
            return found
    if any(parameter.is_meta for parameter in hf.parameters()):
        raise UnsupportedError(
            f"{model.shape.name} is offloaded, and the checkpoint it was loaded from is not at hand in safetensors; "
            "load it from a folder with model.safetensors or its shards"
        )
    hf.save_pretrained(spare, max_shard_size="2GB")
    found = Source(spare, hf)
    lacking = found.lacking(_held(changes))
    if lacking:
        raise UnsupportedError(
            f"{model.shape.name}: transformers stores {lacking[0]} in a form that is not understood; keep the plan as "
            "an edit: model.edit(plan).save_pretrained(...)"
        )
    return found


def _held(changes: Rewrite) -> list[str]:
    """The parameters that a source must hold: those changed, and those copied."""
    return [change.copy_of or name for name, change in changes.changes.items() if change.fill is None]


def _write_rest(model: SteeringModel, source: Source, changes: Rewrite, dtype: torch.dtype | None, to: Path) -> None:
    """Configuration, tokenizer, generation settings, and whatever else stood beside the weights."""
    for path in source.folder.iterdir():
        if path.is_file() and not path.name.endswith(_WEIGHTS) and path.name not in _OWN and path.name[0] != ".":
            shutil.copyfile(path, to / path.name)
    config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    text.update(changes.settings)
    for part in (config, text):
        part.update({"tie_word_embeddings": False} if changes.untied else {})
        if dtype is not None:
            part.pop("torch_dtype", None)
            part["dtype"] = str(dtype).removeprefix("torch.")
    (to / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    model.tokenizer.save_pretrained(to)
    settings = getattr(_lm(model), "generation_config", None)
    if settings is not None and not (to / "generation_config.json").is_file():
        settings.save_pretrained(to)


def _verified(
    model: SteeringModel,
    to: Path,
    expected: Reference,
    source: Source,
    changes: Rewrite,
    dtype: torch.dtype | None,
    tolerance: float | None,
    options: dict[str, Any],
) -> Verification:
    """Load the result as anybody would, and hold it to the reference."""
    own: dict[str, Any] = {"dtype": model.dtype, "local_files_only": True}
    if "device_map" not in options:
        own["device_map"] = "auto" if hasattr(_lm(model), "hf_device_map") else {"": model.device}
    baked = SteeringModel.from_pretrained(to, **(own | options))
    baked.hf.generation_config = _lm(model).generation_config
    kept = dtype or _coarsest(source, changes)
    return verify(baked, expected, kept, tolerance)


def _coarsest(source: Source, changes: Rewrite) -> torch.dtype:
    """The coarsest precision that a changed parameter is stored in."""
    found = {stored.dtype for stored in source.stored if stored.name in changes.changes}
    return max(found or {torch.float32}, key=lambda dtype: torch.finfo(dtype).eps)


def _report(
    model: SteeringModel, target: Path, to: Path, source: Source, changes: Rewrite, checked: Verification
) -> BakeReport:
    held = {stored.name for stored in source.stored}
    settings: dict[str, Any] = dict(changes.settings) | ({"tie_word_embeddings": False} if changes.untied else {})
    return BakeReport(
        folder=str(target),
        kind="checkpoint",
        base=model.shape.name,
        plan=model.plan.digest,
        changed=tuple(sorted(name for name in changes.changes if name in held)),
        added=tuple(sorted(name for name in changes.changes if name not in held)),
        settings=settings,
        verification=checked,
        files={path.name: path.stat().st_size for path in sorted(to.iterdir())},
    )


__all__ = ["bake", "check_bakeable"]
