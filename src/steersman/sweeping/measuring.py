"""What many plans do: the target on every item, and the KL on neutral text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..evaluation.divergence import Divergence, kl
from ..evaluation.items import Array, Item, continuations, derivatives, scores, sources_of
from ..evaluation.neutral import layouts
from ..evaluation.targets.base import LogitTarget, Target
from ..model import SteeringModel
from ..model.tokens import Prompts, listed
from ..plan import Plan
from .first_order import changes
from .passes import Passes, Text, Way


class Effects:
    """The items of a logit target, prepared for plans that touch the same tokens."""

    def __init__(
        self, model: SteeringModel, target: LogitTarget, items: Sequence[Item], like: Plan, layers: Sequence[int],
        way: Way | None = None,
    ) -> None:  # fmt: skip
        self.model, self.target, self.items = model, target, list(items)
        self._how = (like, layers, way)
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

    @property
    def sources(self) -> tuple[str, ...]:
        """The source of each unit."""
        return sources_of(self.items)

    @property
    def engine(self) -> str:
        """The way plans are run."""
        return self.passes.way

    @property
    def why(self) -> str | None:
        """Why not a cheaper way."""
        return self.passes.why

    def values(self, plans: Sequence[Plan]) -> Array:
        """The target's value of each unit under each plan, ``[plans, units]`` float64."""
        return self.target.values(scores(self.items, self._log_probabilities(plans)))

    def _log_probabilities(self, plans: Sequence[Plan]) -> Array:
        """Of each continuation of each item under each plan, ``[plans, continuations]`` float64."""
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
        return found

    def first_order(self, plans: Sequence[Plan], units: Sequence[int] | Array | None = None) -> Array:
        """The first-order change of the mean value over some units under each plan: ``[plans]``.

        Raises:
            UnsupportedError: a target with values of its own, whose derivative is not known.
        """
        check_screen(self.target)
        by = derivatives(self.items, self._log_probabilities([Plan()])[0], self.target.measure_by, units)
        asked = [[(step, token, float(by[place])) for step, token, place in own] for own in self._asked]
        return changes(self.model, self.passes.texts, asked, plans)

    def on(self, units: Sequence[int]) -> Effects:
        """The same for some of the units, in this order."""
        numbers = {unit: number for number, unit in enumerate(units)}
        items = [replace(item, unit=numbers[item.unit]) for item in self.items if item.unit in numbers]
        return Effects(self.model, self.target, items, *self._how)


class Measured:
    """Any other target, measured plan by plan in whole forward passes."""

    engine, why = "measure", "the target is not read off the logits"

    def __init__(
        self, model: SteeringModel, target: Target, prompts: Prompts | None, sources: Sequence[str] | None
    ) -> None:
        self.model, self.target = model, target
        self._prompts, self._given = prompts, sources
        first = target.measure(model, prompts, sources=sources)
        self.sources, self._base = first.sources, first.values

    def values(self, plans: Sequence[Plan]) -> Array:
        """The target's value of each unit under each plan, ``[plans, units]`` float64."""
        return np.stack([self._values(plan) if plan else self._base for plan in plans])

    def _values(self, plan: Plan) -> Array:
        return self.target.measure(self.model, self._prompts, steer=plan, sources=self._given).values

    def first_order(self, plans: Sequence[Plan], units: Sequence[int] | Array | None = None) -> Array:
        """Refused: see :func:`check_screen`."""
        check_screen(self.target)
        raise AssertionError("a logit target is measured by Effects")

    def on(self, units: Sequence[int]) -> Measured:
        """The same for some of the units, in this order.

        Raises:
            UnsupportedError: a target whose units are not its prompts, one by one.
        """
        prompts = [] if self._prompts is None else listed(self._prompts)[0]
        if len(prompts) != len(self.sources):
            raise UnsupportedError(
                f"halving measures some prompts only, and {type(self.target).__name__} does not give one value for each"
            )
        few: Any = [prompts[unit] for unit in units]
        return Measured(self.model, self.target, few, [self.sources[unit] for unit in units])


Measurer = Effects | Measured


def check_screen(target: Target) -> None:
    """Refuse first-order screening where the derivative of the target is not known.

    Raises:
        UnsupportedError: it is not read off the logits, or computes values of its own.
    """
    if not isinstance(target, LogitTarget):
        raise UnsupportedError(
            f"first-order screening needs a target that is read off the logits, and {type(target).__name__} is not; "
            "leave screen= out (halving= does without)"
        )
    if type(target).values is not LogitTarget.values:
        raise UnsupportedError(f"{type(target).__name__} computes values of its own; sweep it without screen=")


def measurer(
    model: SteeringModel, target: Target, prompts: Prompts | None, sources: Sequence[str] | None, like: Plan,
    layers: Sequence[int], way: Way | None,
) -> Measurer:  # fmt: skip
    """What measures a target under plans like one: by the cheapest exact way if it is read off the logits."""
    if not isinstance(target, LogitTarget):
        return Measured(model, target, prompts, sources)
    return Effects(model, target, target.items(model, prompts, sources=sources), like, layers, way)


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
