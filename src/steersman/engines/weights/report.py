"""What a bake did, as data, as words, and as the card of the folder it wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ... import installed
from ...entries import entry_parts
from ...files import hub
from ...plan import Plan
from .verification import Verification

REPORT_FILE = "steersman_bake.json"
_PACKAGES = ("torch", "transformers", "safetensors", "peft")


@dataclass(frozen=True)
class BakeReport:
    """What :func:`bake` did.

    Attributes:
        folder: where it is.
        kind: ``"checkpoint"`` or ``"adapter"``.
        base: what the weights were loaded from.
        plan: the digest of the plan.
        changed: names of the parameters that were rewritten.
        added: names of new parameters: biases, an output matrix of its own.
        settings: options of the configuration that were set.
        verification: what the comparison with the hook engine found.
        files: names and sizes in bytes of what was written.
    """

    folder: str
    kind: Literal["checkpoint", "adapter"]
    base: str
    plan: str
    changed: tuple[str, ...]
    added: tuple[str, ...]
    settings: dict[str, Any]
    verification: Verification
    files: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """The same as values."""
        return {
            "folder": self.folder,
            "kind": self.kind,
            "base": self.base,
            "plan": self.plan,
            "changed": list(self.changed),
            "added": list(self.added),
            "settings": self.settings,
            "verification": self.verification.as_json(),
            "files": self.files,
        }

    def __str__(self) -> str:
        new = f", {len(self.added)} added" if self.added else ""
        return (
            f"{self.kind} in {self.folder}: {len(self.changed)} parameters rewritten{new}\n"
            f"verified against the hooks: {self.verification}"
        )


def versions() -> dict[str, str]:
    """Of Python, this package and what it runs on."""
    return installed.versions(_PACKAGES)


def write_documents(folder: Path, report: BakeReport, plan: Plan, revision: str | None) -> None:
    """The report and the model card, in the folder itself."""
    document = {
        "format_version": 1,
        **report.as_json(),
        "folder": None,  # it may be moved
        "revision": revision,
        "spec": plan.spec(),
        "entries": _hashes(plan),
        "versions": versions(),
    }
    (folder / REPORT_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(report, plan, revision), encoding="utf-8")


def _hashes(plan: Plan) -> dict[str, str]:
    """For each named vector or tensor of a plan: the SHA-256 of its tensors, and their names and shapes."""
    import hashlib

    found: dict[str, str] = {}
    for name, entry in plan.entries().items():
        hasher = hashlib.sha256()
        for leaf, tensor in entry_parts(entry)[0].items():
            hasher.update(f"{leaf}/{tuple(tensor.shape)}".encode())
            hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        found[name] = hasher.hexdigest()
    return found


def _card(report: BakeReport, plan: Plan, revision: str | None) -> str:
    checked = report.verification
    facts: list[tuple[str, object]] = [
        ("base", report.base),
        ("revision", revision),
        ("plan", f"`{report.plan}`"),
        *(
            (item.label, f"`{json.dumps(written)}`")
            for item, written in zip(plan, plan.spec()["interventions"], strict=True)
        ),
        *((f"SHA-256 of {name}", f"`{digest}`") for name, digest in _hashes(plan).items()),
        ("parameters rewritten", len(report.changed)),
        ("parameters added", len(report.added) or None),
        ("configuration", f"`{json.dumps(report.settings)}`" if report.settings else None),
        ("verified on", f"{checked.prompts} prompts, {checked.tokens} tokens, in {checked.dtype}"),
        ("largest difference of a logit from the hooks", f"{checked.max_dlogit:.2g}"),
        ("largest change of a logit by the plan", f"{checked.effect:.3g}"),
        (
            "greedy tokens equal",
            f"{checked.greedy}" + (f" ({checked.near_ties} near ties)" if checked.near_ties else ""),
        ),
        *((f"version of {name}", number) for name, number in versions().items()),
    ]
    usage = _ADAPTER.format(base=report.base) if report.kind == "adapter" else _CHECKPOINT
    about = (
        "An adapter for PEFT: load it on its base and it does what the plan below does by hooks."
        if report.kind == "adapter"
        else "An ordinary checkpoint, with no code of its own: the plan below is in its weights."
    )
    base = report.base if report.kind == "checkpoint" or "/" in report.base else None
    return hub.card(f"{Path(report.base).name}, edited", base, facts, usage, about=about, library=_LIBRARY[report.kind])


_LIBRARY = {"checkpoint": "transformers", "adapter": "peft"}
_CHECKPOINT = """
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
"""
_ADAPTER = """
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(model, "path/to/this/folder")
"""
