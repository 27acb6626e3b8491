"""What many plans do: the target on every item, and the KL on neutral text, from logits at the scored tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..evaluation.divergence import Divergence, kl
from ..evaluation.items import Array, Item, continuations, scores
from ..evaluation.neutral import layouts
from ..evaluation.targets.base import LogitTarget
from ..model import SteeringModel
from ..plan import Plan
from .passes import Passes, Text, Way


class Effects:
    """The items of a logit target, prepared for plans that touch the same tokens."""

    def __init__(
        self, model: SteeringModel, target: LogitTarget, items: Sequence[Item], like: Plan, layers: Sequence[int],
        way: Way | None = None,
    ) -> None:  # fmt: skip
        self.target, self.items = target, list(items)
        numbers: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        #: of each text: (which scored token, which token id, which continuation)
        self._asked: list[list[tuple[int, int, int]]] = []
        self._listed = continuations(self.items)
        for place, one in enumerate(self._listed):
            key = (self.items[one.item].prompt, one.ids[:-1])
            if key not in numbers:
                numbers[key] = len(numbers)
                self._asked.append([])
            self._asked[numbers[key]] += [(step, token, place) for step, token in enumerate(one.ids)]
        texts = [Text(prompt, rest, len(prompt) - 1) for prompt, rest in numbers]
        self.passes = Passes(model, texts, like, layers, way)

    def values(self, plans: Sequence[Plan]) -> Array:
        """The target's value of each unit under each plan, ``[plans, units]`` float64."""
        found = np.zeros((len(plans), len(self._listed)))

        def receive(some: list[int], texts: list[int], logits: Tensor) -> None:
            columns: list[int] = []
            tokens: list[int] = []
            places: list[int] = []
            before = 0
            for text in texts:
                for step, token, place in self._asked[text]:
                    columns.append(before + step)
                    tokens.append(token)
                    places.append(place)
                before += self.passes.texts[text].scored
            wide = logits.float()
            total = torch.logsumexp(wide, -1)[:, columns].double()
            chosen = wide[:, columns, tokens].double() - total
            np.add.at(found, np.ix_(some, places), chosen.cpu().numpy())

        self.passes.run(plans, receive)
        return self.target.values(scores(self.items, found))


@dataclass(frozen=True)
class SideEffect:
    """KL per affected token on neutral text: mean, 95th percentile, share of likeliest tokens unchanged, tokens."""

    kl: float
    kl_p95: float
    top1: float
    tokens: int


class SideEffects:
    """Neutral texts, prepared for plans that touch the same tokens."""

    def __init__(
        self, model: SteeringModel, texts: Sequence[str], like: Plan, layers: Sequence[int], way: Way | None = None
    ) -> None:
        found = [Text(one.prompt, one.rest, one.first) for one in layouts(model, texts, like)]
        self.passes = Passes(model, found, like, layers, way)
        self._base: dict[int, Tensor] = {}
        self.passes.run([Plan()], self._keep)

    def _keep(self, some: list[int], texts: list[int], logits: Tensor) -> None:
        self._base[texts[0]] = logits[0].clone()

    def measure(self, plans: Sequence[Plan]) -> list[SideEffect]:
        """What each plan does."""
        nats: list[list[Array]] = [[] for _ in plans]
        agrees: list[list[Array]] = [[] for _ in plans]

        def receive(some: list[int], texts: list[int], logits: Tensor) -> None:
            for number, own in zip(some, logits, strict=True):
                lost, same = kl(self._base[texts[0]], own)
                nats[number].append(lost.numpy())
                agrees[number].append(same.numpy())

        self.passes.run(plans, receive)
        found: list[SideEffect] = []
        for lost, same in zip(nats, agrees, strict=True):
            whole = Divergence(np.concatenate(lost), np.concatenate(same), np.zeros(sum(map(len, lost))))
            found.append(SideEffect(whole.mean, whole.p95, whole.top1, len(whole.kl)))
        return found
