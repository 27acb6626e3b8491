"""Running a model again from the middle: what lies below an intervention is computed once, however many are tried.

A base pass records how each decoder block was called (masks, position embeddings, whatever the family hands on) and the
residual stream between blocks. Blocks ``l ..`` can then be called again from another residual, for many *forks* of the
batch at once, under a plan of its own for each; the final norm and the unembedding run at the tokens that are scored
and nowhere else. The modules are the model's own, called as the model called them, with their hooks; nothing is
replaced.

Which of the recorded tensors belong to rows, and along which axis the tokens of a row lie, is not assumed: two small
passes of different shapes show it. And the whole is proved on the model at hand before it is used, as its parts were.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..conditions import When
from ..errors import MismatchError, UnsupportedError
from ..plan import Plan
from ..sites import FORWARD_ORDER
from .hooks import Row
from .hooks.narrowing import narrowed, why_not_narrowed
from .hooks.rows import Chunk
from .recording import Call, Layout, Path, recording
from .steering_model import SteeringModel
from .tail import Tail
from .tokens import Batch

#: Rows and tokens of the two passes that are compared; no two of the four numbers can be taken for another.
_PROBES = [(2, 5), (3, 7)]


@dataclass(frozen=True, eq=False)
class BasePass:
    """A forward pass over some sequences, kept so that its upper blocks can be run again.

    Attributes:
        rows: one per sequence, with the length of its prompt.
        chunks: where the tokens of each row stand.
        columns: padded length; rows are left-padded.
        residuals: the stream as it enters block l, ``[rows, columns, d_model]``, for each l kept; the number of layers
            stands for what leaves the last block.
        calls: how each block was called.
    """

    rows: list[Row]
    chunks: list[Chunk]
    columns: int
    residuals: dict[int, Tensor]
    calls: list[Call]


class Resumable:
    """A model whose blocks can be called again from a recorded pass.

    Raises:
        UnsupportedError: when this model does something between its blocks that calling them again does not repeat.
    """

    def __init__(self, model: SteeringModel) -> None:
        self.model = model
        self.always = Plan()
        if "resume" not in model.engine.proved:
            with torch.inference_mode():
                passes = [self._probe(shape) for shape in _PROBES]
                self.layout = Layout.compared(passes[0].calls, passes[1].calls, _PROBES)
                self.tail = Tail(model)
                self._prove()
            model.engine.proved["resume"] = self.layout, self.tail
        self.layout, self.tail = model.engine.proved["resume"]
        self.always = model.always

    # -- recording ------------------------------------------------------------------------------------------------

    def record(
        self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int], *, keep: Sequence[int]
    ) -> BasePass:
        """Run the decoder over token ids, under what always acts on the model (edits, contexts).

        Args:
            sequences: the token ids of each row, prompt and continuation.
            prompt_lengths: how many of them are prompt.
            keep: the blocks before which the residual stream is kept; ``n_layers`` for behind the last.
        """
        model = self.model
        rows = [
            Row(length, tuple(ids[:length]), model.tokens.find_marker, f"text {number}")
            for number, (ids, length) in enumerate(zip(sequences, prompt_lengths, strict=True))
        ]
        batch = model.tokens.batch(sequences)
        with (
            torch.inference_mode(),
            model.engine.call([self.always], rows),
            recording(model.architecture, keep) as seen,
        ):
            model.architecture.decoder(**model.forward_arguments(batch), use_cache=False)
        return BasePass(rows, chunks_of(batch), batch.input_ids.shape[1], seen.residuals, seen.calls)

    # -- running again --------------------------------------------------------------------------------------------

    def first_layer(self, plans: Sequence[Plan]) -> int:
        """The first block that these plans leave to be run: their residual must have been kept.

        The layer after the last one for plans that only act behind the last block.
        """
        shape = self.model.shape
        places = [(a.layer, FORWARD_ORDER[a.component]) for plan in plans for a in plan.actions(shape)]
        after = FORWARD_ORDER["resid_post"]
        return min((layer + (order == after) for layer, order in places), default=shape.n_layers)

    def run(self, base: BasePass, plans: Sequence[Plan], *, few: int | None = None) -> Tensor:
        """What leaves the last block under each plan: ``[plans * rows, columns, d_model]``, plan by plan.

        Everything below the first place where a plan acts is taken from the base pass. With ``few``, only the last so
        many columns are given, and the last block is run at these alone where that is exact.

        Raises:
            UnsupportedError: a condition on a model that an edit or a context is steering already.
        """
        layer = self.first_layer(plans)
        forked = base.residuals[layer].repeat(len(plans), 1, 1)
        return self.resume(base, layer, forked, plans, acted=False, few=few)

    def resume(
        self,
        base: BasePass,
        layer: int,
        residual: Tensor,
        plans: Sequence[Plan] | None = None,
        *,
        acted: bool = True,
        few: int | None = None,
    ) -> Tensor:
        """Run blocks ``layer ..`` from a residual stream.

        Args:
            base: the pass whose rows these are.
            layer: the block that ``residual`` enters.
            residual: ``[forks * rows, columns, d_model]``, all rows of a fork together.
            plans: what acts in these blocks, one for each fork, after what always acts on the model.
            acted: whether ``residual`` is as the plans leave it; else what they do behind block ``layer - 1`` is done
                first.
            few: how many of the last columns are wanted; all unless given.

        Returns:
            ``[forks * rows, columns, d_model]``.
        """
        forks, odd = divmod(len(residual), len(base.rows))
        given = [Plan()] * forks if plans is None else list(plans)
        if odd or forks != len(given):
            raise MismatchError(f"{len(residual)} rows and {len(given)} plans do not fit {len(base.rows)} base rows")
        rows = forked_rows(base.rows, given)
        chunks = base.chunks * forks
        with torch.inference_mode():
            self._decide(base, given, rows)
            if not acted:
                residual = self.act(layer - 1, residual, given, rows, chunks)
            plans = [self.always + plan for plan in given]
            narrow = self._narrow(few, base.columns, plans)
            with (
                self.model.engine.call(plans, rows) as run,
                run.by_hand(rows, chunks, base.columns, residual.device),
            ):
                residual = self._blocks(base, layer, residual, forks, narrow)
        return residual if few is None else residual[:, -few:]

    def act(self, layer: int, residual: Tensor, plans: Sequence[Plan], rows: list[Row], chunks: list[Chunk]) -> Tensor:
        """The stream behind block ``layer`` as the plans leave it; what always acts has acted already."""
        engine = self.model.engine
        with engine.call(plans, rows) as run:
            site = run.program.sites.get(("resid_post", layer))
            if site is None:
                return residual
            columns = residual.numel() // residual.shape[-1] // len(rows)
            with run.by_hand(rows, chunks, columns, residual.device) as step:
                done = site.act(residual, step, self.model.architecture.tap("resid_post", layer).scale)
        return residual if done is None else done

    def _narrow(self, few: int | None, columns: int, plans: Sequence[Plan]) -> int | None:
        """How many of the last columns the last block need be run at; None for all of them.

        It then computes the keys and values of all columns and the rest at these. Nothing may act on it meanwhile, and
        they must be few for the second call of the block to pay.
        """
        last = self.model.n_layers - 1
        if few is None or 2 * few > columns or self.always:
            return None
        actions = [action for plan in plans for action in plan.actions(self.model.shape)]
        if any(last in (a.layer, None if a.when is None else a.when.layer) for a in actions):
            return None
        with self.model.forward_only(None, []) as forward:
            return few if why_not_narrowed(self.model.architecture, last, forward) is None else None

    def _blocks(self, base: BasePass, layer: int, residual: Tensor, forks: int, few: int | None = None) -> Tensor:
        made: dict[int, Any] = {}  # most blocks are handed the same mask: make its forks once

        def change(number: int, path: Path, leaf: Any) -> Any:
            if id(leaf) not in made:
                made[id(leaf)] = self.layout.forked(number, path, leaf, forks)
            return made[id(leaf)]

        blocks = self.model.architecture.blocks
        for number in range(layer, len(blocks)):
            with ExitStack() as stack:
                if few is not None and number == len(blocks) - 1:
                    columns = torch.arange(base.columns - few, base.columns, device=residual.device)
                    chosen = columns.expand(len(residual), few)
                    stack.enter_context(narrowed(self.model.architecture, number, chosen))
                residual = base.calls[number].again(blocks[number], residual, partial(change, number))
        return residual

    def conditions(self, plans: Sequence[Plan]) -> set[When]:
        """The conditions of these plans, to be read on the prompt as it is without them.

        Raises:
            UnsupportedError: there are some, and an edit or a context is steering the model already.
        """
        found = {a.when for plan in plans for a in plan.actions(self.model.shape) if a.when is not None}
        if found and self.always:
            raise UnsupportedError("conditions are read on the unsteered prompt, and this model is steered already")
        return found

    def plain(self) -> Resumable:
        """The same for the model without what always acts on it."""
        bare = object.__new__(Resumable)
        bare.__dict__ |= self.__dict__ | {"always": Plan()}
        return bare

    def _decide(self, base: BasePass, plans: Sequence[Plan], rows: list[Row]) -> None:
        for when in self.conditions(plans):
            stream = base.residuals[when.layer + 1]
            lasts = [
                chunk.columns[row.prompt_length - 1 - chunk.start]
                for row, chunk in zip(base.rows, base.chunks, strict=True)
            ]
            held: list[bool] = when.holds(stream[range(len(lasts)), lasts]).tolist()
            for number, row in enumerate(rows):
                row.gates[when] = held[number % len(base.rows)]

    def logits(self, residual: Tensor) -> Tensor:
        """The logits of what left the last block: ``[..., d_model]`` to ``[..., vocab]``. Give it the scored tokens."""
        return self.tail(residual)

    def _probe(self, shape: tuple[int, int]) -> BasePass:
        """A small pass with padding, so that there is every mask there can be."""
        rows, tokens = shape
        ids = probe_ids(self.model, [tokens, *range(tokens - rows + 1, tokens)])
        return self.record(ids, [len(row) for row in ids], keep=[])

    def _prove(self) -> None:
        """Hold two forks of two unequal rows, resumed in the middle, to whole forward passes."""
        from ..operations import Add

        model = self.model
        ids = probe_ids(model, (5, 8))
        lengths = [len(row) for row in ids]
        layer = max(model.n_layers // 2 - 1, 0)
        base = self.record(ids, lengths, keep=[layer + 1])
        draw = torch.Generator().manual_seed(0)
        size = base.residuals[layer + 1].float().std().item()
        shifts = [torch.randn(model.d_model, generator=draw) * size for _ in range(2)]
        plans = [Plan(Add(shift, layers=layer, positions="all")) for shift in shifts]
        found = self.logits(self.run(base, plans)[:, -1])
        rows, arguments = base.rows, model.forward_arguments(model.tokens.batch(ids))
        expected: list[Tensor] = []
        for plan in plans:
            with model.engine.call([plan], rows):
                expected.append(model.architecture.hf(**arguments, use_cache=False).logits[:, -1])
        off = difference(found, torch.cat(expected))
        if not off <= tolerance(model):
            raise UnsupportedError(
                f"{model.shape.name}: calling its blocks again from block {layer + 1} gives logits that differ by "
                f"{off:.2g} from a whole forward pass: it does more between its blocks than hand on the stream"
            )


def difference(found: Tensor, expected: Tensor) -> float:
    """max |found - expected| / max(1, |expected|)."""
    return float(((found - expected).abs() / expected.abs().clamp_min(1)).max())


def tolerance(model: SteeringModel) -> float:
    """How far logits may lie apart that are computed in another order of operations."""
    return 1e-4 if model.dtype in (torch.float32, torch.float64) else 0.1


def forked_rows(rows: Sequence[Row], plans: Sequence[Plan]) -> list[Row]:
    """The rows of a base pass once for each plan, all rows of a plan together."""
    return [
        Row(row.prompt_length, row.ids, row.find_marker, row.label, number)
        for number in range(len(plans))
        for row in rows
    ]


def chunks_of(batch: Batch) -> list[Chunk]:
    """Where the tokens of each row of a left-padded batch stand."""
    columns = batch.input_ids.shape[1]
    return [Chunk(0, range(columns - length, columns)) for length in batch.lengths]


def probe_ids(model: SteeringModel, lengths: Sequence[int]) -> list[list[int]]:
    """Rows of ordinary tokens of these lengths."""
    config: Any = model.architecture.hf.config
    vocabulary: int = config.get_text_config().vocab_size
    return [[(7 * place + 3 * row + 2) % vocabulary for place in range(n)] for row, n in enumerate(lengths)]
