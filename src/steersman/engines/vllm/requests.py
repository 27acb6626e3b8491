"""From what a request carries to what the engine does, in the front end, before anything is scheduled.

A request carries a spec: ``extra_args={"steersman": {...}}``, the same as JSON text, or the flat keys
``steersman_vector`` and so on. It leaves the front end as a plan over digests and resolved positions; the workers need
nothing else, and what reaches them cannot fail.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from ... import spec
from ...applied import told
from ...errors import BoundaryError, SpecError, UnsupportedError
from ...operations import Intervention
from ...plan import Plan, PlanLike
from ...positions import ENDLESS, MarkerEnd
from ...registry import Registry
from ...shape import ModelShape
from ...spec import NAMING
from .blocks import program_keys
from .packing import Packed, pack
from .reading import READ, Reading
from .segments import Steering, resolve
from .settings import CONDITIONS, KEY
from .tables import Capacity

_REMEMBERED = 512


@dataclass(frozen=True, eq=False)
class Compiled:
    """A plan over digests, for one model.

    Attributes:
        key: SHA-256 over the plan and all that it names.
        spec: the plan, its names replaced by digests; JSON-able.
        packed: its normal form.
    """

    key: str
    spec: Mapping[str, Any]
    packed: Packed


class Compiler:
    """Compiles specs, and remembers what it compiled. Front end and workers each have one, and find the same."""

    def __init__(self, registry: Registry | None, shape: ModelShape) -> None:
        self.registry = registry
        self.shape = shape
        self._known: OrderedDict[str, Compiled] = OrderedDict()
        self._lasting: OrderedDict[str, Compiled] = OrderedDict()  # by texts that mean the same for ever

    def read(self, document: Mapping[str, Any] | str) -> Compiled:
        """A spec as a request carries it, in the engine's form.

        Raises:
            SteersmanError: it does not follow the schema, names what there is not, makes no sense, does not fit the
                model, or cannot be carried out by this engine.
        """
        text = document if isinstance(document, str) else ""
        if text in self._lasting:
            self._lasting.move_to_end(text)
            return self._lasting[text]
        pinned, lasting = self._pinned(document)
        compiled = self.compile(pinned)
        if text and lasting:
            _remember(self._lasting, text, compiled)
        return compiled

    def _pinned(self, document: Mapping[str, Any] | str) -> tuple[dict[str, Any], bool]:
        """A spec with every name replaced by the digest of what it stands for now; and whether all were digests."""
        items: list[dict[str, Any]] = []
        lasting = True
        for number, item in enumerate(spec.validate(document).interventions):
            given = item.model_dump(mode="json", exclude_unset=True, exclude_none=True)
            for holder in (given, given.get("when") or {}):
                for role in NAMING:
                    if role in holder:
                        digest = self._digest(holder[role], f"interventions.{number}")
                        lasting = lasting and digest == holder[role]
                        holder[role] = digest
            items.append(given)
        return {"interventions": items}, lasting

    def _digest(self, name: str, where: str) -> str:
        if self.registry is None:
            raise SpecError(
                f"{where}: no vector named {name!r}: this engine has no folder of vectors; start it with "
                "STEERSMAN_VECTORS=<folder>"
            )
        try:
            return self.registry.digest(name)
        except SpecError as error:
            raise type(error)(f"{where}: {error}") from None

    def compile(self, pinned: Mapping[str, Any], key: str | None = None) -> Compiled:
        """A spec over digests in the engine's form.

        Args:
            key: what another compiler found as its key.

        Raises:
            SteersmanError: it makes no sense, does not fit the model, or cannot be carried out by this engine.
        """
        if key is None:
            key = hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()
        if key not in self._known:
            plan = Plan.from_spec(pinned, self.registry if self.registry is not None else {})
            _remember(self._known, key, Compiled(key, pinned, pack(plan.actions(self.shape))))
        self._known.move_to_end(key)
        return self._known[key]


def _remember(known: OrderedDict[str, Compiled], key: str, compiled: Compiled) -> None:
    known[key] = compiled
    while len(known) > _REMEMBERED:
        known.popitem(last=False)


def spec_in(extra: Mapping[str, Any] | None) -> Mapping[str, Any] | str | None:
    """The spec that a request's extra arguments carry, or None.

    Raises:
        SpecError: both forms at once, an unknown flat key, or something that is no spec.
    """
    flat = {key: value for key, value in (extra or {}).items() if key.startswith(f"{KEY}_")}
    whole = (extra or {}).get(KEY)
    if whole is not None and flat:
        raise SpecError(f"give {KEY!r} or the flat keys {', '.join(sorted(flat))}, not both")
    if flat:
        return spec.from_flat_keys(flat)
    if whole is not None and not isinstance(whole, str | Mapping):
        raise SpecError(f"{KEY!r} must be a spec, as an object or as JSON text, got {type(whole).__name__}")
    return cast("Mapping[str, Any] | str | None", whole)


def carried(plan: PlanLike, registry: Registry) -> dict[str, Any] | None:
    """A plan as a request carries it: its entries are stored in a registry, and named by their digests.

    Raises:
        UnsupportedError: it holds a function.
    """
    items = [item for item in Plan.of(plan) if not item.dropped]
    if not items:
        return None
    document, entries = spec.write(items)
    digests = {name: registry.store(entry) for name, entry in entries.items()}
    for item in document["interventions"]:
        for holder in (item, item.get("when") or {}):
            holder.update({key: digests[holder[key]] for key in NAMING if holder.get(key) in digests})
    return document


@dataclass(frozen=True, eq=False)
class Resolved:
    """What a request leaves the front end with.

    Attributes:
        plan: key of the plan.
        spec: the pinned spec, from which a worker compiles it.
        steering: which tokens are steered by which program.
    """

    plan: str
    spec: Mapping[str, Any]
    steering: Steering

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """A name for what each program does."""
        return program_keys(self.plan, self.steering.programs)

    def plain(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {"resolved": self.plan, "spec": self.spec, **self.steering.plain()}

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any] | None) -> Resolved | None:
        """From a request's extra arguments; None if it is not steered.

        Raises:
            SpecError: it is to be steered, but did not pass through the front end.
        """
        if spec_in(extra) is None:
            return None
        document = (extra or {}).get(KEY)
        if not isinstance(document, Mapping) or "resolved" not in document:
            raise SpecError(
                "a request that is to be steered was added to the engine without passing through its front end, where "
                "steering is checked; add it through LLM, AsyncLLM or the server"
            )
        found = cast("dict[str, Any]", document)
        return cls(found["resolved"], found["spec"], Steering.from_plain(found))


class FrontEnd:
    """Resolves requests, and refuses what the engine cannot do.

    Args:
        registry: the vectors, or None.
        shape: the model.
        capacity, rows: what the engine has room for; ``rows`` is what one request may use.
        programs: how many programs one request may have.
        reads: whether activations can be read out.
        conditions: whether conditions can be decided: not where the layers are spread over processes, which would have
            to tell each other.
        exact_generation: whether it is known at every step how many tokens were generated; with speculative decoding,
            only afterwards.
    """

    def __init__(
        self,
        registry: Registry | None,
        shape: ModelShape,
        capacity: Capacity,
        rows: int,
        programs: int,
        reads: bool = False,
        conditions: bool = True,
        exact_generation: bool = True,
    ) -> None:
        self.compiler = Compiler(registry, shape)
        self.capacity = capacity
        self.rows = rows
        self.programs = programs
        self.reads = reads
        self.conditions = conditions
        self.exact_generation = exact_generation

    def resolve(
        self,
        extra: Mapping[str, Any] | None,
        prompt_length: int,
        new_tokens: int,
        prompt: Sequence[int] | None,
        marker_end: MarkerEnd | None,
    ) -> Resolved | None:
        """What a request is steered by, or None if it carries nothing or does nothing.

        Raises:
            SteersmanError: with what is wrong and how to put it right.
        """
        document = spec_in(extra)
        if document is None:
            return None
        compiled = self.compiler.read(document)
        self._check_room(compiled.packed)
        steering = resolve(compiled.packed, prompt_length, new_tokens, prompt, marker_end if marker_end else _no_text)
        self._check_programs(steering, prompt_length)
        if not steering.segments:
            return None
        return Resolved(compiled.key, compiled.spec, steering)

    def told(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """What a spec comes to: ``digest`` of the plan, ``spec`` with digests in place of names, and ``interventions``.

        Raises:
            SteersmanError: as :meth:`resolve`, but for what depends on the prompt.
        """
        compiled = self.compiler.read(document)
        self._check_room(compiled.packed)
        registry = self.compiler.registry or {}
        interventions: list[Intervention] = []
        found: list[dict[str, Any]] = []
        for said, item in zip(spec.validate(document).interventions, compiled.spec["interventions"], strict=True):
            built = spec.read({"interventions": [item]}, registry)
            interventions += built
            actions = [action for one in built for action in one.actions(self.compiler.shape)]
            digest = next((item[role] for role in NAMING if role in item), None)
            given = said.model_dump(mode="json", exclude_unset=True, exclude_none=True)
            found.append(told(given, actions, digest) | {"conditional": bool(item.get("when"))})
        return {"digest": Plan(interventions).digest, "spec": compiled.spec, "interventions": found}

    def reading(self, extra: Mapping[str, Any] | None, prompt_length: int) -> Reading | None:
        """What is to be read of a request, or None.

        Raises:
            SteersmanError: this engine reads nothing, or the prompt has no such tokens.
        """
        found = Reading.from_extra(extra)
        if found is None:
            return None
        if not self.reads:
            raise UnsupportedError(
                f"this engine was not started to read activations, so {READ!r} cannot be carried out; start it with "
                "the setting 'capture', or use runner=\"vllm\""
            )
        found.check(prompt_length)
        return found

    def _check_room(self, packed: Packed) -> None:
        if packed.rank > self.capacity.rank:
            raise UnsupportedError(
                f"this plan needs {packed.rank} terms at one site, and this engine has room for {self.capacity.rank}; "
                f"start it with STEERSMAN_RANK={packed.rank}"
            )
        if packed.conditions and not self.conditions:
            raise UnsupportedError(
                "conditions cannot be decided under pipeline parallelism, where other processes run the layers above; "
                "use tensor parallelism, or the hook engine"
            )
        if len(packed.conditions) > CONDITIONS:
            raise UnsupportedError(
                f"this plan has {len(packed.conditions)} conditions, and a request may have {CONDITIONS}"
            )
        if len(packed.rows) > self.rows:
            raise UnsupportedError(
                f"this plan uses {len(packed.rows)} different vectors over its layers, and this engine has room for "
                f"{self.rows} in each request; start it with STEERSMAN_ROWS={len(packed.rows)}"
            )

    def _check_programs(self, steering: Steering, prompt_length: int) -> None:
        if len(steering.programs) > self.programs:
            raise UnsupportedError(
                f"this plan steers runs of tokens in {len(steering.programs)} different ways, and this engine has room "
                f"for {self.programs} in each request; start it with STEERSMAN_PROGRAMS={len(steering.programs)}"
            )
        edges = {edge for segment in steering.segments for edge in segment[:2]}
        if not self.exact_generation and any(prompt_length < edge < ENDLESS for edge in edges):
            raise UnsupportedError(
                "with speculative decoding it is not known in advance which generated token a draft will be, so only "
                'positions that treat all generated tokens alike can be steered, such as "last+generation"'
            )


def _no_text(marker: str) -> int | None:
    raise BoundaryError(
        f"after({marker!r}) looks for text, but this request has no token ids or the engine no tokenizer; name indices"
    )
