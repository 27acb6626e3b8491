"""Activations of many texts: read at one token (or averaged) per text, at any layers of one site."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..errors import DataError
from ..model import SteeringModel
from ..model.tokens import Prompts, listed
from ..plan import Plan, PlanLike
from ..sites import Indices, Sites, check_component, layer_indices
from ..sites import site as whole_site
from ..values import LayerValues
from ..vector import Origin
from .budget import TOKEN_BUDGET
from .gathering import CaptureGather, MeanGather, RowGather
from .passes import batches, check_budget
from .progress import ProgressLike, reporting
from .reading import Item, Read, ReadLike, Text, Texts, listed_texts, prepare
from .work import Gather, RunnerLike, Work, find_runner


class Activations(LayerValues):
    """``acts[10]`` is ``[n, width]``, one row per text in the order given; ``[n, n_heads, d_head]`` at ``z``."""

    def __len__(self) -> int:
        return len(self[self.layers[0]])

    @classmethod
    def open(cls, folder: str | Path) -> Activations:
        """Activations that :func:`activations` wrote to a folder: mapped into memory, read from disk as they are used.

        Raises:
            FileNotFoundError: there are none in this folder, or they are not complete.
            FileFormatError: a file that is damaged, or none of ours.
        """
        from .on_disk import open_folder

        return open_folder(folder)


def activations(
    model: SteeringModel,
    texts: Texts,
    *,
    layers: str | Indices = "all",
    site: str = "resid_post",
    read: ReadLike = "last",
    steer: PlanLike = None,
    token_budget: int | None = None,
    out: str | Path | None = None,
    runner: RunnerLike = None,
    progress: ProgressLike = None,
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
        token_budget: padded tokens per forward pass; measured unless given.
        out: a folder to write them to, for more than the memory holds: one safetensors file per layer, mapped into
            memory. Interrupted, the same call goes on where it stopped; :meth:`Activations.open` opens them again.
            Texts are then checked as they are come to.
        runner: what runs the model: ``"local"``, ``"ray"``, ``"vllm"``, or a runner such as ``RayRunner(workers=4)``.
        progress: a bar on a terminal (None), always or never (True, False), or a function of (tokens done, tokens).

    Returns:
        float32 on the CPU; the result does not depend on the batches.

    Raises:
        PromptError, DataError, MismatchError: before any forward pass.
        ResourceError: the memory does not hold a single text.
    """
    items = listed_texts(texts)
    how = Read.parse(read)
    work = _work(model, layers, site, steer=steer, token_budget=token_budget)
    if out is not None:
        from .on_disk import write_folder

        return write_folder(Path(out), model, items, how, work, runner=runner, progress=progress)
    prepared = prepare(model, items, how)
    gather = RowGather(range(len(items)))
    run_work(model, prepared, work, gather, runner=runner, progress=progress)
    tensors = {layer: per_unit(model, site, gather.pop(layer)) for layer in work.layers}
    return Activations(tensors, site=site, origin=Origin.of(model.shape), metadata={"read": str(how)})


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
    work = _work(model, layers, site, average=False, steer=steer)
    gather = CaptureGather()
    run_work(model, prepare(model, items, None), work, gather, progress=False)
    captures = [
        LayerValues(
            {layer: per_unit(model, site, values) for layer, values in gather.found[number].items()},
            site=site,
            origin=Origin.of(model.shape),
        )
        for number in range(len(items))
    ]
    return captures[0] if single else captures


def mean_activations(
    model: SteeringModel,
    corpus: Prompts,
    *,
    sites: Sites | str = "resid_post",
    by_position: bool = False,
    token_budget: int | None = None,
    runner: RunnerLike = None,
    progress: ProgressLike = None,
) -> LayerValues:
    """The mean of a component over the tokens of a corpus, for :class:`steersman.Mean`.

    Args:
        model: the model.
        corpus: texts or chats, of any lengths; padding never counts.
        sites: a component, or a choice such as ``heads("all")``; whole layers are kept, whatever heads were chosen.
        by_position: one mean per position, ``[longest, width]``, each over the texts that reach it; else one over all
            tokens but the first (which is an attention sink in most models).
        token_budget, runner, progress: as of :func:`activations`.

    Raises:
        DataError: no text has a token beyond its first, and ``by_position`` is off.
    """
    texts, _ = listed(corpus)
    choice = sites if isinstance(sites, Sites) else whole_site(check_component(sites))
    chosen = [layer for layer, _ in model.shape.expand(choice, "mean_activations()")]
    items = prepare(model, texts, None)
    lengths = [len(item.ids) for item in items]
    if not by_position:
        items = [Item(item.number, item.ids, item.read[1:]) for item in items if len(item.ids) > 1]
    if not items:
        raise DataError("the corpus has no token beyond the first of each text, and that one is left out of the mean")
    gather = MeanGather(max(lengths) if by_position else 1)
    work = Work(tuple(chosen), choice.component, average=False, token_budget=token_budget)
    run_work(model, items, work, gather, runner=runner, progress=progress)
    means = {
        layer: per_unit(model, choice.component, mean if by_position else mean[0])
        for layer, mean in gather.means().items()
    }
    facts = {"texts": len(texts), "tokens": sum(lengths), "by_position": by_position}
    return LayerValues(means, site=choice.component, name="means", origin=Origin.of(model.shape), metadata=facts)


def run_work(
    model: SteeringModel,
    items: Sequence[Item],
    work: Work,
    gather: Gather,
    *,
    runner: RunnerLike = None,
    progress: ProgressLike = None,
) -> None:
    """Read all items into a gather, with a progress bar where the work is long."""
    check_budget(work.token_budget)
    run = find_runner(runner)
    with reporting(progress, items, f"reading {len(items)} texts") as done:
        run(model, items, work, gather, done)


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
    token_budget: int | None = None,
    norms: Mapping[int, list[Tensor]] | None = None,
) -> None:
    """Run the model over items and hand what is read to a function, item by item and layer by layer.

    Args:
        read: which tokens to average; None hands over all of an item's tokens.
        receive: called with (item number, layer, float32 values on the CPU): ``[width]``, or ``[seq, width]``.
        norms: if given, collects per layer the norm of every token but the first of each text.
    """
    every = frozenset(range(len(items))) if norms is not None else frozenset[int]()
    work = Work(
        tuple(sorted(layers)), site, average=read is not None, norms=every, steer=Plan.of(steer),
        token_budget=token_budget,
    )  # fmt: skip
    run_work(model, prepare(model, items, read), work, _Callback(receive, norms), progress=False)


class _Callback:
    """A gather that keeps nothing."""

    def __init__(self, receive: Callable[[int, int, Tensor], None], norms: Mapping[int, list[Tensor]] | None) -> None:
        self.receive, self.norms = receive, norms

    def add(self, numbers: Sequence[int], rows: Mapping[int, Tensor | Sequence[Tensor]]) -> None:
        for layer, values in rows.items():
            for number, value in zip(numbers, values, strict=True):
                self.receive(number, layer, value)

    def add_norms(self, norms: Mapping[int, Tensor]) -> None:
        for layer, values in norms.items() if self.norms is not None else ():
            cast(Mapping[int, list[Tensor]], self.norms)[layer].append(values)

    def empty(self, numbers: Sequence[int]) -> _Callback:
        raise NotImplementedError("a function is called here and nowhere else")

    def merge(self, other: object) -> None:
        raise NotImplementedError("a function is called here and nowhere else")


def _work(
    model: SteeringModel,
    layers: str | Indices,
    site: str,
    *,
    average: bool = True,
    steer: PlanLike = None,
    token_budget: int | None = None,
) -> Work:
    chosen = tuple(resolve_layers(model, layers, site))
    return Work(chosen, site, average=average, steer=Plan.of(steer), token_budget=token_budget)


__all__ = ["TOKEN_BUDGET", "Activations", "activations", "batches", "capture", "mean_activations"]
