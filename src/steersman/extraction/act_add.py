"""Activation addition as published: the difference of two prompts, token by token.

Turner et al. 2023, "Steering Language Models With Activation Engineering" (arXiv:2308.10248):

    h_p -> h_p + c (h+_p - h-_p)        at the input of block l, for p = 0 .. T-1

with h+ and h- the activations of the two prompts there, aligned at their first token; the shorter prompt is padded on
the right with spaces, so that both have T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError
from ..model import SteeringModel
from ..model.hooks import read_sites
from ..model.hooks.reading import stop_after
from ..model.tokens import Prompt
from ..operations import Add
from ..plan import Plan
from ..vector import Origin, SteeringVector

SITE = "resid_pre"


def act_add(model: SteeringModel, positive: Prompt, negative: Prompt, layer: int, coefficient: float = 1.0) -> Plan:
    """The plan that adds ``coefficient`` times the difference of two prompts, each token's at its own position.

    The prompts are tokenised as any prompt is, so a beginning-of-sequence token that the tokenizer adds is position 0
    (and adds nothing, being the same in both). The shorter one is padded with the token of a space. Only prompt tokens
    are touched, once; what is generated is steered through them. A prompt of fewer than T tokens is refused when the
    plan meets it, as the paper's own code does.

    Args:
        model: the model.
        positive, negative: two prompts, such as ``"Love"`` and ``"Hate"``.
        layer: the block at whose input (``resid_pre``) is read and added; GPT-2 XL: 6.
        coefficient: c; 5 in that example.

    Raises:
        DataError: the prompts have the same tokens.
        PromptError, MismatchError: before any forward pass.
    """
    layer = model.shape.layer(layer, "act_add()")
    both = [model.tokens.encode(positive), model.tokens.encode(negative)]
    length = max(len(ids) for ids in both)
    rows = [ids + [_space(model)] * (length - len(ids)) for ids in both]
    if rows[0] == rows[1]:
        raise DataError(f"{positive!r} and {negative!r} have the same tokens, so there is no difference to add")
    model.check_length(rows)
    above, below = _read(model, rows, layer)
    names = [model.tokens.decode(ids).strip() for ids in both]
    return Plan(
        Add(
            SteeringVector(
                {layer: difference}, site=SITE, name=f"{names[0]} - {names[1]} [{position}]", method="act_add",
                layer=layer, origin=Origin.of(model.shape),
            ),
            strength=coefficient, layers=layer, positions=f"prompt[{position}]",
        )
        for position, difference in enumerate(above - below)
        if bool(difference.any())
    )  # fmt: skip


def _space(model: SteeringModel) -> int:
    """The token of a single space; the last one where a tokenizer makes several."""
    return model.tokens.continuation(" ")[-1]


def _read(model: SteeringModel, rows: list[list[int]], layer: int) -> Tensor:
    """``[2, T, d_model]``: the input of a block, float32."""
    place = (SITE, layer)
    with (
        model.forward_only(None, rows) as forward,
        read_sites(model.architecture, [place], len(rows[0])) as seen,
        stop_after(model.architecture, layer),
    ):
        forward(model.tokens.batch(rows))
    return torch.stack(list(seen[place])).float().cpu()
