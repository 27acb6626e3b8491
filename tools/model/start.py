"""The initial weights: a plain GPT-2 that starts with the parts of one induction circuit in place.

A model this small needs millions of tokens before it stumbles on looking back ("A B ... A" -> "B"). So it starts with
one head that attends to the token before, and later ones that attend to what followed the same token earlier and copy
it (a mimetic initialisation, after Trockman and Kolter, 2023). Training is free to change or drop them.

Positions live in the first `POSITION_WIDTH` channels as sinusoids, tokens in the others, at the start.
"""

from __future__ import annotations

import torch
from transformers import GPT2LMHeadModel

POSITION_WIDTH = 32
LONGEST, SHORTEST = -2.2, 0.2  # log10 of the angle per token


def initialise(model: GPT2LMHeadModel, previous: int, induction: tuple[int, ...], scale: float) -> None:
    """Fill `model` in place; `previous` and `induction` are the blocks whose head 0 starts in that role."""
    body, width = model.transformer, model.config.n_embd
    with torch.no_grad():
        body.wte.weight.normal_(std=scale)
        body.wte.weight[:, :POSITION_WIDTH] = 0
        body.wpe.weight.zero_()
        positions = body.wpe.weight.shape[0]
        body.wpe.weight[:, :POSITION_WIDTH] = 2.5 * scale * sinusoids(positions)
        for block in body.h:
            block.attn.c_proj.weight.zero_()
            block.mlp.c_proj.weight.zero_()
        size = width // model.config.n_head
        reader = torch.zeros(width, size)
        reader[POSITION_WIDTH:] = orthonormal(width - POSITION_WIDTH, size)
        writer = orthonormal(width, size).T
        previous_head(body.h[previous].attn, reader, writer)
        for block in induction:
            copied = torch.zeros(width, size)
            copied[POSITION_WIDTH:] = orthonormal(width - POSITION_WIDTH, size)
            induction_head(body.h[block].attn, reader, writer, copied)


def sinusoids(positions: int) -> torch.Tensor:
    """Sines, then cosines [positions, POSITION_WIDTH], of wavelengths from 4 to about 1000 tokens."""
    angles = torch.arange(positions)[:, None] * angles_per_token()[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def angles_per_token() -> torch.Tensor:
    """The angle by which each pair of channels turns from one position to the next."""
    return torch.logspace(SHORTEST, LONGEST, POSITION_WIDTH // 2)


def orthonormal(rows: int, columns: int) -> torch.Tensor:
    """A random matrix [rows, columns] with orthonormal columns."""
    return torch.linalg.qr(torch.randn(rows, columns))[0]


def previous_head(
    attn: torch.nn.Module, reader: torch.Tensor, writer: torch.Tensor, sharpness: float = 2.0
) -> None:
    """Head 0 attends one position back: its query is its own position turned back by one token."""
    width, size = reader.shape
    angle, half = angles_per_token(), POSITION_WIDTH // 2
    turn = torch.zeros(width, size)
    key = torch.zeros(width, size)
    for i in range(min(half, size // 2)):
        sine, cosine = i, half + i
        turn[sine, 2 * i], turn[cosine, 2 * i] = angle[i].cos(), -angle[i].sin()
        turn[sine, 2 * i + 1], turn[cosine, 2 * i + 1] = angle[i].sin(), angle[i].cos()
        key[sine, 2 * i] = key[cosine, 2 * i + 1] = 1
    set_head(attn, sharpness * turn, sharpness * key, reader, 0.5 * writer)


def induction_head(
    attn: torch.nn.Module,
    reader: torch.Tensor,
    writer: torch.Tensor,
    copied: torch.Tensor,
    sharpness: float = 2.0,
) -> None:
    """Head 0 attends to where the previous-token head wrote its own token, and copies the token there."""
    set_head(attn, sharpness * reader, sharpness * writer.T, copied, 0.5 * copied.T)


def set_head(
    attn: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, output: torch.Tensor
) -> None:
    """The four maps of head 0: three [width, size] and the output [size, width]."""
    width, size = query.shape
    for part, weight in enumerate((query, key, value)):
        attn.c_attn.weight[:, part * width : part * width + size] = weight
    attn.c_proj.weight[:size] = output
