"""What a sweep costs against the naive grid: one whole forward pass, with one hook, for each layer and strength.

python -m benchmarks.sweep [--runs 31] [--prompt 64] [--rows 16] [--families llama gpt2] [--positions last all]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from tests.models import tiny_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import steersman as sm
from benchmarks.timing import compare, machine
from steersman.evaluation.items import Item
from steersman.sweeping.measuring import Effects

LAYERS, WIDTH, STRENGTHS = 8, 256, [-2.0, -1.5, -1.0, -0.5, 0.25, 0.5, 1.0, 1.5, 2.0]


def build(family: str) -> sm.SteeringModel:
    """A random Llama or GPT-2: 8 layers, width 256, a vocabulary of 512."""
    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": 512, "bos_token_id": 0, "eos_token_id": None, "pad_token_id": None}
    if family == "llama":
        hf: Any = LlamaForCausalLM(LlamaConfig(
            hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=8,
            num_key_value_heads=8, max_position_embeddings=1024, **common,
        ))  # fmt: skip
    else:
        hf = GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=8, n_positions=1024, **common))
    return sm.SteeringModel(hf.eval(), tiny_tokenizer())


def blocks(model: sm.SteeringModel) -> Any:
    return model.hf.model.layers if hasattr(model.hf, "model") else model.hf.transformer.h


@torch.inference_mode()
def naive(model: sm.SteeringModel, ids: torch.Tensor, vector: torch.Tensor, last: bool) -> torch.Tensor:
    """The logits at the last token, ``[cells, rows, vocab]``: a whole pass with a hook for each cell."""
    found = []
    for layer in range(LAYERS):
        for strength in STRENGTHS:

            def hook(module: Any, args: Any, output: torch.Tensor, strength: float = strength) -> torch.Tensor:
                output = output.clone()
                output[:, -1 if last else slice(None)] += strength * vector
                return output

            handle = blocks(model)[layer].register_forward_hook(hook)
            found.append(model.hf(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1])
            handle.remove()
    return torch.stack(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--families", nargs="+", default=["llama", "gpt2"])
    parser.add_argument("--positions", nargs="+", default=["last", "all"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    print(
        f"{LAYERS} layers, width {WIDTH}; {LAYERS} x {len(STRENGTHS)} cells, {given.rows} prompts of {given.prompt} "
        "tokens that share nothing, one token scored\nratio of the naive grid to the sweep: median [95% interval]"
    )
    for family in given.families:
        model = build(family)
        vector = torch.randn(WIDTH)
        ids = torch.randint(2, 300, (given.rows, given.prompt), generator=torch.Generator().manual_seed(1))
        target = sm.contrast(" great", " awful")
        positive, negative = target.tokens(model)
        items = [Item(tuple(row), positive, negative, n, str(n)) for n, row in enumerate(ids.tolist())]
        for positions in given.positions:
            plans = [
                sm.Plan(sm.Add(vector, strength, layers=layer, positions=positions))
                for layer in range(LAYERS)
                for strength in STRENGTHS
            ]

            def ours(plans: Any = plans) -> Any:
                return Effects(model, target, items, plans[0], range(LAYERS)).values(plans)  # noqa: B023

            def theirs(positions: str = positions) -> torch.Tensor:
                return naive(model, ids, vector, positions == "last")  # noqa: B023

            logs = theirs().double().log_softmax(-1)
            expected = logs[..., positive[0][0]] - logs[..., negative[0][0]]
            off = float((torch.tensor(ours()) - expected).abs().max())
            print(
                f"  {family:6s} {positions:5s} {compare(theirs, ours, given.runs)}   max |difference| {off:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
