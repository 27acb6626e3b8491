"""The initial weights: what training starts from.

Output projections start at zero. Positions start as sinusoids in channels of their own, as long as the token
embeddings: the first blocks, which could otherwise keep them, hardly attend, so they must last until the middle.
"""

from __future__ import annotations

import torch
from transformers import GPT2LMHeadModel

POSITION_WIDTH = 32
LONGEST, SHORTEST = -2.2, 0.2  # log10 of the angle per token


def initialise(model: GPT2LMHeadModel, scale: float) -> None:
    """Fill the embeddings, of standard deviation `scale`, and the output projections in place."""
    body = model.transformer
    with torch.no_grad():
        body.wte.weight.normal_(std=scale)
        body.wte.weight[:, :POSITION_WIDTH] = 0
        body.wpe.weight.zero_()
        body.wpe.weight[:, :POSITION_WIDTH] = 2.5 * scale * sinusoids(body.wpe.weight.shape[0])
        for block in body.h:
            block.attn.c_proj.weight.zero_()
            block.mlp.c_proj.weight.zero_()


def sinusoids(positions: int) -> torch.Tensor:
    """Sines, then cosines [positions, POSITION_WIDTH], of wavelengths from 4 to about 1000 tokens."""
    per_token = torch.logspace(SHORTEST, LONGEST, POSITION_WIDTH // 2)
    angles = torch.arange(positions)[:, None] * per_token[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
