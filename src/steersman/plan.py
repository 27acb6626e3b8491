"""A plan: interventions in the order they are applied. Plain data; any engine may run it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from . import spec
from .entries import entry_from, entry_parts
from .errors import FileFormatError, InterventionError
from .files import container, hub
from .folding import fold
from .operations import Action, Intervention
from .shape import ModelShape
from .vector import SteeringVector

PLAN_FILE = "plan.safetensors"


@dataclass(frozen=True, eq=False)
class Plan:
    """An ordered list of interventions: ``Plan([Add(happy, 1.5, layers=10), Ablate(formal[5])])``.

    Plans are equal when their interventions are, parameters and tensors alike; ``a + b`` applies a, then b;
    :attr:`digest` is a SHA-256 that names the plan.

    Attributes:
        interventions: in order.
        evidence: why this plan, where a search has chosen it: JSON values, kept in its file. No part of what the plan
            is: plans with and without are equal, and a sum of plans has none.
    """

    interventions: tuple[Intervention, ...]
    evidence: Mapping[str, Any] | None

    def __init__(
        self, interventions: Intervention | Iterable[Intervention] = (), evidence: Mapping[str, Any] | None = None
    ) -> None:
        given: object = interventions
        several = isinstance(given, Iterable) and not isinstance(given, SteeringVector | Tensor | str)
        items: tuple[Any, ...] = tuple(given) if several else (given,)  # pyright: ignore[reportArgumentType]
        for item in items:
            if not isinstance(item, Intervention):
                raise InterventionError(
                    f"a plan holds interventions such as Add(vector, layers=10), got {type(item).__name__}"
                )
        if not isinstance(evidence, Mapping | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InterventionError(
                f"the evidence of a plan is a mapping of JSON values, got {type(evidence).__name__}"
            )
        object.__setattr__(self, "interventions", items)
        object.__setattr__(self, "evidence", container.as_stored(evidence, "the evidence of a plan"))

    @classmethod
    def of(cls, value: PlanLike) -> Plan:
        """What users pass as ``steer=``: a plan, an intervention, a list of them, or None for no plan."""
        if isinstance(value, Plan):
            return value
        return cls() if value is None else cls(value)

    def __add__(self, other: PlanLike) -> Plan:
        return Plan((*self.interventions, *Plan.of(other).interventions))

    def __radd__(self, other: PlanLike) -> Plan:
        return Plan.of(other) + self

    def __iter__(self) -> Iterator[Intervention]:
        return iter(self.interventions)

    def __len__(self) -> int:
        return len(self.interventions)

    def __getitem__(self, index: int) -> Intervention:
        return self.interventions[index]

    def __bool__(self) -> bool:
        return bool(self.interventions)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Plan) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Plan([{', '.join(item.label for item in self.interventions)}])"

    @property
    def digest(self) -> str:
        """SHA-256 over the interventions, in order; hex."""
        return hashlib.sha256("\n".join(item.digest() for item in self.interventions).encode()).hexdigest()

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are wanted with respect to any tensor of it."""
        return any(item.requires_grad for item in self.interventions)

    def actions(self, shape: ModelShape) -> list[Action]:
        """The single steps on a model of this shape, in order. Checks everything the plan needs of the model.

        Raises:
            MismatchError, SiteUnavailableError: when it does not fit, before anything runs.
        """
        return [action for item in self.interventions for action in item.actions(shape)]

    # -- as data --------------------------------------------------------------------------------------------------

    def spec(self) -> dict[str, Any]:
        """The JSON form of this plan, over named vectors; see :mod:`steersman.spec`."""
        return spec.write(self)[0]

    def entries(self) -> dict[str, Any]:
        """What the names in :meth:`spec` stand for: vectors, tensors, values, erasers."""
        return spec.write(self)[1]

    @classmethod
    def from_spec(cls, document: Mapping[str, Any] | str, vectors: Mapping[str, Any]) -> Plan:
        """A plan from its JSON form (a mapping, or JSON text) and the vectors it names.

        Raises:
            SpecError: unknown keys, values out of place, or a name that is not among ``vectors``.
        """
        return cls(spec.read(document, vectors))

    def save(self, path: str | Path) -> str:
        """Write one safetensors file (tensors and JSON), atomically; returns its path.

        A plan that only adds to ``resid_post`` at positions ``all``, without condition or schedule, can also be written
        as a ``.gguf`` control vector for llama.cpp, strengths multiplied in.

        Raises:
            UnsupportedError: when it holds a function, or for ``.gguf`` anything that llama.cpp could not do.
        """
        if Path(path).suffix == ".gguf":
            return fold(self.interventions).save(path)
        document, entries = spec.write(self)
        tensors: dict[str, Tensor] = {}
        described: dict[str, Any] = {}
        for number, (name, entry) in enumerate(entries.items()):
            own, described[name] = entry_parts(entry)
            tensors |= {f"{number}.{leaf}": tensor for leaf, tensor in own.items()}
        whole: dict[str, Any] = {"spec": document, "entries": list(described.items())}
        if self.evidence is not None:
            whole["evidence"] = self.evidence
        return container.write(path, "plan", tensors, whole)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a file written by :meth:`save`.

        Raises:
            FileFormatError, SpecError: it is truncated, hostile, of a newer format, or no plan.
        """
        tensors, document = container.read(path, "plan")
        try:
            described, written = list(document["entries"]), document["spec"]
            grouped: list[dict[str, Tensor]] = [{} for _ in described]
            for key, tensor in tensors.items():
                number, _, leaf = key.partition(".")
                grouped[_index(number)][leaf] = tensor
            vectors = {name: entry_from(own, facts) for own, (name, facts) in zip(grouped, described, strict=True)}
            if len(vectors) < len(described):
                raise ValueError("two entries have the same name")
            evidence = document.get("evidence")
            if not isinstance(evidence, dict | None):
                raise ValueError("its evidence is no object")
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise FileFormatError(f"{path} is no plan: {error}") from error
        return cls(spec.read(written, vectors), evidence)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload to the Hugging Face hub with a model card; returns the commit's URL.

        Options: ``private``, ``token``, ``commit_message``, ``revision``.
        """
        document, entries = spec.write(self)
        facts = [
            (item.label, f"`{json.dumps(written)}`")
            for item, written in zip(self, document["interventions"], strict=True)
        ]
        origins = {entry.origin.model for entry in entries.values() if getattr(entry, "origin", None)}
        base = origins.pop() if len(origins) == 1 else None
        usage = f"""
import steersman as sm

model = sm.SteeringModel.from_pretrained("{base or "..."}")
plan = sm.Plan.from_pretrained("{repo_id}")
print(model.generate("I think", steer=plan))
"""
        return hub.push(
            repo_id, PLAN_FILE, self.save, hub.card(repo_id.rpartition("/")[2], base, facts, usage), **options
        )

    @classmethod
    def from_pretrained(cls, repo_or_path: str, **options: Any) -> Plan:
        """Load from a hub repository, a local folder, or a file. Options: ``revision``, ``token``, ``cache_dir``."""
        return cls.load(hub.locate(repo_or_path, PLAN_FILE, **options))


def _index(number: str) -> int:
    if not number.isdecimal():
        raise ValueError(f"a tensor belongs to no entry: {number!r}")
    return int(number)


PlanLike = Plan | Intervention | Iterable[Intervention] | None
