"""How far a plan moves the model where it should not: KL on neutral text.

``K(s) = mean_t KL(p_0(. | x_<=t) || p_s(. | x_<=t))`` over the affected tokens t of neutral text, in nats per token:
what the unsteered model would have said, lost in the steered one. All tokens count, teacher-forced: the KL of the first
token alone, which some tools report, misses how a change builds up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..model import SteeringModel
from ..plan import PlanLike
from .items import Array
from .neutral import layouts
from .scoring import TOKEN_BUDGET, batches
from .statistics import Estimate, mean, share, statistic

#: Predictions compared at once: both distributions in float64.
CHUNK = 128


def kl(base: Tensor, steered: Tensor) -> tuple[Tensor, Tensor]:
    """``KL(p || q)`` of next-token distributions, and whether their likeliest token agrees.

    Args:
        base, steered: logits ``[..., vocab]`` of p and q; of any float dtype.

    Returns:
        nats ``[...]`` float64, never below zero, and booleans ``[...]``, both on the CPU.
    """
    flat, other = base.flatten(0, -2), steered.flatten(0, -2).to(base.device)
    parts: list[Tensor] = []
    for start in range(0, len(flat), CHUNK):
        p = torch.log_softmax(flat[start : start + CHUNK].double(), -1)
        q = torch.log_softmax(other[start : start + CHUNK].double(), -1)
        # where p is zero its term is zero, also where q is too
        terms = torch.where(p == -torch.inf, 0.0, p.exp() * (p - q))
        parts.append(terms.sum(-1).clamp_min(0))
    shape = base.shape[:-1]
    return torch.cat(parts).reshape(shape).cpu(), (flat.argmax(-1) == other.argmax(-1)).reshape(shape).cpu()


@dataclass(frozen=True, eq=False)
class Divergence:
    """What a plan does to the predictions on neutral texts.

    Attributes:
        kl: ``[tokens]`` nats, of each affected prediction.
        agrees: ``[tokens]`` whether the likeliest token stayed the same.
        texts: ``[tokens]`` which text each is of.
    """

    kl: Array
    agrees: Array
    texts: Array

    @property
    def mean(self) -> float:
        """``K``: nats per affected token."""
        return float(self.kl.mean())

    @property
    def p95(self) -> float:
        """The 95th percentile over affected tokens: the mean hides rare large changes."""
        return float(np.quantile(self.kl, 0.95))

    @property
    def top1(self) -> float:
        """The share of predictions whose likeliest token stayed the same."""
        return float(self.agrees.mean())

    def estimates(self, seed: int = 0) -> dict[str, Estimate]:
        """``mean``, ``p95`` and ``top1`` with intervals over texts."""
        return {
            "mean": mean(self.kl, self.texts, seed=seed),
            "p95": statistic(lambda values: float(np.quantile(values, 0.95)), self.kl, self.texts, seed=seed),
            "top1": share(self.agrees, self.texts),
        }


#: A model, and what steers it.
Side = tuple[SteeringModel, PlanLike]


def divergence(
    model: SteeringModel,
    texts: Sequence[str],
    plan: PlanLike = None,
    *,
    other: SteeringModel | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> Divergence:
    """Compare a model with itself under a plan, or with another model, on neutral texts.

    Args:
        model: the model; it is p.
        texts: neutral texts.
        plan: what steers q.
        other: the model of q, ``model`` unless given (an edited or baked one); it must have the same tokenizer.
        token_budget: padded tokens per forward pass.

    Raises:
        DataError, PromptError, MismatchError: before any forward pass.
    """
    return divergences(model, texts, [(other if other is not None else model, plan)], token_budget=token_budget)[0]


def divergences(
    model: SteeringModel,
    texts: Sequence[str],
    sides: Sequence[Side],
    *,
    base: PlanLike = None,
    token_budget: int = TOKEN_BUDGET,
) -> list[Divergence]:
    """Compare a model with several others, or with itself under several plans; its own passes are made once.

    Args:
        model: the model; it is p, under ``base``.
        texts: neutral texts.
        sides: (model, plan) of each q. All must affect the same tokens, as the same plan with other directions or
            strengths does.
        base: what steers p.
        token_budget: padded tokens per forward pass.

    Raises:
        DataError, PromptError, MismatchError: before any forward pass.
    """
    laid = [layouts(other, texts, plan) for other, plan in sides]
    plans = laid[0] if laid else []
    if any(one != plans for one in laid):
        raise DataError("plans that affect different tokens are compared one by one")
    found = [[(torch.empty(0), torch.empty(0))] * len(plans) for _ in sides]
    for group in batches([len(one.prompt) + len(one.rest) for one in plans], token_budget):
        prompts, rest = [plans[i].prompt for i in group], [plans[i].rest for i in group]
        keep = max(plans[i].affected for i in group)
        p = model.token_logits(prompts, rest, steer=base, keep=keep)
        for own, (other, plan) in zip(found, sides, strict=True):
            q = other.token_logits(prompts, rest, steer=plan, keep=keep)
            for row, number in enumerate(group):
                counted = slice(-plans[number].affected, None)
                own[number] = kl(p[row, counted], q[row, counted])
    of = np.repeat(np.arange(len(plans)), [one.affected for one in plans])
    return [
        Divergence(
            torch.cat([nats for nats, _ in own]).numpy(), torch.cat([same for _, same in own]).numpy().astype(bool), of
        )
        for own in found
    ]
