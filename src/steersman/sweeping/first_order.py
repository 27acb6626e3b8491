"""What plans would do to a logit target to first order: all layers and directions from one forward and backward pass.

With h the activation at a site, the mean of the target changes by about ``sum <dm/dh, h' - h>`` over the tokens
touched, where h' is what the plan makes of h. Exact where the model is linear between the site and the target, and in
the limit of small strengths; so it screens, and no effect is ever compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from ..evaluation.items import Array
from ..evaluation.scoring import batches
from ..model import SteeringModel
from ..model.hooks import Row
from ..model.hooks.program import Place
from ..model.resume import chunks_of, forked_rows
from ..plan import Plan
from .passes import TOKENS, Text

#: For each text: (which scored token, which token id, the derivative of the mean value by its log-probability)
Asked = Sequence[Sequence[tuple[int, int, float]]]
#: Values of activations that plans act on at once.
VALUES = 1 << 24


def changes(model: SteeringModel, texts: Sequence[Text], asked: Asked, plans: Sequence[Plan]) -> Array:
    """The first-order change of the mean value under each plan: ``[plans]`` float64.

    Args:
        model: the model.
        texts: what is run.
        asked: what of it is scored.
        plans: each at the strength it is asked about.
    """
    found = np.zeros(len(plans))
    places = sorted({(a.component, a.layer) for plan in plans for a in plan.actions(model.shape)})
    reads = sorted({a.when.layer for plan in plans for a in plan.actions(model.shape) if a.when is not None})
    for group in batches([text.length for text in texts], TOKENS // 2):
        chosen = [texts[number] for number in group]
        rows = [
            Row(len(text.prompt), text.prompt, model.tokens.find_marker, f"text {number}")
            for number, text in zip(group, chosen, strict=True)
        ]
        stood, slopes, hidden = _backward(model, chosen, [asked[number] for number in group], rows, places, reads)
        batch = model.tokens.batch([[*text.prompt, *text.rest] for text in chosen])
        columns = batch.input_ids.shape[1]
        size = max(1, VALUES // (len(rows) * columns * max(values.shape[-1] for values in stood.values())))
        for first in range(0, len(plans), size):
            some = plans[first : first + size]
            forked, chunks = forked_rows(rows, some), chunks_of(batch) * len(some)
            with torch.inference_mode(), model.engine.call(some, forked) as run:
                for when in run.program.conditions:
                    values = hidden[when.layer].repeat(len(some), 1, 1)
                    run.program.decide(when, values, forked, chunks)
                with run.by_hand(forked, chunks, columns, model.device) as step:
                    for place, site in run.program.sites.items():
                        before = stood[place].repeat(len(some), *[1] * (stood[place].dim() - 1))
                        after = site.act(before, step, model.architecture.tap(*place).scale)
                        if after is not None:
                            moved = (after.double() - before.double()).reshape(len(some), -1)
                            found[first : first + size] += (moved @ slopes[place].reshape(-1)).cpu().numpy()
    return found


def _backward(
    model: SteeringModel, texts: Sequence[Text], asked: Asked, rows: list[Row], places: Sequence[Place],
    reads: Sequence[int],
) -> tuple[dict[Place, Tensor], dict[Place, Tensor], dict[int, Tensor]]:  # fmt: skip
    """At each place what stands there and the derivative of the mean value by it; the stream behind some layers."""
    stood: dict[Place, Tensor] = {}
    nudges: dict[Place, Tensor] = {}
    hidden: dict[int, Tensor] = {}

    def nudged(place: Place) -> Callable[[Tensor], Tensor]:
        def act(found: Tensor) -> Tensor:
            stood[place] = found.detach().clone()  # a copy: the model may go on adding to it in place
            nudges[place] = torch.zeros_like(found, requires_grad=True)
            return found + nudges[place]

        return act

    def kept(layer: int) -> Callable[[Tensor], None]:
        def act(found: Tensor) -> None:
            hidden[layer] = found.detach().clone()

        return act

    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        batch = model.tokens.batch([[*text.prompt, *text.rest] for text in texts])
        stack.enter_context(model.engine.call([model.always], rows))
        for place in places:
            stack.callback(model.architecture.tap(*place).attach(nudged(place)).remove)
        for layer in reads:
            stack.callback(model.architecture.tap("resid_post", layer).attach(kept(layer)).remove)
        arguments = model.forward_arguments(batch)
        if model.architecture.keeps_logits:
            arguments["logits_to_keep"] = max(text.scored for text in texts)
        logits = model.architecture.hf(**arguments, use_cache=False).logits
        terms = [
            (row, logits.shape[1] - text.scored + step, token, weight)
            for row, (text, own) in enumerate(zip(texts, asked, strict=True))
            for step, token, weight in own
        ]
        row, column, token, weight = zip(*terms, strict=True)
        logs = logits[list(row), list(column)].float().log_softmax(-1)[range(len(terms)), list(token)]
        total = logs @ torch.tensor(weight, dtype=logs.dtype, device=logs.device)
        slopes = torch.autograd.grad(total, [nudges[place] for place in places])
    return stood, {place: slope.detach().double() for place, slope in zip(places, slopes, strict=True)}, hidden
