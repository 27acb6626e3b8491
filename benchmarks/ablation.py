"""Ablation of every head: a study over the same forward passes one by one, at equal batch size.

python -m benchmarks.ablation [--runs 31]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from tests.models import tiny_tokenizer
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import steersman as sm
from benchmarks.timing import compare, machine

PROMPTS, PROMPT_TOKENS, WIDTH, LAYERS, HEADS, VOCABULARY = 4, 32, 256, 12, 4, 2048
TARGET, FOIL = 400, 401


def build() -> sm.SteeringModel:
    """A random GPT-2: 12 blocks, width 256, 4 heads."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=256, bos_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    return sm.SteeringModel(GPT2LMHeadModel(config).eval(), tiny_tokenizer())


def by_hand(model: sm.SteeringModel, prompts: list[str], tokens: slice = slice(None)) -> Tensor:
    """The oracle in plain PyTorch: a hook and a whole forward pass per head, logits at the last token only."""
    ids = torch.tensor([model.tokens.encode(prompt) for prompt in prompts])
    found: list[Tensor] = []
    for layer in range(LAYERS):
        for head in range(HEADS):
            columns = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)

            def zero(module: object, args: tuple[Tensor, ...], columns: slice = columns) -> tuple[Tensor]:
                z = args[0].clone()
                z[:, tokens, columns] = 0
                return (z,)

            hook = model.hf.transformer.h[layer].attn.c_proj.register_forward_pre_hook(zero)
            with torch.inference_mode():
                logits = model.hf(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
            hook.remove()
            found.append(logits[:, TARGET] - logits[:, FOIL])
    return torch.stack(found)


def steered(model: sm.SteeringModel, prompts: list[str]) -> Tensor:
    """The same as a user of plans writes it: one call of ``logits`` per head."""
    found: list[Tensor] = []
    for layer in range(LAYERS):
        for head in range(HEADS):
            logits = model.logits(prompts, steer=sm.Zero(sm.heads(layer, head)))[:, -1]
            found.append(logits[:, TARGET] - logits[:, FOIL])
    return torch.stack(found)


def study(model: sm.SteeringModel, prompts: list[str], positions: str = "all") -> Tensor:
    """As many padded tokens in each forward pass as there are one by one."""
    found = sm.ablation_study(
        model, prompts, sites=sm.heads("all"), mode="zero", metric=sm.logit_difference(TARGET, FOIL),
        token_budget=PROMPTS * PROMPT_TOKENS, positions=positions,
    )  # fmt: skip
    return torch.tensor(found.values)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=31)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    model = build()
    prompts = [chr(ord("a") + i) * (PROMPT_TOKENS - 1) for i in range(PROMPTS)]
    off = (study(model, prompts) - by_hand(model, prompts)).abs().max().item()
    print(f"{machine()}; GPT-2, {LAYERS} blocks, width {WIDTH}, {HEADS} heads, vocabulary {VOCABULARY}")
    print(f"{PROMPTS} prompts of {PROMPT_TOKENS} tokens, nothing shared but the first token, scored at the last token")
    print(f"zero ablation of all {LAYERS * HEADS} heads; greatest difference of the metric {off:.1g}")
    last = (study(model, prompts, "last") - by_hand(model, prompts, slice(-1, None))).abs().max().item()
    print(f"at the last token only: greatest difference {last:.1g}")
    print("one by one over study: median [95% interval] of paired runs")
    rivals: dict[str, Callable[[sm.SteeringModel, list[str]], Tensor]] = {
        "plain hooks, logits at the last token": by_hand,
        "model.logits(prompts, steer=Zero(...))": steered,
    }
    for name, rival in rivals.items():
        ratio = compare(
            lambda r=rival: r(model, prompts),
            lambda: study(model, prompts),
            runs if rival is by_hand else max(3, runs // 4),
        )
        print(f"  {name:40s} {ratio}")
    ratio = compare(
        lambda: by_hand(model, prompts, slice(-1, None)), lambda: study(model, prompts, "last"), max(3, runs // 4)
    )
    print(f"  {'plain hooks, heads ablated at the last':40s} {ratio}")


if __name__ == "__main__":
    main()
