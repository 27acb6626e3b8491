"""The reference engine: a plan as forward hooks on an ordinary model.

A run puts the hooks of one compiled plan on the modules it touches and takes them off again. Two kinds:

- a *call* (``generate``, ``logits``) knows its prompts, and acts in the thread that made it only, so that calls with
  different plans run side by side on one model;
- a *context* (``with model.steer(...)``) acts on every forward pass of the model, in whatever thread, that is not a
  call's.

Nothing of the model is replaced; when a run ends, also by an exception, no hook is left.
"""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache

from ...conditions import When
from ...errors import UnsupportedError
from ...plan import Plan
from ..architecture import Architecture
from .applied import Applied
from .boundary import Boundary, GuessedBoundary, KnownBoundary
from .program import Place, Program
from .rows import Chunk, FindMarker, Inputs, Row
from .step import Reuse, Step

#: torch numbers hooks from a counter that it does not lock: two threads at once could be given the same number, and
#: the hook of one would silently replace the other's.
_REGISTERING = threading.Lock()

#: Given the tensor at a tap: what is to stand there instead, or None to leave it.
Act = Callable[[Tensor], Tensor | None]


class Local(threading.local):
    """What one thread is doing: the call it is in, if any, and whether steering is suspended."""

    def __init__(self) -> None:
        self.call: Run | None = None
        self.suspended = False


class HookEngine:
    """Runs plans on one module tree."""

    def __init__(self, architecture: Architecture, find_marker: FindMarker) -> None:
        self.architecture = architecture
        self.find_marker = find_marker
        self.parameters = list(inspect.signature(architecture.decoder.forward).parameters)
        self.local = Local()
        #: what was proved of this model tree once and need not be again, by who proved it
        self.proved: dict[str, Any] = {}

    @contextmanager
    def call(self, plans: Sequence[Plan], rows: list[Row]) -> Generator[Run]:
        """Steer the forward passes that this thread makes inside, row ``i`` by ``plans[rows[i].plan]``.

        All that can be checked is checked before anything is hooked.
        """
        run = self.prepare(plans, rows)
        with self.inside(run):
            try:
                run.attach()
                yield run
            finally:
                run.detach()

    def prepare(self, plans: Sequence[Plan], rows: list[Row]) -> Run:
        """A checked run for these rows, not attached yet: for callers whose batch changes while it is under way."""
        program = Program([plan.actions(self.architecture.shape) for plan in plans])
        program.check(rows)
        return Run(self, plans, program, KnownBoundary(rows))

    @contextmanager
    def inside(self, run: Run) -> Generator[None]:
        """The forward passes that this thread makes inside are those of an attached run."""
        previous, self.local.call = self.local.call, run
        try:
            yield
        finally:
            self.local.call = previous

    def check(self, plans: Sequence[Plan], rows: list[Row], new_tokens: int) -> None:
        """Raise what a generation of ``new_tokens`` under these plans would raise before its first forward pass."""
        program = Program([plan.actions(self.architecture.shape) for plan in plans])
        program.check(rows)
        program.check_generation(rows, new_tokens)

    def context(
        self,
        plan: Plan,
        boundary: GuessedBoundary,
        prompt_length: int | Sequence[int] | None,
        applied: Sequence[Applied],
    ) -> Run:
        """A run that steers every forward pass outside calls, from its ``attach()`` to its ``detach()``."""
        program = Program([plan.actions(self.architecture.shape)])
        boundary.prompt_length, boundary.needed = prompt_length, program.needs_boundary
        return Run(self, [plan], program, boundary, applied)

    @contextmanager
    def suspended(self) -> Generator[None]:
        """Forward passes of this thread inside run unsteered."""
        before, self.local.suspended = self.local.suspended, True
        try:
            yield
        finally:
            self.local.suspended = before


class Run:
    """One plan on one model, for as long as its hooks are attached."""

    def __init__(
        self,
        engine: HookEngine,
        plans: Sequence[Plan],
        program: Program,
        boundary: Boundary,
        applied: Sequence[Applied] = (),
    ) -> None:
        self.engine = engine
        self.plans = plans
        self.program = program
        self.boundary = boundary
        self._handles: list[RemovableHandle] = []
        self._steps = threading.local()
        self._applied = applied

    # -- hooks --------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Put the hooks on."""
        decoder = self.engine.architecture.decoder
        if not self.program.sites and not self.program.conditions:
            return
        with _REGISTERING:
            self._handles = [
                decoder.register_forward_pre_hook(self._enter, with_kwargs=True),
                decoder.register_forward_hook(self._leave),
                *(self._attach_first(place, act) for place, act in self._acts()),
            ]

    def _attach_first(self, place: Place, act: Act) -> RemovableHandle:
        """Hook a site before the hooks that are there already: whoever reads activations by hooks of their own (as
        ``output_hidden_states`` does) sees them steered, whenever those were registered.
        """
        tap = self.engine.architecture.tap(*place)
        handle = tap.attach(act)
        kind = "_forward_pre_hooks" if tap.side == "input" else "_forward_hooks"
        hooks: OrderedDict[int, Any] = vars(tap.module)[kind]
        hooks.move_to_end(handle.id, last=False)
        return handle

    def detach(self) -> None:
        """Take them off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._steps.__dict__.clear()

    def _acts(self) -> Iterator[tuple[Place, Act]]:
        """What to do at each place: one hook for each."""
        read: dict[Place, list[When]] = {}
        for when in self.program.conditions:
            read.setdefault(("resid_post", when.layer), []).append(when)
        for place in sorted({*self.program.sites, *read}):
            yield place, self._act(place, self.engine.architecture.tap(*place).scale, read.get(place, []))

    def _act(self, place: Place, scale: float, conditions: list[When]) -> Act:
        def act(found: Tensor) -> Tensor | None:
            step = self.step
            if step is None:
                return None
            for when in conditions if not self.program.clean_first else ():
                self.program.decide(when, found, step.rows, step.chunks)
            site = self.program.sites.get(place)
            return None if site is None else site.act(found, step, scale)

        return act

    @property
    def step(self) -> Step | None:
        """The forward pass this thread is in, if this run steers it."""
        return getattr(self._steps, "step", None)

    # -- the beginning and end of a forward pass ------------------------------------------------------------------

    def _steers_this_thread(self) -> bool:
        local = self.engine.local
        if local.suspended:
            return False
        return local.call is self if isinstance(self.boundary, KnownBoundary) else local.call is None

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        if getattr(self._steps, "by_hand", False):
            return
        self._steps.step = None
        # Without keyword arguments, another thread is just registering or removing this hook, which is none of ours.
        if kwargs is None or not self._steers_this_thread():
            return
        if torch.compiler.is_compiling():
            raise UnsupportedError("a steered model cannot be compiled by torch.compile; pass disable_compile=True")
        if torch.is_grad_enabled() and module.training and _recomputes(self.engine.architecture.hf):
            raise UnsupportedError(
                "gradient checkpointing runs the blocks again, unsteered, when gradients are computed; call "
                "gradient_checkpointing_disable() on the model first"
            )
        guessed = isinstance(self.boundary, GuessedBoundary)
        if guessed and torch.is_grad_enabled() and any(plan.requires_grad for plan in self.plans):
            self.program = Program([plan.actions(self.engine.architecture.shape) for plan in self.plans])
        inputs = Inputs.of(self.engine.parameters, args, kwargs)
        rows, chunks, fresh = self.boundary.enter(inputs)
        if fresh and guessed:
            self.program.check(rows)
        if fresh and self.program.conditions:
            self._read_conditions(module, args, kwargs, rows, chunks)
        tensor = inputs.ids if inputs.ids is not None else inputs.embeddings
        assert tensor is not None
        self._steps.step = step = Step(rows, chunks, inputs.shape[1], tensor.device, self._reuse)
        for applied in self._applied:
            applied.note(step, inputs.cache is not None)

    @contextmanager
    def by_hand(self, rows: list[Row], chunks: list[Chunk], columns: int, device: torch.device) -> Generator[Step]:
        """Take what this thread runs inside for one pass over these tokens, whatever shape the model sees them in.

        For callers that run the blocks without the decoder, or lay several rows out in one line. Conditions have to be
        decided already, in the ``gates`` of the rows.
        """
        before, self._steps.step = self.step, Step(rows, chunks, columns, device, self._reuse)
        self._steps.by_hand = True
        try:
            yield self._steps.step
        finally:
            self._steps.step, self._steps.by_hand = before, False

    @property
    def _reuse(self) -> Reuse:
        """The index tensors this thread used last."""
        if not hasattr(self._steps, "reuse"):
            self._steps.reuse = Reuse()
        return self._steps.reuse

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if getattr(self._steps, "by_hand", False):
            return
        step, self._steps.step = self.step, None
        if step is None:
            return
        self.boundary.leave(_cache_of(output))

    # -- conditions -----------------------------------------------------------------------------------------------

    def _read_conditions(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], rows: list[Row], chunks: list[Chunk]
    ) -> None:
        """Make sure that conditions are read on the prompt as it is without this plan."""
        partial = any(chunk.stop < row.prompt_length for row, chunk in zip(rows, chunks, strict=True))
        if partial:
            raise UnsupportedError(
                "a plan with a condition reads the whole prompt first, but it is being fed in chunks; unset "
                "prefill_chunk_size"
            )
        if not self.program.clean_first:
            return
        given = dict(zip(self.engine.parameters, args, strict=False)) | kwargs
        given |= {"past_key_values": None, "use_cache": False}
        if given.get("attention_mask") is not None:  # static caches come with a mask of their own length
            tensor = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
            given["attention_mask"] = _mask_of(chunks, tensor)
        tap = self.engine.architecture.tap
        with _REGISTERING:
            handles = [
                tap("resid_post", when.layer).attach(self._reader(when, rows, chunks))
                for when in self.program.conditions
            ]
        try:
            with self.engine.suspended():
                module(**given)
        finally:
            for handle in handles:
                handle.remove()

    def _reader(self, when: When, rows: list[Row], chunks: list[Chunk]) -> Act:
        me = threading.get_ident()

        def act(found: Tensor) -> None:
            if threading.get_ident() == me:
                self.program.decide(when, found, rows, chunks)

        return act


def _cache_of(output: Any) -> Any:
    """The cache that a decoder returned, also in a plain tuple (``return_dict=False``)."""
    if isinstance(output, tuple):
        return next((item for item in cast("tuple[Any, ...]", output) if isinstance(item, Cache)), None)
    return getattr(output, "past_key_values", None)


def _mask_of(chunks: list[Chunk], like: Tensor) -> Tensor:
    """The attention mask ``[rows, columns]`` of a prompt: ones where the chunks have their tokens."""
    mask = torch.zeros(like.shape[:2], dtype=torch.long)
    for number, chunk in enumerate(chunks):
        mask[number, list(chunk.columns)] = 1
    return mask.to(like.device)


def _recomputes(hf: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in hf.modules())
