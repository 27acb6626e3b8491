"""The model under measurement: prompts in, residuals and next-token logits out, with edits on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Edit = Callable[[torch.Tensor], torch.Tensor]


class Subject:
    """A saved model folder, loaded in float32. Prompts are padded on the right, which a causal model does not see."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.blocks = self.model.transformer.h
        self.width = self.model.config.n_embd

    def encode(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [n, time] and the index [n] of each prompt's last token."""
        rows = [self.tokenizer(prompt)["input_ids"] for prompt in prompts]
        last = torch.tensor([len(row) - 1 for row in rows])
        padded = [row + [self.tokenizer.pad_token_id] * (int(last.max()) + 1 - len(row)) for row in rows]
        return torch.tensor(padded), last

    def token(self, word: str) -> int:
        """The one token of `word` after a space."""
        ids = self.tokenizer(" " + word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(f"{word!r} is {len(ids)} tokens")
        return ids[0]

    def tokens(self, words: tuple[str, ...] | list[str]) -> torch.Tensor:
        """The tokens of several words."""
        return torch.tensor([self.token(word) for word in words])

    @torch.no_grad()
    def logits(
        self,
        prompts: list[str],
        resid: dict[int, Edit] | None = None,
        z: dict[int, Edit] | None = None,
        everywhere: bool = False,
    ) -> torch.Tensor:
        """Next-token logits [n, vocabulary]; edits of `resid_post` and of the heads' outputs by block.

        With `everywhere`, logits of all positions [n, time, vocabulary].
        """
        tokens, last = self.encode(prompts)
        with self.edited(resid or {}, z or {}):
            hidden = self.model.transformer(tokens).last_hidden_state
        return self.model.lm_head(hidden if everywhere else hidden[torch.arange(len(last)), last])

    @torch.no_grad()
    def chances(self, prompts: list[str], layer: int, vectors: torch.Tensor, rows: int = 256) -> torch.Tensor:
        """Next-token probabilities, in the mean of the prompts, with each vector added at the last token.

        Args:
            prompts: whose mean is taken.
            layer: the block behind which they are added.
            vectors: [n, width].
            rows: run at once.

        Returns:
            [n, vocabulary].
        """
        tokens, last = self.encode(prompts)
        found: list[torch.Tensor] = []
        for part in vectors.split(max(rows // len(prompts), 1)):
            every, ends = torch.arange(len(part) * len(prompts)), last.repeat(len(part))
            with self.edited({layer: _adding(part.repeat_interleave(len(prompts), 0), every, ends)}, {}):
                hidden = self.model.transformer(tokens.repeat(len(part), 1)).last_hidden_state[every, ends]
            found.append(self.model.lm_head(hidden).softmax(-1).unflatten(0, (len(part), len(prompts))).mean(1))
        return torch.cat(found)

    @torch.no_grad()
    def residuals(self, prompts: list[str]) -> torch.Tensor:
        """`resid_pre` of block 0 and `resid_post` of every block: [blocks + 1, n, time, width]."""
        tokens, _ = self.encode(prompts)
        seen: list[torch.Tensor] = []
        with contextlib.ExitStack() as stack:
            hook = self.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
            stack.callback(hook.remove)
            for block in self.blocks:
                stack.callback(block.register_forward_hook(lambda _, __, out: seen.append(_tensor(out))).remove)
            self.model.transformer(tokens)
        return torch.stack(seen)

    def last_residuals(self, prompts: list[str]) -> torch.Tensor:
        """The same at each prompt's last token: [blocks + 1, n, width]."""
        _, last = self.encode(prompts)
        return self.residuals(prompts)[:, torch.arange(len(last)), last]

    @contextlib.contextmanager
    def edited(self, resid: dict[int, Edit], z: dict[int, Edit]) -> Iterator[None]:
        """Hooks for the length of a forward pass."""
        with contextlib.ExitStack() as stack:
            for layer, edit in resid.items():
                hook = self.blocks[layer].register_forward_hook(
                    lambda _, __, out, edit=edit: (
                        edit(out) if isinstance(out, torch.Tensor) else (edit(out[0]), *out[1:])
                    )
                )
                stack.callback(hook.remove)
            for layer, edit in z.items():
                hook = self.blocks[layer].attn.c_proj.register_forward_pre_hook(
                    lambda _, args, edit=edit: (edit(args[0]), *args[1:])
                )
                stack.callback(hook.remove)
            yield


def _adding(vector: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> Edit:
    def add(resid: torch.Tensor) -> torch.Tensor:
        resid = resid.clone()
        resid[rows, columns] += vector
        return resid

    return add


def strongest(shifts: Callable[[torch.Tensor], torch.Tensor], width: int, norm: float, count: int, seed: int) -> float:
    """The largest |shift| of random directions of one norm, given what measures those of many."""
    directions = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    directions *= norm / directions.norm(dim=1, keepdim=True)
    return shifts(directions).abs().max().item()


def _tensor(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]
