"""Running the deepest block that is needed at the tokens that are read, and at no other.

A token's output of a block depends on its own input, and on the keys and values of the tokens it attends to. So when
only some tokens of the last block are wanted, the block needs the keys and values of all tokens, and everything else
(queries, attention, output projection, MLP) of those few. The block is called twice: once with a cache that keeps the
keys and values of all tokens and breaks the call off there, and once on the few tokens, with a cache that hands them
out. That works wherever attention takes its keys and values from its cache, whatever else the family does, and is
exact up to rounding. As with the parts of a model it is not believed but proved, on a few tokens, before it is used
(:func:`why_not_narrowed`).
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..architecture import Architecture
from ..architecture.architecture import submodule
from ..architecture.families import LINEAR
from ..tokens import Batch
from .reading import Place, read_sites, stop_after

#: How blocks call their cache, and what they are handed of every token.
_CACHES = ("past_key_values", "layer_past", "past_key_value")
_PER_TOKEN = ("position_ids", "position_embeddings", "cache_position")
#: Components that hold only the tokens that were chosen, in a narrowed block.
NARROWED = ("z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")

#: Families for which it would not be exact, whatever a short proof says.
_NOT_EXACT = {"gpt_neo": "its local attention counts distance along the row, which a few tokens do not show"}

#: What was proved, by architecture and layer: the reason why not, or None.
_PROVED: WeakKeyDictionary[Architecture, dict[int, str | None]] = WeakKeyDictionary()


class _KeptError(Exception):
    """Breaks a call of a block off once its keys and values are known; never leaves this module."""


class NotNarrowedError(Exception):
    """A block cannot be run at some of its tokens; the message says why."""


class _Store(DynamicCache):
    """Keeps the first keys and values it is given, breaking the call off, and answers every later call with them."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.kept is None:
            self.kept = key_states, value_states
            raise _KeptError
        return self.kept


@contextmanager
def narrowed(architecture: Architecture, layer: int, tokens: Tensor) -> Generator[None]:
    """Forward passes that this thread makes inside run block ``layer`` at some of its tokens only.

    What stands at :data:`NARROWED` sites of that block, and at ``resid_pre`` of the next, is then
    ``[rows, chosen, width]``. Nothing may act on the block meanwhile, and the pass has to end before the block after it
    does anything with what it gets.

    Args:
        tokens: the columns chosen of each row, ``[rows, chosen]``.

    Raises:
        NotNarrowedError: inside, from the forward pass.
    """
    block = architecture.blocks[layer]
    parameters = list(inspect.signature(block.forward).parameters)
    me = threading.get_ident()
    inside = False

    def narrow(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        nonlocal inside
        if kwargs is None or inside or threading.get_ident() != me:
            return None
        given = dict(zip(parameters, args, strict=False)) | kwargs
        inside = True
        try:
            return (), _narrow(block, parameters, given, tokens)
        finally:
            inside = False

    handle = block.register_forward_pre_hook(narrow, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _narrow(block: nn.Module, parameters: list[str], given: dict[str, Any], tokens: Tensor) -> dict[str, Any]:
    """Arguments for the block at the chosen tokens, with the keys and values of all."""
    cache = next((name for name in _CACHES if name in parameters or name in given), None)
    hidden = given.get("hidden_states")
    if cache is None or not isinstance(hidden, Tensor) or hidden.dim() != 3:
        raise NotNarrowedError("its blocks take no cache and no hidden states by the usual names")
    store = _Store()
    try:
        block(**(given | {cache: store}))
    except _KeptError:
        pass
    else:
        raise NotNarrowedError("its attention does not take keys and values from a cache")
    tokens = tokens.to(hidden.device)
    few: dict[str, Any] = {
        "hidden_states": _chosen(hidden, tokens, hidden.shape[:2]),
        "attention_mask": _mask(given.get("attention_mask"), tokens, hidden),
        cache: store,
    }
    few |= {name: _chosen(given[name], tokens, hidden.shape[:2]) for name in _PER_TOKEN if name in given}
    return given | few


def _chosen(value: Any, tokens: Tensor, shape: torch.Size) -> Any:
    """The part of a tensor ``[rows or 1, columns, ...]`` (or of a tuple of such) that the chosen tokens have."""
    if isinstance(value, tuple):
        return tuple(_chosen(one, tokens, shape) for one in cast("tuple[Any, ...]", value))
    if not isinstance(value, Tensor):
        return value
    rows, columns = shape
    if value.dim() < 2 or value.shape[1] != columns or value.shape[0] not in (1, rows):
        raise NotNarrowedError(f"it is handed positions of shape {tuple(value.shape)}")
    return value.expand(rows, *value.shape[1:])[torch.arange(rows, device=value.device)[:, None], tokens]


def _mask(mask: Any, tokens: Tensor, hidden: Tensor) -> Tensor | None:
    """The rows of an attention mask that the chosen tokens have: ``[rows, heads or 1, chosen, columns]``."""
    rows, columns = hidden.shape[:2]
    if mask is None:  # plain causal attention, no padding
        if bool((tokens == columns - 1).all()):
            return None if tokens.shape[1] == 1 else tokens.new_ones(rows, 1, tokens.shape[1], columns).bool()
        return (torch.arange(columns, device=tokens.device) <= tokens[:, :, None])[:, None]
    if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[2] != columns:
        raise NotNarrowedError("its attention takes no mask of one row per token")
    spread = mask.expand(rows, *mask.shape[1:])
    return spread.gather(2, tokens[:, None, :, None].expand(rows, mask.shape[1], -1, mask.shape[3]))


# -- proof -------------------------------------------------------------------------------------------------------------


def why_not_narrowed(architecture: Architecture, layer: int, run: Callable[[Batch], None]) -> str | None:
    """The reason why block ``layer`` of this model cannot be run at some of its tokens, or None.

    Found out once for each model and layer by doing it, on two short rows of which one is padded.

    Args:
        run: runs the decoder over a batch, unsteered.
    """
    recurrence = architecture.layout.recurrence
    if recurrence and submodule(architecture.blocks[layer], recurrence) is not None:
        return LINEAR
    if architecture.shape.model_type in _NOT_EXACT:
        return _NOT_EXACT[architecture.shape.model_type]
    watched = _watched(architecture.blocks[layer])
    if watched is not None:
        return watched
    known = _PROVED.setdefault(architecture, {})
    if layer not in known:
        known[layer] = _prove(architecture, layer, run)
    return known[layer]


def _prove(architecture: Architecture, layer: int, run: Callable[[Batch], None]) -> str | None:
    columns, chosen = 7, torch.tensor([[2, 6], [4, 6]])
    vocabulary = getattr(architecture.embedding, "num_embeddings", 2 * columns)
    mask = torch.ones(2, columns, dtype=torch.long)
    mask[1, :2] = 0
    ids = (torch.arange(2 * columns) % vocabulary).reshape(2, columns)
    batch = Batch(ids, mask, (mask.cumsum(1) - 1).clamp_min(0), (columns, columns - 2))
    place: Place = ("resid_post", layer)
    with read_sites(architecture, [place], columns) as whole, stop_after(architecture, layer):
        run(batch)
    try:
        with (
            read_sites(architecture, [place], 2) as few,
            narrowed(architecture, layer, chosen),
            stop_after(architecture, layer),
        ):
            run(batch)
    except NotNarrowedError as error:
        return str(error)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        return f"its block refuses to run at some of its tokens ({type(error).__name__}: {error})"
    expected = whole[place][torch.arange(2)[:, None], chosen].float()
    off, size = float((few[place].float() - expected).norm()), float(expected.norm())
    epsilon = torch.finfo(whole[place].dtype).eps
    return None if off <= 32 * epsilon * size else f"its block gives something else then (by {off / size:.2g})"


def _watched(block: nn.Module) -> str | None:
    """Hooks of others on the block would see some of its tokens only."""
    for module in block.modules():
        if any(vars(module).get(kind) for kind in ("_forward_hooks", "_forward_pre_hooks")):
            return "its deepest block has hooks on it that would see only some of the tokens"
    return None
