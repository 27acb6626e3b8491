"""What touching a component would do, to first order: all components from one forward and one backward pass.

With a the activation of a component and a* what would be put in its place, the metric changes by about
``sum <dm/da, a* - a>``, the sum over the tokens touched (attribution patching; Nanda 2023; Syed et al. 2023,
arXiv:2310.10348). Exact where the model is linear between the component and the metric; least to be trusted where
attention patterns or saturated norms lie in between, so it screens, and does not replace, the exact study.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from ..model import SteeringModel
from ..model.hooks import Row
from .components import Place
from .groups import Group
from .measuring import Array, Meter, Trial
from .sources import Source


def first_order(
    model: SteeringModel,
    groups: Sequence[Group],
    trials: Sequence[Trial],
    source: Source,
    meter: Meter,
    compared: Callable[[Group], Tensor] | None = None,
) -> Array:
    """The first-order change of the metric of every prompt in every trial: ``[trials, prompts]`` float64; NaN where a
    trial touches no token of a prompt. The arguments are those of :func:`measure`.
    """
    found = np.full((len(trials), sum(group.rows for group in groups)), np.nan)
    places = list(dict.fromkeys(place for trial in trials for place in trial.places))
    for group in groups:
        source.prepare(group, places)
        changes = _changes(model, group, places, source, meter, compared)
        sums: dict[tuple[Place, object], Tensor] = {}
        for number, trial in enumerate(trials):
            chosen = group.selected(trial.positions)
            total = torch.zeros(group.rows, dtype=torch.float64)
            for part in trial.component.parts:
                key = (part.place, trial.positions)
                if key not in sums:
                    sums[key] = (changes[part.place] * chosen[..., None]).sum(1)
                total += sums[key] @ part.columns(model.shape).double()
            total[~chosen.any(1)] = torch.nan
            found[number, list(group.numbers)] = total.numpy()
    return found


def _changes(
    model: SteeringModel, group: Group, places: Sequence[Place], source: Source, meter: Meter,
    compared: Callable[[Group], Tensor] | None,
) -> dict[Place, Tensor]:  # fmt: skip
    """``dm/da (a* - a)`` value by value at each place: ``[rows, columns, width]`` float64 on the CPU."""
    nudges: dict[Place, Tensor] = {}
    now: dict[Place, Tensor] = {}

    def nudged(place: Place) -> Callable[[Tensor], Tensor]:
        def act(found: Tensor) -> Tensor:
            now[place] = found.detach().clone()
            nudges[place] = torch.zeros_like(found, requires_grad=True)
            return found + nudges[place]

        return act

    rows = [
        Row(len(ids), ids, model.tokens.find_marker, f"prompt {n}")
        for n, ids in zip(group.numbers, group.ids, strict=True)
    ]
    base = None if compared is None else compared(group)
    with torch.enable_grad(), ExitStack() as stack:
        stack.enter_context(model.engine.call([model.always], rows))
        for place in places:
            stack.callback(model.architecture.tap(*place).hook(nudged(place)).remove)
        logits = model.architecture.hf(**model.forward_arguments(group.batch), use_cache=False).logits
        measured = meter(meter.scored(logits), group, meter.scored(logits).detach() if base is None else base.clone())
        slopes = torch.autograd.grad(measured.sum(), [nudges[place] for place in places])
    found: dict[Place, Tensor] = {}
    for place, slope in zip(places, slopes, strict=True):
        shape = (group.rows, group.columns, slope.shape[-1])
        wanted = source.at(place, group).to(slope.device).double()
        found[place] = (slope.double().reshape(shape) * (wanted - now[place].double().reshape(shape))).cpu()
    return found
