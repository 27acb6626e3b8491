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
            logits = self.model(tokens).logits
        return logits if everywhere else logits[torch.arange(len(last)), last]

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
            self.model(tokens)
        return torch.stack(seen)

    def last_residuals(self, prompts: list[str]) -> torch.Tensor:
        """The same at each prompt's last token: [blocks + 1, n, width]."""
        _, last = self.encode(prompts)
        return self.residuals(prompts)[:, torch.arange(len(last)), last]

    def at_last(self, prompts: list[str], vector: torch.Tensor) -> Edit:
        """The edit that adds `vector` at the last token of every prompt."""
        _, last = self.encode(prompts)
        rows = torch.arange(len(last))

        def add(resid: torch.Tensor) -> torch.Tensor:
            resid = resid.clone()
            resid[rows, last] += vector
            return resid

        return add

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


def _tensor(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]
