"""A fast training forward pass over the parameters of a plain `GPT2LMHeadModel`.

The same function as the HF model's own forward (a test compares the two), plus what training needs and HF does not
give: attention inside one document of a packed row, and the size of what every head writes, for the penalties.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel


@dataclasses.dataclass
class Trace:
    """What one forward pass leaves for the loss.

    `logits` [batch, time, vocabulary]. `head_norms[l]` [batch, time, heads]: the norm of what each head of block `l`
    adds to the residual. `resid_norms[l]` [batch, time]: the norm of the residual before block `l`, and after the last.
    """

    logits: torch.Tensor
    head_norms: list[torch.Tensor]
    resid_norms: list[torch.Tensor]


def document_mask(tokens: torch.Tensor, bos_id: int) -> torch.Tensor:
    """Boolean [batch, 1, time, time]: causal, and within the document that a BOS token opened."""
    document = (tokens == bos_id).cumsum(1)
    same = document[:, :, None] == document[:, None, :]
    return torch.tril(same).unsqueeze(1)


def forward(model: GPT2LMHeadModel, tokens: torch.Tensor, mask: torch.Tensor) -> Trace:
    """Logits of `tokens` [batch, time] under `mask`, with the norms the penalties read."""
    body, config = model.transformer, model.config
    heads, eps = config.n_head, config.layer_norm_epsilon
    batch, time = tokens.shape
    width = config.n_embd
    x = body.wte(tokens) + body.wpe.weight[:time]
    head_norms, resid_norms = [], [x.norm(dim=-1)]
    bias = torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))
    for block in body.h:
        attn, mlp = block.attn, block.mlp
        normed = F.layer_norm(x, (width,), block.ln_1.weight, block.ln_1.bias, eps).view(-1, width)
        qkv = torch.addmm(attn.c_attn.bias, normed, attn.c_attn.weight).view(batch, time, 3, heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)
        head_norms.append(head_output_norms(z, attn.c_proj.weight))
        x = x + torch.addmm(attn.c_proj.bias, z.reshape(-1, width), attn.c_proj.weight).view(batch, time, width)
        normed = F.layer_norm(x, (width,), block.ln_2.weight, block.ln_2.bias, eps).view(-1, width)
        hidden = F.gelu(torch.addmm(mlp.c_fc.bias, normed, mlp.c_fc.weight), approximate="tanh")
        x = x + torch.addmm(mlp.c_proj.bias, hidden, mlp.c_proj.weight).view(batch, time, width)
        resid_norms.append(x.norm(dim=-1))
    x = F.layer_norm(x, (width,), body.ln_f.weight, body.ln_f.bias, eps)
    return Trace(x @ body.wte.weight.T, head_norms, resid_norms)


def head_output_norms(z: torch.Tensor, c_proj: torch.Tensor) -> torch.Tensor:
    """Norms [batch, time, heads] of what each head writes, from z [batch, time, heads, d_head].

    ||z_h W_h||^2 = z_h (W_h W_h^T) z_h^T, so the outputs themselves are never formed.
    """
    heads, d_head = z.shape[2:]
    blocks = c_proj.view(heads, d_head, -1)
    gram = blocks @ blocks.transpose(1, 2)
    flat = z.permute(2, 0, 1, 3).reshape(heads, -1, d_head)
    squared = ((flat @ gram) * flat).sum(-1)
    return squared.clamp_min(1e-12).sqrt().view(heads, z.shape[0], z.shape[1]).permute(1, 2, 0)
