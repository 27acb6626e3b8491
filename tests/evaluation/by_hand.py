"""What the tests hold the package to: hooks, sums and formulas that import nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

#: The blocks of each family used here.
BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers"}


@torch.no_grad()
def logits(
    hf: Any, family: str, ids: Sequence[int], layer: int = 0, change: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """``[tokens, vocab]`` float64 of one row; ``change`` maps the output ``[tokens, width]`` of a block."""
    handles = []
    if change is not None:

        def hook(_: Any, args: Any, output: Any) -> Any:
            whole = output[0] if isinstance(output, tuple) else output
            new = change(whole[0])[None]
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handles.append(hf.get_submodule(BLOCKS[family])[layer].register_forward_hook(hook))
    try:
        return hf(input_ids=torch.tensor([list(ids)])).logits[0].double()
    finally:
        for handle in handles:
            handle.remove()


def adding(vector: Tensor, start: int) -> Callable[[Tensor], Tensor]:
    """Adds a vector to every token from one on."""

    def change(hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        hidden[start:] += vector
        return hidden

    return change


def log_probability(rows: Tensor, prompt: int, ids: Sequence[int]) -> float:
    """``log p`` of tokens after a prompt of some length, from the logits of the whole row."""
    total = 0.0
    for place, token in enumerate(ids):
        spread = torch.exp(rows[prompt - 1 + place] - rows[prompt - 1 + place].max())
        total += float(torch.log(spread[token] / spread.sum()))
    return total
