"""What plans do to a target, and to the next token after prompts: few plans, whatever they touch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..evaluation.divergence import kl
from ..evaluation.items import Array, sources_of
from ..evaluation.scoring import TOKEN_BUDGET, batches, score_plans
from ..evaluation.targets.base import LogitTarget, Target
from ..model import SteeringModel
from ..model.tokens import Prompt
from ..plan import Plan


class Measured:
    """A target on some prompts.

    Attributes:
        sources: of its units.
    """

    def __init__(
        self, model: SteeringModel, target: Target, prompts: Sequence[Prompt], sources: Sequence[str]
    ) -> None:  # fmt: skip
        self._model, self._target, self._prompts, self._sources = model, target, list(prompts), list(sources)
        self._items = None
        if isinstance(target, LogitTarget):
            self._items = target.items(model, self._prompts, sources=self._sources)
            self.sources = sources_of(self._items)
        else:
            self.sources = tuple(self._sources)

    def values(self, plans: Sequence[Plan]) -> Array:
        """``[plans, units]`` float64."""
        if self._items is not None:
            assert isinstance(self._target, LogitTarget)
            return self._target.values(score_plans(self._model, self._items, plans))
        found = [self._target.measure(self._model, self._prompts, steer=plan, sources=self._sources) for plan in plans]
        self.sources = found[0].sources
        return np.stack([one.values for one in found])


def next_token_kl(model: SteeringModel, prompts: Sequence[Prompt], plans: Sequence[Plan]) -> Array:
    """``KL(p_0 || p_plan)`` of the next token after each prompt, ``[plans, prompts]``, nats."""
    ids = model.tokens.encode_all(list(prompts))
    found = np.zeros((len(plans), len(ids)))
    for group in batches([len(row) for row in ids], TOKEN_BUDGET // 2):
        rows = [ids[i] for i in group]
        base = model.token_logits(rows, keep=1)
        for number, plan in enumerate(plans):
            with torch.inference_mode():
                found[number, group] = kl(base, model.token_logits(rows, steer=plan, keep=1))[0][:, 0].numpy()
    return found
