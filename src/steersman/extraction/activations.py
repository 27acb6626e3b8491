"""Activations of many texts: read at one token (or averaged) per text, at any layers of one site."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, PromptError
from ..model import SteeringModel
from ..model.hooks import read_sites
from ..model.hooks.reading import stop_after
from ..model.own_mask import why_not
from ..model.tokens import Batch, Prompts, listed
from ..plan import PlanLike
from ..sites import Indices, Sites, check_component, layer_indices
from ..sites import site as whole_site
from ..values import LayerValues
from ..vector import Origin
from .packing import WORTH, Packed, pack, packed_tokens
from .reading import Item, Read, ReadLike, Text, Texts, listed_texts, prepare

log = logging.getLogger(__name__)

#: Padded tokens per forward pass. Larger passes gain nothing on a CPU; a GPU takes more through ``token_budget=``.
TOKEN_BUDGET = 2048


class Activations(LayerValues):
    """``acts[10]`` is ``[n, width]``, one row per text in the order given; ``[n, n_heads, d_head]`` at ``z``."""

    def __len__(self) -> int:
        return len(self[self.layers[0]])


def activations(
    model: SteeringModel,
    texts: Texts,
    *,
    layers: str | Indices = "all",
    site: str = "resid_post",
    read: ReadLike = "last",
    steer: PlanLike = None,
    token_budget: int = TOKEN_BUDGET,
) -> Activations:
    """Read the activations of texts.

    Args:
        model: the model.
        texts: texts, chats, or ``(prompt, response)`` tuples.
        layers: indices, a range ``"4-8"``, or ``"all"``.
        site: the component.
        read: ``"last"``, ``"mean"`` (special tokens excluded), ``"response"``, ``"answer"``, ``after("text")``, or the
            index of a token; see :mod:`steersman.extraction.reading`.
        steer: a plan in force meanwhile.
        token_budget: padded tokens per forward pass.

    Returns:
        float32 on the CPU; the result does not depend on the batches.

    Raises:
        PromptError, DataError, MismatchError: before any forward pass.
    """
    items = listed_texts(texts)
    chosen = resolve_layers(model, layers, site)
    rows: dict[int, list[Tensor]] = {layer: [torch.empty(0)] * len(items) for layer in chosen}

    def keep(number: int, layer: int, values: Tensor) -> None:
        rows[layer][number] = values

    visit(model, items, chosen, site, Read.parse(read), keep, steer=steer, token_budget=token_budget)
    tensors = {layer: per_unit(model, site, torch.stack(found)) for layer, found in rows.items()}
    return Activations(tensors, site=site, origin=Origin.of(model.shape), metadata={"read": str(Read.parse(read))})


def capture(
    model: SteeringModel,
    prompt: Prompts,
    *,
    site: str = "resid_post",
    layers: str | Indices = "all",
    steer: PlanLike = None,
) -> Any:
    """All tokens' activations of one prompt: ``hidden[layer]`` is ``[seq, d_model]``.

    ``[seq, n_heads, d_head]`` at ``z``. A list of prompts gives a list of captures. With ``steer``, what the model
    computes under that plan.

    Raises:
        PromptError, MismatchError: before any forward pass.
    """
    items, single = listed(prompt)
    chosen = resolve_layers(model, layers, site)
    found: list[dict[int, Tensor]] = [{} for _ in items]

    def keep(number: int, layer: int, values: Tensor) -> None:
        found[number][layer] = per_unit(model, site, values)

    visit(model, items, chosen, site, None, keep, steer=steer)
    captures = [LayerValues(tensors, site=site, origin=Origin.of(model.shape)) for tensors in found]
    return captures[0] if single else captures


def mean_activations(
    model: SteeringModel,
    corpus: Prompts,
    *,
    sites: Sites | str = "resid_post",
    by_position: bool = False,
    token_budget: int = TOKEN_BUDGET,
) -> LayerValues:
    """The mean of a component over the tokens of a corpus, for :class:`steersman.Mean`.

    Args:
        model: the model.
        corpus: texts or chats, of any lengths; padding never counts.
        sites: a component, or a choice such as ``heads("all")``; whole layers are kept, whatever heads were chosen.
        by_position: one mean per position, ``[longest, width]``, each over the texts that reach it; else one over all
            tokens but the first (which is an attention sink in most models).
        token_budget: padded tokens per forward pass.
    """
    items, _ = listed(corpus)
    choice = sites if isinstance(sites, Sites) else whole_site(check_component(sites))
    chosen = [layer for layer, _ in model.shape.expand(choice, "mean_activations()")]
    sums: dict[int, Tensor] = {}
    counts: dict[int, Tensor] = {}
    lengths = [len(model.tokens.encode(item)) for item in items]
    longest = max(lengths)
    if longest < 2 and not by_position:
        raise DataError("the corpus has no token beyond the first of each text, and that one is left out of the mean")

    def add(number: int, layer: int, values: Tensor) -> None:
        rows = values.double() if by_position else values[1:].double().sum(0, keepdim=True)
        size = longest if by_position else 1
        sums.setdefault(layer, torch.zeros(size, values.shape[1], dtype=torch.float64))[: len(rows)] += rows
        counted = torch.ones(len(values)) if by_position else torch.tensor([len(values) - 1.0])
        counts.setdefault(layer, torch.zeros(size, dtype=torch.float64))[: len(counted)] += counted

    visit(model, items, chosen, choice.component, None, add, token_budget=token_budget)
    means = {layer: (total / counts[layer][:, None]).float() for layer, total in sums.items()}
    means = {layer: per_unit(model, choice.component, m if by_position else m[0]) for layer, m in means.items()}
    facts = {"texts": len(items), "tokens": sum(lengths), "by_position": by_position}
    return LayerValues(means, site=choice.component, name="means", origin=Origin.of(model.shape), metadata=facts)


def resolve_layers(model: SteeringModel, layers: str | Indices, site: str) -> list[int]:
    """Layer indices, checked to exist and to have the site."""
    choice = Sites(check_component(site), layer_indices(layers))
    return [layer for layer, _ in model.shape.expand(choice, "layers=")]


def per_unit(model: SteeringModel, site: str, values: Tensor) -> Tensor:
    """Values ``[..., width]`` of a site, split into heads at ``z``: ``[..., n_heads, d_head]``."""
    return values.reshape(*values.shape[:-1], model.shape.n_heads, model.shape.d_head) if site == "z" else values


def visit(
    model: SteeringModel,
    items: Sequence[Text],
    layers: Sequence[int],
    site: str,
    read: Read | None,
    receive: Callable[[int, int, Tensor], None],
    *,
    steer: PlanLike = None,
    token_budget: int = TOKEN_BUDGET,
    norms: Mapping[int, list[Tensor]] | None = None,
) -> None:
    """Run the model over items, no further than the deepest layer needed, shared beginnings once where that is exact.

    Args:
        read: which tokens to average; None hands over all of an item's tokens.
        receive: called with (item number, layer, float32 values on the CPU): ``[width]``, or ``[seq, width]``.
        norms: if given, collects per layer the norm of every token but the first of each text.
    """
    prepared = prepare(model, items, read)
    places = [(site, layer) for layer in layers]
    for one in _passes(model, prepared, steer, token_budget):
        with (
            model.forward_only(steer, [item.ids for item, _, _ in one.texts]) as forward,
            read_sites(model.architecture, places, one.columns) as seen,
            stop_after(model.architecture, max(layers)),
        ):
            forward(one.inputs)
        for layer in layers:
            values = seen.pop((site, layer)).float()
            lengths = values.norm(dim=-1) if norms is not None else None
            for item, row, tokens in one.texts:
                if norms is not None and lengths is not None:
                    norms[layer].append(lengths[row, tokens[1:]].cpu())
                picked = values[row, tokens[item.read]]
                receive(item.number, layer, (picked if read is None else picked.mean(0)).cpu())


@dataclass(frozen=True)
class _Pass:
    """One forward pass: what the decoder is given, and where the tokens of each text stand in it."""

    inputs: Batch | dict[str, Any]
    columns: int
    texts: list[tuple[Item, int, Tensor]]


def _passes(model: SteeringModel, items: list[Item], steer: PlanLike, budget: int) -> Iterator[_Pass]:
    """Packed where beginnings are shared and nothing steers, else in batches of similar length."""
    packs = _packs(model, items, steer)
    for tree in packs:
        texts = [(items[number], 0, path) for number, path in tree.paths]
        yield _Pass(tree.inputs(model.architecture, model.device, model.dtype), len(tree.ids), texts)
    for group in batches(items, budget) if not packs else ():
        batch = model.tokens.batch([item.ids for item in group])
        columns = batch.input_ids.shape[1]
        texts = [(item, row, torch.arange(columns - len(item.ids), columns)) for row, item in enumerate(group)]
        yield _Pass(batch, columns, texts)


def _packs(model: SteeringModel, items: list[Item], steer: PlanLike) -> list[Packed]:
    """The texts as trees, if that saves enough and is exact here; else nothing."""
    if len(items) < 2 or model.steered_by(steer):
        return []
    packs = pack([item.ids for item in items])
    if packed_tokens(packs) > WORTH * sum(len(item.ids) for item in items):
        return []
    reason = why_not(model.architecture, max(len(item.ids) for item in items))
    if reason is not None:
        log.info("shared beginnings are computed for each text: %s", reason)
        return []
    return packs


def batches(items: Sequence[Item], budget: int) -> Iterator[list[Item]]:
    """Groups of items of similar length whose padded size stays within the budget (one item always fits)."""
    if budget < 1:
        raise PromptError(f"token_budget must be at least 1, got {budget}")
    group: list[Item] = []
    for item in sorted(items, key=lambda item: len(item.ids)):
        if group and len(item.ids) * (len(group) + 1) > budget:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


__all__ = ["Activations", "activations", "capture", "mean_activations"]
