"""A Hugging Face decoder that can be steered. It wraps the model; nothing in it is replaced."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..errors import MismatchError, PromptError
from ..plan import Plan, PlanLike
from ..shape import ModelShape
from .architecture import Architecture, find_architecture
from .generation import Generation
from .hooks import Applied, Context, Contexts, HeldTree, HookEngine, Row
from .sampling import forked_random_state
from .tokens import Batch, Prompts, Tokens, listed

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: One plan for all prompts, or a list with one (or None) for each.
Steer = PlanLike | Sequence[PlanLike]


class SteeringModel:
    """A decoder and its tokenizer, ready to be steered.

    Attributes:
        n_layers, d_model, n_heads: of the model.
        shape: these and more, as plans are checked against.
        architecture: where its parts are.
        plan: the interventions that always act, of an edited model; empty otherwise.

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
        self._hf: Any = hf_model
        self._engine = HookEngine(self.architecture, self.tokens.find_marker)
        self._contexts = Contexts()
        self._held: HeldTree | None = HeldTree(self._engine)

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
        if self._held is None:
            from .editing import second_tree

            engine = HookEngine(find_architecture(second_tree(self.architecture)), self.tokens.find_marker)
            self._held = HeldTree(engine, self.plan)
            self._hold()
        return self._held.engine.architecture.hf

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its activations."""
        return cast(torch.dtype, self._hf.dtype)

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
                rows, batch, plans = self._prepare(prompts, steer, continuation)
                with self._engine.call(plans, rows) as run:
                    run.program.check_length(rows, batch.lengths)
                    found: Tensor = self._hf(**self._forward_arguments(batch), use_cache=False).logits
            return found if grad else found.clone()

    def generate(self, prompts: Prompts, *, steer: Steer = None, **settings: Any) -> Any:
        """Generate text; greedy unless asked.

        Args:
            prompts: a string, a chat, or a list of either.
            steer: a plan for all prompts, or a list with one (or None) for each.
            settings: ``max_new_tokens`` (50); ``do_sample``, ``temperature``, ``top_k``, ``top_p`` (any of them turns
                sampling on); ``seed``, which leaves the global random state alone, so that each row draws by its own;
                ``num_beams``, ``num_return_sequences``; ``stop``, one or several texts to end before; anything else
                goes to transformers' ``generate``, such as ``repetition_penalty`` or ``cache_implementation="static"``.

        Returns:
            The continuation only: a string, or a list for a list of prompts; with ``num_return_sequences`` above 1 a
            list for each prompt.

        Raises:
            PromptError, MismatchError, NotAppliedError, UnsupportedError: before the first forward pass.
        """
        own = _generation(settings)
        single = listed(prompts)[1]
        rows, batch, plans = self._prepare(prompts, steer, None, own)
        each = own.num_return_sequences
        produced = self._run_generation(own, rows, batch, plans)
        texts: list[str] = []
        per_row = each if own.copies == 1 else 1
        for number, ids in enumerate(produced.tolist()):
            row = rows[number // per_row]
            prompt = row.prompt or ()
            new = own.until_end(ids[batch.input_ids.shape[1] :], self._hf.generation_config)
            texts.append(own.cut(self.tokens.decode_after(prompt, new)))
        grouped: list[Any] = texts if each == 1 else [texts[i : i + each] for i in range(0, len(texts), each)]
        return grouped[0] if single else grouped

    def stream(self, prompt: Prompts, *, steer: Steer = None, **settings: Any) -> Iterator[str]:
        """Generate from one prompt, piece by piece as text is ready. Closing the iterator stops the generation.

        Arguments and errors as :meth:`generate`; all checks are made before the first piece is asked for.
        """
        from .streaming import pieces

        own = _generation(settings)
        rows, batch, plans = self._prepare(prompt, steer, None, own)
        if len(rows) != 1:
            raise PromptError(f"stream() takes one prompt and returns one text, got {len(rows)}")
        if own.num_beams > 1:
            raise PromptError("stream() cannot show beams: they are known only at the end")
        self._engine.check(plans, rows, own.max_new_tokens)

        def run(streamer: Any, stopping: Any) -> None:
            own.options |= {"streamer": streamer, "stopping_criteria": stopping}
            self._run_generation(own, rows, batch, plans)

        return pieces(run, self.tokens, own)

    def _run_generation(self, own: Generation, rows: list[Row], batch: Batch, plans: list[Plan]) -> Tensor:
        arguments = own.arguments(self._hf.generation_config, self.tokenizer, self.tokens.pad_id, len(rows))
        here = batch.to(self.device)
        beams = bool(own.sampled) and own.num_beams > 1
        with (
            torch.inference_mode(),
            forked_random_state(own.seed if beams else None),
            self._engine.call(plans, rows) as run,
        ):
            run.program.check_generation(rows, own.max_new_tokens)
            produced = self._hf.generate(input_ids=here.input_ids, attention_mask=here.attention_mask, **arguments)
        return cast(Tensor, produced)

    def _forward_arguments(self, batch: Batch) -> dict[str, Tensor]:
        here = batch.to(self.device)
        arguments = {"input_ids": here.input_ids, "attention_mask": here.attention_mask}
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

    def edit(self, plan: PlanLike) -> SteeringModel:
        """A new model that shares the weights and always applies ``plan``; this one is untouched.

        Edits nest: ``model.edit(a).edit(b)`` applies a, then b.

        Raises:
            MismatchError: when the plan does not fit this model.
        """
        added = Plan.of(plan)
        added.actions(self.shape)
        edited = object.__new__(SteeringModel)
        edited.__dict__ |= self.__dict__
        edited.plan = self.plan + added
        edited._contexts = Contexts()
        edited._held = None
        return edited

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model to a folder that :meth:`from_pretrained` loads.

        An edited model is written as its base's id and its plan, not its weights; a plain one in full.

        Raises:
            UnsupportedError: an edited model whose base was never loaded from, or saved to, anywhere.
        """
        from .loading import save

        save(self, str(folder))

    # -- preparing ----------------------------------------------------------------------------------------------

    def _prepare(
        self, prompts: Prompts, steer: Steer, continuation: str | Sequence[str] | None, own: Generation | None = None
    ) -> tuple[list[Row], Batch, list[Plan]]:
        """Tokens, rows and plans of a call, all checked."""
        items, _ = listed(prompts)
        ids = [self.tokens.encode(item) for item in items]
        plans, numbers = self._plans(steer, len(items))
        copies = own.copies if own else 1
        rows = [
            Row(len(row), tuple(row), self.tokens.find_marker, f"prompt {i}", numbers[i])
            for i, row in enumerate(ids)
            for _ in range(copies)
        ]
        sequences = [
            [*row, *extra] for row, extra in zip(ids, self._continuations(continuation, len(ids)), strict=True)
        ]
        sequences = [row for row in sequences for _ in range(copies)]
        self.check_length(sequences, own.max_new_tokens if own else 0)
        if own:
            own.check_config(self._hf.generation_config)
        return rows, self.tokens.batch(sequences), plans

    def _continuations(self, continuation: str | Sequence[str] | None, rows: int) -> list[list[int]]:
        if continuation is None:
            return [[] for _ in range(rows)]
        texts = [continuation] * rows if isinstance(continuation, str) else list(continuation)
        if len(texts) != rows:
            raise PromptError(f"{len(texts)} continuations for {rows} prompts; give one for all, or one for each")
        return [self.tokens.continuation(text) for text in texts]

    def check_length(self, sequences: Sequence[Sequence[int]], new_tokens: int = 0) -> None:
        """Raise PromptError if a sequence is longer than the model's table of positions (if it has one)."""
        limit = _max_positions(self.architecture)
        for number, row in enumerate(sequences):
            if limit is not None and len(row) + new_tokens > limit:
                what = f"{len(row)} tokens" + (f" and {new_tokens} new ones" if new_tokens else "")
                raise PromptError(f"row {number} has {what}, but {self.shape.name} has {limit} positions; shorten it")

    def steered_by(self, steer: PlanLike) -> bool:
        """Whether anything would act on a call made now with this plan: an edit, a context, or the plan."""
        return bool(self.in_force(steer).actions(self.shape))

    def in_force(self, steer: PlanLike = None) -> Plan:
        """All that would act on a call made now with this plan: edits, then contexts, then the plan."""
        return self.plan + self._contexts.plan + Plan.of(steer)

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
            own = batch if isinstance(batch, dict) else self._forward_arguments(batch)
            self.architecture.decoder(**own, use_cache=False)

        with torch.inference_mode(), self._engine.call([plan], rows):
            yield forward

    def _plans(self, steer: Steer, rows: int) -> tuple[list[Plan], list[int]]:
        """The distinct plans of a call, what always acts before each, and the number of the plan of each row."""
        always = self.plan + self._contexts.plan
        if not isinstance(steer, list | tuple):
            return [always + cast(PlanLike, steer)], [0] * rows
        items = cast("Sequence[PlanLike]", steer)
        if len(items) != rows:
            raise MismatchError(
                f"steer= lists {len(items)} plans for {rows} prompts; give one for each, or one Plan([...]) for all"
            )
        numbers: dict[int, int] = {}
        plans: list[Plan] = []
        for item in items:
            if id(item) not in numbers:
                numbers[id(item)] = len(plans)
                plans.append(always + item)
        return plans, [numbers[id(item)] for item in items]


def _generation(settings: dict[str, Any]) -> Generation:
    names = set(Generation.__dataclass_fields__) - {"options"}
    own = {name: value for name, value in settings.items() if name in names}
    return Generation(**own, options={name: value for name, value in settings.items() if name not in names})


def _max_positions(architecture: Architecture) -> int | None:
    """The longest sequence of a model whose positions are a table; None where they are computed."""
    config: Any = architecture.hf.config
    if architecture.position_embedding is None and config.model_type not in ("gptj", "codegen"):
        return None
    return getattr(config, "max_position_embeddings", None)
