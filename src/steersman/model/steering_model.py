"""A Hugging Face decoder that can be steered. It wraps the model; nothing in it is replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..errors import PromptError
from ..plan import Plan, PlanLike
from ..shape import ModelShape
from . import generating
from .architecture import find_architecture
from .calls import Call, Steer, prepare, prepare_tokens
from .editing import Edit, remaining, second_tree
from .hooks import Applied, Context, Contexts, HeldTree, HookEngine, Row
from .tokens import Batch, Prompts, Tokens

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SteeringModel:
    """A decoder and its tokenizer, ready to be steered.

    Attributes:
        n_layers, d_model, n_heads: of the model.
        shape: these and more, as plans are checked against.
        architecture: where its parts are.
        plan: the interventions that always act, of an edited model; empty otherwise.
        edits: the same as what each :meth:`edit` added, in order.

    Args:
        hf_model: a causal language model of transformers: plain, dispatched, quantised or wrapped by PEFT.
        tokenizer: its tokenizer; it is never changed.
        name: what messages call it; by default the path or hub id it was loaded from.

    Raises:
        ArchitectureError: when its parts cannot be found, or fail the proof that they are the right ones.
    """

    def __init__(
        self, hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str | None = None
    ) -> None:
        self.architecture = find_architecture(hf_model, name=name)
        self.tokenizer = tokenizer
        self.tokens = Tokens(tokenizer)
        self.plan = Plan()
        self.edits: tuple[Edit, ...] = ()
        self._base: SteeringModel | None = None
        self._hf: Any = hf_model
        self._engine = HookEngine(self.architecture, self.tokens.find_marker)
        self._contexts = Contexts()
        self._held: HeldTree | None = HeldTree(self._engine)
        self._making_tree = threading.Lock()

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> SteeringModel:
        """Load a model and its tokenizer from the hub or a folder; ``"demo"`` is the embedded model.

        A folder written by :meth:`save_pretrained` of an edited model gives the edited model again.

        Args:
            name_or_path: hub id or folder.
            options: passed to ``AutoModelForCausalLM.from_pretrained`` (``dtype="auto"``, ``device_map="auto"``,
                ``quantization_config=...``); ``revision``, ``token``, ``cache_dir`` and ``trust_remote_code`` also to
                the tokenizer.
        """
        from .loading import load

        return load(cls, str(name_or_path), options)

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def shape(self) -> ModelShape:
        """Its dimensions and the sites it lacks."""
        return self.architecture.shape

    @property
    def n_layers(self) -> int:
        """Decoder blocks."""
        return self.shape.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.shape.d_model

    @property
    def n_heads(self) -> int:
        """Attention heads per layer (query heads)."""
        return self.shape.n_heads

    @property
    def device(self) -> torch.device:
        """Where its input goes."""
        embedding = self.architecture.embedding
        offloaded = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)  # else its weights tell
        if offloaded is not None:
            return torch.device("cuda", offloaded) if isinstance(offloaded, int) else torch.device(offloaded)
        return next(embedding.parameters()).device

    @property
    def hf(self) -> Any:
        """The Hugging Face model: the one given; of an edited model, a module tree of its own over the same parameters.

        Raises:
            UnsupportedError: of an edited model whose base is dispatched or quantised: it cannot have a second tree.
        """
        if not self.plan:
            return self._hf
        with self._making_tree:
            if self._held is None:
                engine = HookEngine(find_architecture(second_tree(self.architecture)), self.tokens.find_marker)
                held = HeldTree(engine, self.plan)
                held.hold(self._contexts)
                self._held = held
        return self._held.engine.architecture.hf

    @property
    def base(self) -> SteeringModel:
        """The model that an edited one was made from, without any edit; an unedited model itself."""
        return self if self._base is None else self._base

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its activations."""
        return cast(torch.dtype, self._hf.dtype)

    @property
    def engine(self) -> HookEngine:
        """The reference engine on this model, for those who call its blocks themselves."""
        return self._engine

    @property
    def always(self) -> Plan:
        """What acts on every call made now: its edits, then the contexts entered."""
        return self.plan + self._contexts.plan

    def __repr__(self) -> str:
        edited = f", {len(self.plan)} edits" if self.plan else ""
        return f"SteeringModel({self.shape.name}, {self.n_layers} layers, width {self.d_model}{edited})"

    # -- running it ---------------------------------------------------------------------------------------------

    def logits(
        self,
        prompts: Prompts,
        *,
        steer: Steer = None,
        continuation: str | Sequence[str] | None = None,
        grad: bool = False,
    ) -> Tensor:
        """One forward pass.

        Args:
            prompts: a string, a chat, or a list of either.
            steer: a plan for all prompts, or a list with one (or None) for each.
            continuation: text after each prompt (one, or one for each) that counts as generated.
            grad: keep the graph, for derivatives with respect to parameters or to the tensors of the plan.

        Returns:
            ``[batch, seq, vocab]``; rows are left-padded, so ``[:, -1]`` is the last token of each.

        Raises:
            PromptError, MismatchError, NotAppliedError: before the forward pass.
        """
        with torch.set_grad_enabled(grad):
            with torch.inference_mode(not grad):
                found = self._logits(prepare(self, prompts, steer, continuation))
            return found if grad else found.clone()

    def token_logits(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]] | None = None,
        *,
        steer: Steer = None,
        keep: int | None = None,
    ) -> Tensor:
        """One forward pass over token ids, for those who score texts.

        Args:
            prompts: the token ids of each row, special tokens included.
            continuations: token ids that follow each prompt and count as generated; some may be empty.
            steer: a plan for all rows, or a list with one (or None) for each.
            keep: how many of the last columns to compute logits for; all unless given.

        Returns:
            ``[batch, keep, vocab]``; rows are left-padded, so the last columns are the last tokens of each row.

        Raises:
            PromptError, MismatchError, NotAppliedError: before the forward pass.
        """
        with torch.inference_mode():
            return self._logits(prepare_tokens(self, prompts, steer, continuations), keep).clone()

    def _logits(self, call: Call, keep: int | None = None) -> Tensor:
        arguments = self.forward_arguments(call.batch)
        if keep is not None and self.architecture.keeps_logits:
            arguments["logits_to_keep"] = keep
        with self._engine.call(call.plans, call.rows) as run:
            run.program.check_length(call.rows, call.batch.lengths)
            found: Tensor = self._hf(**arguments, use_cache=False).logits
        return found if keep is None else found[:, -keep:]

    def generate(self, prompts: Prompts, *, steer: Steer = None, **settings: Any) -> Any:
        """Generate text; greedy unless asked.

        Args:
            prompts: a string, a chat, or a list of either.
            steer: a plan for all prompts, or a list with one (or None) for each.
            settings: ``max_new_tokens`` (50); ``do_sample``, ``temperature``, ``top_k``, ``top_p`` (any of them turns
                sampling on); ``seed``, which leaves the global random state alone, so that each row draws by its own (a
                list gives each its seed); ``num_beams``, ``num_return_sequences``; ``stop``, one or several texts to
                end before; anything else goes to transformers' ``generate``, such as ``repetition_penalty`` or
                ``cache_implementation="static"``.

        Returns:
            The continuation only: a string, or a list for a list of prompts; with ``num_return_sequences`` above 1 a
            list for each prompt.

        Raises:
            PromptError, MismatchError, NotAppliedError, UnsupportedError: before the first forward pass.
        """
        return generating.texts(self, prompts, steer, settings)

    def generate_tokens(
        self, prompts: Sequence[Sequence[int]], *, steer: Steer = None, **settings: Any
    ) -> list[list[int]]:
        """Generate from token ids, for those who score texts: as :meth:`generate`, without its going to text and back.

        Args:
            prompts: the token ids of each row, special tokens included.
            steer: a plan for all rows, or a list with one (or None) for each.
            settings: as of :meth:`generate`.

        Returns:
            The new tokens of each row (``num_return_sequences`` rows for each prompt, in order), up to and including
            the one that ended the text, if one did; a stop text is not cut off.

        Raises:
            PromptError, MismatchError, NotAppliedError, UnsupportedError: before the first forward pass.
        """
        return generating.tokens(self, prompts, steer, settings)

    def stream(self, prompt: Prompts, *, steer: Steer = None, **settings: Any) -> Iterator[str]:
        """Generate from one prompt, piece by piece as text is ready. Closing the iterator stops the generation.

        Arguments and errors as :meth:`generate`; all checks are made before the first piece is asked for.
        """
        return generating.stream(self, prompt, steer, settings)

    def forward_arguments(self, batch: Batch) -> dict[str, Any]:
        """What the model, or its decoder, is called with for a batch; position ids always come from the mask."""
        here = batch.to(self.device)
        arguments: dict[str, Any] = {"input_ids": here.input_ids, "attention_mask": here.attention_mask}
        if "position_ids" in self._engine.parameters:
            arguments["position_ids"] = here.position_ids
        return arguments

    # -- steering it --------------------------------------------------------------------------------------------

    @contextmanager
    def steer(self, plan: PlanLike, *, prompt_length: int | Sequence[int] | None = None) -> Generator[SteeringModel]:
        """Steer everything the model does inside: ``generate``, ``logits``, and plain calls of ``model.hf``.

        Nested contexts append. The context holds for the model, so that a generation thread started inside is
        steered; a second thread that enters another context meanwhile is refused.

        Args:
            plan: a plan, an intervention, or a list of these.
            prompt_length: for plain calls that feed several tokens onto a filled cache: how many tokens of the
                sequence (of each row) are prompt.

        Raises:
            MismatchError: when the plan does not fit this model, on entering.
            NotAppliedError: on leaving, when an intervention met no token of any forward pass made inside.
            BusyError: when another thread is steering this model.
        """
        added = Plan.of(plan)
        applied = Applied(added.actions(self.shape))
        self._contexts.enter(Context(added, prompt_length, applied), self.shape.name)
        try:
            self._hold()
            yield self
        finally:
            self._contexts.leave()
            self._hold()
        applied.check()

    def _hold(self) -> None:
        if self._held is not None:
            self._held.hold(self._contexts)

    def edit(self, plan: PlanLike, *, name: str | None = None) -> SteeringModel:
        """A new model that shares the weights and always applies ``plan``; this one is untouched.

        Edits nest: ``model.edit(a).edit(b)`` applies a, then b. ``edited.edits`` lists them, ``edited.without(...)``
        leaves some out, ``edited.base`` is the model without any. As many edited models as one likes may share one set
        of weights and run side by side, each in a thread of its own.

        Args:
            plan: a plan, an intervention, or a list of these.
            name: what to call the edit, so that it can be left out by name.

        Raises:
            MismatchError: when the plan does not fit this model.
        """
        return self._with_edits((*self.edits, Edit(Plan.of(plan), name)))

    def without(self, *edits: int | str | Edit) -> SteeringModel:
        """A new model without some of this one's edits, given by index, by name, or as listed in ``edits``.

        Raises:
            InterventionError: it has no such edit.
        """
        return self._with_edits(remaining(self.edits, edits, self.shape.name))

    def _with_edits(self, edits: tuple[Edit, ...]) -> SteeringModel:
        plan = sum((edit.plan for edit in edits), Plan())
        plan.actions(self.shape)
        edited = object.__new__(SteeringModel)
        edited.__dict__ |= self.__dict__
        edited.plan, edited.edits, edited._base = plan, edits, self.base
        if plan:
            edited._contexts, edited._held, edited._making_tree = Contexts(), None, threading.Lock()
        else:  # no tree of its own: its contexts are those of the base
            edited._contexts, edited._held = self.base._contexts, self.base._held
        return edited

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model to a folder that :meth:`from_pretrained` loads.

        An edited model is written as its base's id and its plan, not its weights; a plain one in full. To write an
        edited model as ordinary weights, see :func:`steersman.bake`.

        Raises:
            UnsupportedError: an edited model whose base was never loaded from, or saved to, anywhere.
        """
        from .loading import save

        save(self, str(folder))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hugging Face hub; returns the commit's URL.

        Options: ``private``, ``token``, ``commit_message``, ``revision``. An edited model is a few kilobytes there, and
        ``from_pretrained(repo_id)`` loads its base and edits it again.

        Raises:
            UnsupportedError: an edited model whose base is not on the hub, where others could find it.
        """
        from .loading import push

        return push(self, repo_id, options)

    # -- preparing ----------------------------------------------------------------------------------------------

    def check_length(self, sequences: Sequence[Sequence[int]], new_tokens: int = 0) -> None:
        """Raise PromptError if a sequence is longer than the model's table of positions (if it has one)."""
        limit = self.architecture.max_positions
        for number, row in enumerate(sequences):
            if limit is not None and len(row) + new_tokens > limit:
                what = f"{len(row)} tokens" + (f" and {new_tokens} new ones" if new_tokens else "")
                raise PromptError(f"row {number} has {what}, but {self.shape.name} has {limit} positions; shorten it")

    def steered_by(self, steer: PlanLike) -> bool:
        """Whether anything would act on a call made now with this plan: an edit, a context, or the plan."""
        return bool(self.in_force(steer).actions(self.shape))

    def in_force(self, steer: PlanLike = None) -> Plan:
        """All that would act on a call made now with this plan: edits, then contexts, then the plan."""
        return self.always + Plan.of(steer)

    @contextmanager
    def forward_only(
        self, steer: PlanLike, prompts: Sequence[Sequence[int]]
    ) -> Generator[Callable[[Batch | dict[str, Any]], None]]:
        """A function that runs the decoder over a batch of these token ids, without the unembedding, under a plan.

        It takes the batch, or the decoder's own arguments for an unsteered pass laid out in another way.

        For readers of activations, who may also end the pass early; what it returns is nothing.
        """
        plan = self.in_force(steer)
        rows = [Row(len(ids), tuple(ids), self.tokens.find_marker, f"text {i}") for i, ids in enumerate(prompts)]

        def forward(batch: Batch | dict[str, Any]) -> None:
            own = batch if isinstance(batch, dict) else self.forward_arguments(batch)
            self.architecture.decoder(**own, use_cache=False)

        with torch.inference_mode(), self._engine.call([plan], rows):
            yield forward
