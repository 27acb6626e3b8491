"""The two sides of a comparison: a model as it is, and steered; and everything both are measured on, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..model import SteeringModel
from ..model.tokens import Prompt
from ..operations import Add
from ..plan import Plan
from .controls import DIRECTED, Cloud, random_plans, token_activations
from .divergence import Divergence, divergences
from .samples import Samples, Sampling, draw
from .scoring import score_plans
from .statistics import Array
from .targets.base import LogitTarget, Measurement, Target

#: Words of a neutral text that a generation begins with where there are no prompts.
OPENING = 5


@dataclass(frozen=True, eq=False)
class Arm:
    """A model, and what steers it."""

    model: SteeringModel
    plan: Plan = field(default_factory=Plan)


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        random: random directions drawn as control; 0 for none.
        random_generated: of these, how many where every one costs a generation.
        sampling: of the generated texts.
        max_kl: the budget, nats per token.
        seed: of everything drawn.
    """

    random: int = 100
    random_generated: int = 20
    sampling: Sampling = field(default_factory=lambda: Sampling())
    max_kl: float = 0.1
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Comparison:
    """What metrics are computed from.

    Attributes:
        base, steered: the two arms.
        target: what steering is for, or None.
        prompts: what the target is measured on; None for a target that brings its own, or without a target.
        sources: of the prompts.
        neutral: neutral texts.
        settings: how much.
    """

    base: Arm
    steered: Arm
    target: Target | None
    prompts: list[Prompt] | None
    sources: list[str] | None
    neutral: tuple[str, ...]
    settings: Settings

    @property
    def openings(self) -> list[Prompt]:
        """What texts are generated from: the prompts, or the first words of the neutral texts."""
        if self.prompts is not None:
            return self.prompts
        return [" ".join(text.split()[:OPENING]) for text in self.neutral]

    @property
    def scalable(self) -> bool:
        """Whether the steered arm is the base with a plan, whose strength can be changed."""
        return self.steered.model is self.base.model and bool(self.steered.plan)

    @cached_property
    def controls(self) -> list[Plan]:
        """The plan with random directions in place of its own; empty where there can be none."""
        plan = self.steered.plan
        if not self.scalable or not self.settings.random or not any(type(item) in DIRECTED for item in plan):
            return []
        cloud = None
        if any(type(item) in DIRECTED and not isinstance(item, Add) for item in plan):
            cloud = Cloud.of(token_activations(self.base.model, list(self.neutral)))
        return random_plans(plan, self.settings.random, seed=self.settings.seed, cloud=cloud)

    def measure(self, arm: Arm, *, preface: str | None = None, plan: Plan | None = None) -> Measurement:
        """The target of an arm (under another plan, if one is given)."""
        assert self.target is not None
        steer = arm.plan if plan is None else plan
        return self.target.measure(arm.model, self.prompts, steer=steer, sources=self.sources, preface=preface)

    @cached_property
    def before(self) -> Measurement:
        """The target, unsteered."""
        return self.measure(self.base)

    @cached_property
    def after(self) -> Measurement:
        """The target, steered."""
        return self.measure(self.steered)

    def under(self, plans: Sequence[Plan]) -> Array:
        """The target's values ``[plans, units]`` of the base model under each of several plans."""
        assert self.target is not None
        if isinstance(self.target, LogitTarget):
            items = self.target.items(self.base.model, self.prompts, sources=self.sources)
            return self.target.values(score_plans(self.base.model, items, plans))
        return np.stack([self.measure(self.base, plan=plan).values for plan in plans])

    @cached_property
    def random_effects(self) -> Array:
        """The mean change of the target under each random direction."""
        plans = self.controls
        if self.target is not None and not isinstance(self.target, LogitTarget):
            plans = plans[: self.settings.random_generated]
        return (self.under(plans) - self.before.values).mean(1)

    @cached_property
    def divergence(self) -> Divergence:
        """What it costs on neutral text."""
        return self.divergences([self.steered])[0]

    def divergences(self, arms: Sequence[Arm]) -> list[Divergence]:
        """The same of other arms that affect the same tokens."""
        sides = [(arm.model, arm.plan) for arm in arms]
        return divergences(self.base.model, self.neutral, sides, base=self.base.plan)

    @cached_property
    def samples(self) -> tuple[Samples, Samples, Samples]:
        """Texts of the base, of the base at another seed (how much chance changes), and steered."""
        sources = self.sources if self.prompts is not None else None
        sampling, seed = self.settings.sampling, self.settings.seed
        again = seed + 500_009
        return (
            draw(self.base.model, self.openings, self.base.plan, sampling, seed, sources),
            draw(self.base.model, self.openings, self.base.plan, sampling, again, sources),
            draw(self.steered.model, self.openings, self.steered.plan, sampling, seed, sources),
        )
