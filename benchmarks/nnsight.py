"""What ``apply(plan, model)`` costs inside a trace, over the same steering written by hand in it.

python -m benchmarks.nnsight [--runs 31]
"""

from __future__ import annotations

import argparse

import torch

import steersman as sm
from benchmarks.generate import NEW_TOKENS, PROMPT_TOKENS, WIDTH, build
from benchmarks.timing import compare, machine
from steersman.nnsight import LanguageModel, apply


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=31)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    model = LanguageModel(build())
    vector = torch.randn(WIDTH) * 0.1
    prompt = "x" * (PROMPT_TOKENS - 1)
    plan = sm.Add(vector, layers=[2, 4, 6])

    def traced_by_plan() -> None:
        with torch.no_grad(), model.trace(prompt):
            apply(plan, model)
            model.lm_head.output.save()

    def traced_by_hand() -> None:
        with torch.no_grad(), model.trace(prompt):
            for layer in (2, 4, 6):
                model.blocks[layer].output[:, -1] += vector
            model.lm_head.output.save()

    def generated_by_plan() -> None:
        with model.generate(prompt, max_new_tokens=NEW_TOKENS):
            apply(plan, model)
            model.generator.output.save()

    def generated_by_hand() -> None:
        with model.generate(prompt, max_new_tokens=NEW_TOKENS) as tracer:
            with tracer.all():
                for layer in (2, 4, 6):
                    model.blocks[layer].output[:, -1] += vector
            tracer.result.save()

    print(f"{machine()}; Llama, 8 layers, width {WIDTH}; prompt {PROMPT_TOKENS} tokens; Add at three layers")
    print("ratio of apply(plan, model) to the same by hand: median [95% interval] of paired runs")
    print(f"  trace                      {compare(traced_by_plan, traced_by_hand, runs)}")
    print(f"  generate, {NEW_TOKENS} new tokens    {compare(generated_by_plan, generated_by_hand, runs)}")


if __name__ == "__main__":
    main()
