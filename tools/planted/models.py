"""Tiny random GPT-2 models, with a direction planted at a layer or without.

A planted direction u at layer l is one that the model uses there and nowhere else:

- the MLP of block l takes out of the residual stream whatever lies along u, so that nothing put there earlier arrives;
- the MLP of block l + 1 reads u and writes w, the direction that tells the two sides of the target apart in the logits.

Both are exact linear maps of the normed residual, made of pairs of neurons: ``gelu(a) - gelu(-a) = a``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from tests.models import tiny, tiny_tokenizer
from torch import Tensor

import steersman as sm

LAYERS = 5
#: What the sweep searches by itself: from a tenth to nine tenths of the depth.
SEARCHED = (1, 2, 3, 4)
POSITIVE, NEGATIVE = " great", " awful"
FILLERS = (" the", " a", " is", " was", " of", " and", " good", " bad")
#: Tokens of a prompt.
LENGTH = 3


@dataclass(frozen=True, eq=False)
class Planted:
    """A model, what is known of it, and a direction to try on it.

    Attributes:
        model: the model.
        layer: where the direction is planted; None without one.
        vector: ``[d_model]``, what is tried: the planted direction, turned away from it at random as an extracted one
            would be; without one, a random direction.
    """

    model: sm.SteeringModel
    layer: int | None
    vector: Tensor


def planted(seed: int, *, gain: float = 1.0, cosine: float = 0.8, length: float = 1.0) -> Planted:
    """A model with a direction planted at a layer drawn at random.

    Args:
        seed: of everything drawn.
        gain: how strongly the block above reads the direction.
        cosine: between the direction tried and the planted one.
        length: of the direction tried.
    """
    model, generator = _random(seed)
    layer = int(torch.randint(SEARCHED[0], LAYERS - 1, (), generator=generator))
    direction = _unit(_centred(torch.randn(model.d_model, generator=generator)))
    with torch.no_grad():
        _map(model, layer, direction, -direction)
        read_out(model, layer + 1, direction, gain)
    away = torch.randn(model.d_model, generator=generator)
    away = _unit(away - (away @ direction) * direction)
    return Planted(model, layer, length * (cosine * direction + (1 - cosine**2) ** 0.5 * away))


def bare(seed: int, *, length: float = 1.0) -> Planted:
    """A model of the same kind with nothing planted, and a random direction."""
    model, generator = _random(seed)
    return Planted(model, None, length * _unit(torch.randn(model.d_model, generator=generator)))


def prompts(count: int, seed: int) -> list[str]:
    """Prompts of a few words, drawn with replacement from :func:`population`."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(0, len(FILLERS), (count, LENGTH), generator=generator)
    return ["".join(FILLERS[i] for i in row) for row in picks.tolist()]


def population() -> list[str]:
    """All prompts there are: an effect's truth is its mean over them."""
    return ["".join(words) for words in product(FILLERS, repeat=LENGTH)]


def read_out(model: Any, layer: int, direction: Tensor, gain: float) -> None:
    """Make the MLP of a block write, for each unit along a direction, ``gain`` units of what drives the target."""
    _map(model, layer, direction, gain * driving(model))


def driving(model: Any) -> Tensor:
    """The unit direction that drives the target: in front of the last norm, the difference of its two logits."""
    head = model.hf.lm_head.weight
    positive, negative = (model.tokens.continuation(text)[0] for text in (POSITIVE, NEGATIVE))
    return _unit((head[positive] - head[negative]) * model.hf.transformer.ln_f.weight)


def _random(seed: int) -> tuple[Any, torch.Generator]:
    model = sm.SteeringModel(tiny("gpt2", seed=seed, num_hidden_layers=LAYERS), tiny_tokenizer())
    return model, torch.Generator().manual_seed(seed + 1_000_003)


def _centred(vector: Tensor) -> Tensor:
    return vector - vector.mean()


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def _spread(model: sm.SteeringModel, layer: int) -> Tensor:
    """By what the norm before a block's MLP divides on average: the standard deviation of the residual there."""
    found = sm.capture(model, prompts(1, 0)[0], site="resid_mid")[layer]
    return found.std(-1, unbiased=False)[1:].mean()


def _map(model: Any, layer: int, read: Tensor, write: Tensor) -> None:
    """Give two neurons of a block's MLP over to ``h -> (read . h) write``, up to how the norm's divisor varies."""
    norm, mlp = model.hf.transformer.h[layer].ln_2, model.hf.transformer.h[layer].mlp
    write = _spread(model, layer) * write
    mlp.c_fc.weight[:, 0] = read / norm.weight
    mlp.c_fc.bias[0] = -(read / norm.weight) @ norm.bias
    mlp.c_fc.weight[:, 1] = -mlp.c_fc.weight[:, 0]
    mlp.c_fc.bias[1] = -mlp.c_fc.bias[0]
    mlp.c_proj.weight[0], mlp.c_proj.weight[1] = write, -write
