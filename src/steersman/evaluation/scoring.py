"""Scoring items and texts with a model: the plain way, in batches, that faster ones are held to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..model import SteeringModel
from ..plan import PlanLike
from .items import Item, Scores, continuations, scores

#: Padded tokens of one forward pass, unless a caller knows better.
TOKEN_BUDGET = 4096


def score(
    model: SteeringModel, items: Sequence[Item], *, steer: PlanLike = None, token_budget: int = TOKEN_BUDGET
) -> Scores:
    """The scores of items under a plan.

    Continuations are teacher-forced and count as generated, as they would if the model had produced them; those of a
    single token need no more than the prompt.

    Args:
        model: the model.
        items: what to score.
        steer: a plan in force meanwhile.
        token_budget: padded tokens per forward pass; the result does not depend on it.

    Raises:
        PromptError, MismatchError, NotAppliedError: before the forward pass concerned.
    """
    found = score_plans(model, items, [steer], token_budget=token_budget)
    return Scores(found.log_positive[0], found.log_negative[0], found.units, found.sources)


def score_plans(
    model: SteeringModel, items: Sequence[Item], plans: Sequence[PlanLike], *, token_budget: int = TOKEN_BUDGET
) -> Scores:
    """The scores of the same items under several plans, ``[plans, items]``; plans share forward passes.

    Arguments and errors as :func:`score`.
    """
    return scores(items, continuation_log_probabilities(model, items, plans, token_budget=token_budget))


def continuation_log_probabilities(
    model: SteeringModel, items: Sequence[Item], plans: Sequence[PlanLike], *, token_budget: int = TOKEN_BUDGET
) -> Tensor:
    """``log p`` of every continuation of every item under each plan: ``[plans, continuations]`` float64, on the CPU.

    The order is that of :func:`~steersman.evaluation.items.continuations`. Plans share forward passes where all
    continuations are single tokens; these need no more than the prompts.
    """
    if not plans:
        raise ValueError("no plan to score under")
    if not all(item.single for item in items):
        pairs = [(items[one.item].prompt, one.ids) for one in continuations(items)]
        each = [token_log_probabilities(model, pairs, plan, token_budget) for plan in plans]
        return torch.tensor([[float(row.sum()) for row in found] for found in each], dtype=torch.float64)
    rows: list[Tensor] = [torch.empty(0)] * (len(plans) * len(items))
    for group in batches([len(item.prompt) for _ in plans for item in items], token_budget):
        prompts = [items[i % len(items)].prompt for i in group]
        steer = [plans[i // len(items)] for i in group]
        logits = model.token_logits(prompts, steer=steer, keep=1)[:, -1].float()
        for number, row in zip(group, logits, strict=True):
            item = items[number % len(items)]
            chosen = [ids[0] for ids in (*item.positive, *item.negative)]
            rows[number] = (row[chosen].double() - torch.logsumexp(row, -1).double()).cpu()
    return torch.cat(rows).reshape(len(plans), -1)


def token_log_probabilities(
    model: SteeringModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    steer: PlanLike = None,
    token_budget: int = TOKEN_BUDGET,
) -> list[Tensor]:
    """``log p`` of each token of each continuation, given what stands before it.

    Args:
        model: the model.
        pairs: (prompt, continuation) token ids, the continuation not empty.
        steer: a plan in force meanwhile.
        token_budget: padded tokens per forward pass.

    Returns:
        For each pair a float64 tensor on the CPU with one value per continuation token.
    """
    found: list[Tensor] = [torch.empty(0)] * len(pairs)

    def receive(number: int, logits: Tensor) -> None:
        ids = torch.tensor(list(pairs[number][1]), device=logits.device)
        chosen = logits.gather(-1, ids[:, None])[:, 0].double()
        found[number] = (chosen - torch.logsumexp(logits, -1).double()).cpu()

    continuation_logits(model, pairs, receive, steer=steer, token_budget=token_budget)
    return found


def continuation_logits(
    model: SteeringModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    receive: Callable[[int, Tensor], None],
    *,
    steer: PlanLike = None,
    token_budget: int = TOKEN_BUDGET,
) -> None:
    """Hand over the logits that predict each continuation: float32 ``[tokens, vocab]``, row t before token t.

    Args:
        receive: called with the number of the pair and its logits, in no particular order.
    """
    for group in batches([len(a) + len(b) - 1 for a, b in pairs], token_budget):
        keep = max(len(pairs[i][1]) for i in group)
        prompts, rest = [pairs[i][0] for i in group], [pairs[i][1][:-1] for i in group]
        logits = model.token_logits(prompts, rest, steer=steer, keep=keep)
        for number, row in zip(group, logits, strict=True):
            receive(number, row[-len(pairs[number][1]) :].float())


def batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Indices of rows of similar length, as many together as fit the budget when padded; one row always fits."""
    group: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if group and lengths[number] * (len(group) + 1) > token_budget:
            yield group
            group = []
        group.append(number)
    if group:
        yield group
