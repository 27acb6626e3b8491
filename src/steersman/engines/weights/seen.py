"""What a forward pass over a few tokens shows of a model where its structure does not tell."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UnsupportedError
from ...model import SteeringModel
from ...model.architecture import Architecture

_PROMPT = "The quick brown fox"


class Seen:
    """What was seen. Made by :func:`look`; ``blind``, it stands for a model without weights, which cannot run."""

    def __init__(self, architecture: Architecture, *, blind: bool = False) -> None:
        self.architecture = architecture
        self.blind = blind
        self.sums: dict[int, bool] = {}
        self.entered: Tensor | None = None
        self.token: Tensor | None = None
        self.place: Tensor | None = None

    def weights_sum_to_one(self, mlp: nn.Module) -> bool:
        """Whether the weights that a mixture gave its experts summed to one, at every token; True while blind."""
        return self.blind or self.sums.get(id(mlp), False)

    def embedding_scales(self) -> tuple[float, float]:
        """What the tables of embeddings and of positions are multiplied by before they enter block 0.

        Raises:
            UnsupportedError: when what enters is not their sum.
        """
        if self.entered is None or self.token is None:
            return 1.0, 1.0
        parts = [part for part in (self.token, self.place) if part is not None]
        if any(part.shape[-1] != self.entered.shape[-1] for part in parts):
            raise self._more()
        columns = torch.stack([part.double().expand_as(self.entered).flatten() for part in parts], dim=1)
        wanted = self.entered.double().flatten()
        scales = torch.linalg.lstsq(columns, wanted[:, None]).solution.flatten()
        off = float((columns @ scales - wanted).norm() / wanted.norm())
        if off > max(1e-5, 4 * torch.finfo(self.entered.dtype).eps):
            raise self._more()
        found = [_rounded(float(scale)) for scale in scales]
        return found[0], found[1] if len(found) > 1 else 1.0

    def _more(self) -> UnsupportedError:
        return UnsupportedError(
            f"{self.architecture.shape.name}: what enters block 0 is more than tables of embeddings and positions "
            "(they are projected, or something is added), so its weights cannot hold a change of it; act at resid_post "
            "of a layer, or keep the plan as an edit: model.edit(plan).save_pretrained(...)"
        )


def _rounded(scale: float) -> float:
    return float(round(scale)) if abs(scale - round(scale)) < 1e-6 else scale


def look(model: SteeringModel) -> Seen:
    """Run a model, unsteered, over a few tokens."""
    seen = Seen(model.architecture)
    with _watching(seen):
        model.edit([]).logits(_PROMPT)
    return seen


@contextmanager
def _watching(seen: Seen) -> Generator[None]:
    own, me = seen.architecture, threading.get_ident()
    embedding: Any = own.embedding

    def embedded(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
        if threading.get_ident() == me:
            # the table itself, where it is at hand: some embeddings scale what they look up
            plain = type(module) is nn.Embedding or module.weight.is_meta
            seen.token = output.detach().clone() if plain else module.weight.detach()[args[0]]

    def placed(module: Any, args: object, output: Tensor) -> None:
        if threading.get_ident() == me:
            seen.place = output.detach().clone()

    def entered(value: Tensor) -> None:
        if threading.get_ident() == me:
            seen.entered = value.detach().clone()

    def weighed(mlp: nn.Module, args: tuple[Any, ...]) -> None:
        weights = [arg for arg in args[1:] if isinstance(arg, Tensor) and arg.is_floating_point()]
        if threading.get_ident() == me and weights:
            sums = weights[0].detach().float().sum(-1)
            close = bool((sums - 1).abs().max() <= max(1e-5, 4 * torch.finfo(weights[0].dtype).eps))
            seen.sums[id(mlp)] = close and seen.sums.get(id(mlp), True)

    with ExitStack() as hooks:
        hooks.callback(embedding.register_forward_hook(embedded).remove)
        if own.position_embedding is not None:
            hooks.callback(own.position_embedding.register_forward_hook(placed).remove)
        hooks.callback(own.tap("resid_pre", 0).hook(entered).remove)
        for layer in range(own.shape.n_layers):
            mlp = own.mlp(layer)
            experts = cast("nn.Module | None", getattr(mlp, "experts", None))
            if experts is not None:
                handle = experts.register_forward_pre_hook(lambda _, args, mlp=mlp: weighed(mlp, args))  # pyright: ignore[reportArgumentType]
                hooks.callback(handle.remove)
        yield
