"""Training rows: tokenised documents packed one after another, each opened by BOS and closed by END."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedTokenizerFast

from tools.model.corpus.build import documents

LENGTHS = (64, 64, 64, 128, 64, 64, 64, 256)


def token_lists(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[int]]:
    """The tokens of every document; a chat closes itself."""
    end = tokenizer.eos_token_id
    for text in documents(seed):
        ids = tokenizer(text)["input_ids"]
        yield ids if ids[-1] == end else [*ids, end]


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, size: int) -> Iterator[torch.Tensor]:
    """Batches [rows, length + 1] of `size` tokens. Every row opens a new document; the last may be cut."""
    source = token_lists(tokenizer, seed)
    step = 0
    while True:
        length = LENGTHS[step % len(LENGTHS)]
        rows = []
        for _ in range(size // length):
            row: list[int] = []
            while len(row) < length + 1:
                row += next(source)
            rows.append(row[: length + 1])
        yield torch.tensor(rows)
        step += 1
