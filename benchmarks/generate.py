"""What steering costs while generating: ``generate`` with a plan over ``generate`` without, and one plan per row.

python -m benchmarks.generate [--runs 31]
"""

from __future__ import annotations

import argparse

import torch
from tests.models import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import steersman as sm
from benchmarks.timing import compare, machine

PROMPT_TOKENS, NEW_TOKENS, WIDTH, LAYERS = 16, 32, 256, 8


def build() -> sm.SteeringModel:
    """A random Llama: 8 layers, width 256."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=512,
        bos_token_id=0, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return sm.SteeringModel(LlamaForCausalLM(config).eval(), tiny_tokenizer())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=31)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    model = build()
    vector = torch.randn(WIDTH) * 0.1
    text = "x" * (PROMPT_TOKENS - 1)
    print(f"{machine()}; Llama, {LAYERS} layers, width {WIDTH}; prompt {PROMPT_TOKENS} tokens, {NEW_TOKENS} new")
    print("ratio of steered to unsteered generate: median [95% interval] of paired runs")

    def job(prompts: list[str], steer: object) -> object:
        return lambda: model.generate(prompts, steer=steer, max_new_tokens=NEW_TOKENS)

    for rows in (1, 8, 32):
        prompts = [text] * rows
        ratio = compare(job(prompts, sm.Add(vector, layers=4)), job(prompts, None), runs)
        hook = (ratio.cpu[0] - 1) * ratio.base_cpu / NEW_TOKENS * 1e6
        print(f"  batch {rows:2d}, Add at one layer            {ratio}   {hook:+.0f} us per step")
    prompts = [text] * 32
    plans = [sm.Add(torch.randn(WIDTH) * 0.1, layers=4) for _ in prompts]
    print(f"  batch 32, 32 different plans         {compare(job(prompts, plans), job(prompts, None), runs)}")
    mixed = [
        (sm.Add(torch.randn(WIDTH), layers=4), sm.Ablate(torch.randn(WIDTH), layers=4), None)[i % 3]
        for i in range(len(prompts))
    ]
    print(f"  batch 32, adds, ablations and none   {compare(job(prompts, mixed), job(prompts, None), runs)}")
    prompts = [text] * 8
    everywhere = sm.Ablate(torch.randn(WIDTH))
    print(f"  batch  8, Ablate at all 17 writers   {compare(job(prompts, everywhere), job(prompts, None), runs)}")


if __name__ == "__main__":
    main()
