"""Many interventions that begin late in the same prompts: what comes before them is computed once, for all.

An intervention that touches no token before position p leaves the keys and values of everything before p as they are,
in every layer. They are computed once, for all layers; then each *branch*, the few tokens from p on, is run under a
plan of its own. The branches of a row stand side by side in one line after the shared beginning: under a mask a token
sees that beginning and its own branch, and its position is counted along its own branch, so it is computed as in its
own text. No key or value of the beginning is copied for a branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..errors import UnsupportedError
from ..plan import Plan
from .hooks import Row
from .hooks.rows import Chunk
from .own_mask import attention_mask, why_not
from .recording import Call, Path, recording
from .resume import Resumable, difference, probe_ids, tolerance


@dataclass(frozen=True)
class Stem:
    """One text and where its branches leave it.

    Attributes:
        prompt: its token ids.
        start: the first position that any plan touches, and so the first token of every branch; at least 1.
        endings: what follows the prompt in each of its branches: tokens of a continuation, or nothing.
    """

    prompt: tuple[int, ...]
    start: int
    endings: tuple[tuple[int, ...], ...] = ((),)


@dataclass(frozen=True, eq=False)
class Trunk:
    """The shared beginnings of some stems, and their branches as they are without any plan.

    Attributes:
        stems: as given.
        width: tokens of the longest branch; shorter ones are padded on the right.
        endings: branches of a stem without any plan; fewer are filled up.
        rows: one per stem and ending, all endings of a stem together.
        cache: keys and values of the beginnings.
        real: which of the columns of the beginnings are not padding, ``[stems, columns]``.
        residuals: the stream as it enters block l, ``[stems, endings * width, d_model]``, for each l kept.
        calls: how each block was called for the branches.
        mask: the mask that it was called with.
    """

    stems: tuple[Stem, ...]
    width: int
    endings: int
    rows: list[Row]
    chunks: list[Chunk]
    cache: _Beginnings
    real: Tensor
    residuals: dict[int, Tensor]
    calls: list[Call]
    mask: Tensor


class Branching:
    """A model on which branches can be run.

    Raises:
        UnsupportedError: when its attention looks at more than a mask and position ids, or the model fails the proof.
    """

    def __init__(self, resumable: Resumable) -> None:
        self.resumable = resumable
        self.model = resumable.model
        reason = why_not(self.model.architecture, 0)
        if reason is not None:
            raise UnsupportedError(f"{self.model.shape.name}: {reason}")
        if "branches" not in self.model.engine.proved:
            with torch.inference_mode():
                self._prove()
            self.model.engine.proved["branches"] = True

    def why_not(self, stems: Sequence[Stem]) -> str | None:
        """The reason why these stems cannot be run exactly, or None."""
        if any(stem.start < 1 for stem in stems):
            return "the intervention begins at the first token, so nothing is shared"
        longest = max(len(stem.prompt) + max(map(len, stem.endings)) for stem in stems)
        return why_not(self.model.architecture, longest)

    # -- recording ------------------------------------------------------------------------------------------------

    def record(self, stems: Sequence[Stem], *, keep: Sequence[int]) -> Trunk:
        """Run the beginnings, and the branches once as they are.

        Args:
            stems: the texts.
            keep: the blocks before which the stream of the branches is kept; ``n_layers`` for behind the last.
        """
        model, always = self.model, self.resumable.always
        with torch.inference_mode():
            cache, real = self._beginnings(stems)
            ids, positions, width, endings = self._lines(stems)
            rows, chunks = _rows(model, stems, width, endings)
            mask = _additive(real, _own_branch(width, ids.shape[1], ids.device), model.dtype)
            with model.engine.call([always], rows) as run, recording(model.architecture, keep) as seen:
                arguments = {
                    "input_ids": ids,
                    "position_ids": positions,
                    "attention_mask": attention_mask(model.architecture, mask),
                    "past_key_values": cache,
                    "use_cache": True,
                }
                with run.by_hand(rows, chunks, width, ids.device):
                    model.architecture.decoder(**arguments)
        return Trunk(tuple(stems), width, endings, rows, chunks, cache, real, seen.residuals, seen.calls, mask)

    def _beginnings(self, stems: Sequence[Stem]) -> tuple[_Beginnings, Tensor]:
        """Keys and values of every layer, up to where the branches leave; no further than the last of them."""
        model = self.model
        rows = [
            Row(len(stem.prompt), stem.prompt, model.tokens.find_marker, f"text {number}")
            for number, stem in enumerate(stems)
        ]
        batch = model.tokens.batch([stem.prompt[: stem.start] for stem in stems]).to(model.device)
        cache = _Filling(model.n_layers)
        with model.engine.call([self.resumable.always], rows), cache.until_full():
            model.architecture.decoder(**model.forward_arguments(batch), past_key_values=cache, use_cache=True)
        return _Beginnings(cache.kept), batch.attention_mask.bool()

    def _lines(self, stems: Sequence[Stem]) -> tuple[Tensor, Tensor, int, int]:
        """Ids and positions ``[stems, endings * width]`` of the branches side by side."""
        model = self.model
        width = max(len(stem.prompt) - stem.start + max(map(len, stem.endings)) for stem in stems)
        endings = max(len(stem.endings) for stem in stems)
        ids = torch.full((len(stems), endings, width), model.tokens.pad_id, dtype=torch.long)
        positions = torch.zeros_like(ids)
        for row, stem in enumerate(stems):
            positions[row] = stem.start + torch.arange(width)
            for place in range(endings):
                branch = [*stem.prompt[stem.start :], *(stem.endings[place] if place < len(stem.endings) else ())]
                ids[row, place, : len(branch)] = torch.tensor(branch, dtype=torch.long)
                positions[row, place, len(branch) :] = stem.start + len(branch) - 1  # padding: never past a table's end
        return ids.flatten(1).to(model.device), positions.flatten(1).to(model.device), width, endings

    # -- running --------------------------------------------------------------------------------------------------

    def run(self, trunk: Trunk, plans: Sequence[Plan]) -> Tensor:
        """What leaves the last block in each branch: ``[stems, plans, endings, width, d_model]``.

        Raises:
            UnsupportedError: a condition on a model that an edit or a context is steering already.
        """
        layer, forks = self.resumable.first_layer(plans), len(plans)
        rows, chunks = self._forked(trunk, forks)
        with torch.inference_mode():
            self._decide(trunk, plans, rows)
            stream = trunk.residuals[layer].repeat(1, forks, 1)
            stream = self.resumable.act(layer - 1, stream, plans, rows, chunks)
            stream = self._steered(trunk, layer, stream, plans, rows, chunks)
        return stream.reshape(len(trunk.stems), forks, trunk.endings, trunk.width, -1)

    def resume(self, trunk: Trunk, layer: int, stream: Tensor) -> Tensor:
        """Run blocks ``layer ..`` of branches from a residual stream, under what always acts on the model alone.

        Args:
            trunk: what the branches leave.
            layer: the block that ``stream`` enters.
            stream: ``[stems, forks * endings * width, d_model]``, the branches of a stem fork by fork.

        Returns:
            ``[stems, forks, endings, width, d_model]``.
        """
        forks = stream.shape[1] // (trunk.endings * trunk.width)
        with torch.inference_mode():
            stream = self._steered(trunk, layer, stream, [Plan()] * forks, *self._forked(trunk, forks))
        return stream.reshape(len(trunk.stems), forks, trunk.endings, trunk.width, -1)

    @staticmethod
    def _forked(trunk: Trunk, forks: int) -> tuple[list[Row], list[Chunk]]:
        """The rows and tokens of so many forks, those of a stem together, each fork with its own number as plan."""
        rows: list[Row] = []
        chunks: list[Chunk] = []
        for first in range(0, len(trunk.rows), trunk.endings):
            own = trunk.rows[first : first + trunk.endings]
            rows += [
                Row(row.prompt_length, row.ids, row.find_marker, row.label, number)
                for number in range(forks)
                for row in own
            ]
            chunks += trunk.chunks[first : first + trunk.endings] * forks
        return rows, chunks

    def _steered(
        self, trunk: Trunk, layer: int, stream: Tensor, plans: Sequence[Plan], rows: list[Row], chunks: list[Chunk]
    ) -> Tensor:
        given = [self.resumable.always + plan for plan in plans]
        with self.model.engine.call(given, rows) as run, run.by_hand(rows, chunks, trunk.width, stream.device):
            return self._blocks(trunk, layer, stream, len(plans))

    def _blocks(self, trunk: Trunk, layer: int, stream: Tensor, forks: int) -> Tensor:
        line = stream.shape[1]
        mask = _additive(trunk.real, _own_branch(trunk.width, line, stream.device), self.model.dtype)
        made: dict[int, Any] = {}

        def change(number: int, path: Path, leaf: Any) -> Any:
            if leaf is trunk.mask:
                return mask
            if not isinstance(leaf, Tensor) or forks == 1:
                return leaf
            if id(leaf) not in made:
                axes = self.resumable.layout.axes(number, path).tokens
                if len(axes) > 1:
                    raise UnsupportedError(f"block {number} is called with a mask of its own making, {path}")
                made[id(leaf)] = torch.cat([leaf] * forks, dim=axes[0]) if axes else leaf
            return made[id(leaf)]

        blocks = self.model.architecture.blocks
        for number in range(layer, len(blocks)):
            stream = trunk.calls[number].again(blocks[number], stream, partial(change, number))
        return stream

    def _decide(self, trunk: Trunk, plans: Sequence[Plan], rows: list[Row]) -> None:
        """Conditions, read at the last prompt token of the branches as they are without these plans."""
        base = self.resumable
        lasts = [len(stem.prompt) - 1 - stem.start for stem in trunk.stems]
        for when in base.conditions(plans):
            held: list[bool] = when.holds(trunk.residuals[when.layer + 1][range(len(lasts)), lasts]).tolist()
            for number, row in enumerate(rows):
                row.gates[when] = held[number // (len(plans) * trunk.endings)]

    def _prove(self) -> None:
        """Hold branches of unequal stems under two plans to whole forward passes."""
        from ..operations import Add

        model, resumable = self.model, self.resumable.plain()
        own = object.__new__(Branching)
        own.resumable, own.model = resumable, model
        stems = [  # shorter than any window
            Stem(tuple(ids), len(ids) - 2, endings)
            for ids, endings in zip(
                probe_ids(model, (4, 5)), (((), (3,)), ((4, 5),)), strict=True
            )  # no window is shorter
        ]
        layer = max(model.n_layers // 2 - 1, 0)
        trunk = own.record(stems, keep=[layer + 1])
        draw = torch.Generator().manual_seed(0)
        size = trunk.residuals[layer + 1].float().std().item()
        plans = [
            Plan(Add(torch.randn(model.d_model, generator=draw) * size, layers=layer, positions="prompt[-2:]")),
            Plan(Add(torch.randn(model.d_model, generator=draw) * size, layers=layer)),
        ]
        found = own.run(trunk, plans)
        off = 0.0
        for row, stem in enumerate(stems):
            for place, ending in enumerate(stem.endings):
                batch = model.tokens.batch([[*stem.prompt, *ending]])
                for number, plan in enumerate(plans):
                    branch = found[row, number, place, : len(stem.prompt) - stem.start + len(ending)]
                    with model.engine.call([plan], [trunk.rows[row * trunk.endings]]):
                        arguments = model.forward_arguments(batch)
                        expected = model.architecture.hf(**arguments, use_cache=False).logits[0, stem.start :]
                    off = max(off, difference(resumable.logits(branch), expected))
        if not off <= tolerance(model):
            raise UnsupportedError(
                f"{model.shape.name}: branches beside each other give logits that differ by {off:.2g} from whole "
                "forward passes: its attention looks at more than a mask and position ids"
            )


def _rows(model: Any, stems: Sequence[Stem], width: int, endings: int) -> tuple[list[Row], list[Chunk]]:
    """A row for every branch, and the tokens it holds; a branch that only fills up holds none."""
    rows: list[Row] = []
    chunks: list[Chunk] = []
    for number, stem in enumerate(stems):
        for place in range(endings):
            rows.append(Row(len(stem.prompt), stem.prompt, model.tokens.find_marker, f"text {number}"))
            held = 0
            if place < len(stem.endings):
                held = len(stem.prompt) - stem.start + len(stem.endings[place])
            chunks.append(Chunk(stem.start, range(held)))
    return rows, chunks


def _own_branch(width: int, line: int, device: torch.device) -> Tensor:
    """Which tokens of a line each of them may attend to: those before it in its own branch."""
    place = torch.arange(line, device=device)
    same = place[:, None] // width == place[None, :] // width
    return same & (place[None, :] <= place[:, None])


def _additive(real: Tensor, own: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask ``[stems, 1, line, beginning + line]``, zero where a token may be attended to."""
    line = len(own)
    visible = torch.cat([real[:, None, :].expand(-1, line, -1), own.expand(len(real), -1, -1)], dim=2)
    mask = torch.zeros(visible.shape, dtype=dtype, device=real.device)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None]


class _FullError(Exception):
    """Ends the pass that fills a cache; never leaves it."""


class _Filling(DynamicCache):
    """Takes in the keys and values of every layer, and ends the pass when it has the last of them."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._wanted = layers

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        self.kept[layer_idx] = (key_states, value_states)
        if len(self.kept) == self._wanted:
            raise _FullError
        return key_states, value_states

    def until_full(self) -> AbstractContextManager[object]:
        """What the filling pass runs in."""
        return suppress(_FullError)


class _Beginnings(DynamicCache):
    """Keys and values that stay as they are: what is added is put behind them for that call alone."""

    def __init__(self, kept: dict[int, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.kept = kept

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        keys, values = self.kept[layer_idx]
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return next(iter(self.kept.values()))[0].shape[-2]
