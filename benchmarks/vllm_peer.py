"""One process of :mod:`benchmarks.vllm`: it holds a model, and answers each line with the seconds of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import steersman as sm
from benchmarks.vllm import NEW, PROMPT, RAGGED, REQUESTS, timed

Job = Callable[[int], object]


def main() -> None:
    """Answer until the input ends."""
    role, folder, mode = sys.argv[1:]
    torch.set_num_threads(1)
    jobs = hf(folder) if role == "hf" else engine(role, folder, mode)
    print("ready 0", flush=True)
    for line in sys.stdin:
        name, count = json.loads(line)
        print("times", json.dumps(timed(lambda: jobs[name](count))), flush=True)  # noqa: B023


def prompts(lengths: list[int]) -> list[list[int]]:
    """Random tokens."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, 500, (length,), generator=generator).tolist() for length in lengths]


def plans() -> list[sm.Plan]:
    """Another vector for each request, at every layer."""
    generator = torch.Generator().manual_seed(1)
    vectors = [torch.randn(256, generator=generator) * 0.1 for _ in range(REQUESTS)]
    return [sm.Plan([sm.Add(vector, layers="all", positions="all")]) for vector in vectors]


def engine(role: str, folder: str, mode: str) -> dict[str, Job]:
    """Runs of vLLM."""
    from vllm import LLM, SamplingParams

    options: dict[str, Any] = {
        "dtype": "float32", "max_model_len": 128, "max_num_seqs": REQUESTS, "max_num_batched_tokens": 2048,
        "block_size": 32, "enable_prefix_caching": False, "enforce_eager": mode == "eager", "disable_log_stats": True,
    }  # fmt: skip
    if role == "stock":
        llm, specs = LLM(folder, **options), [None] * REQUESTS
    else:
        from steersman.engines.vllm import SteeredLLM

        steered = SteeredLLM(Path(folder), **options)
        llm, specs = steered.llm, [steered.spec(plan) for plan in plans()]

    def run(ids: list[list[int]], new: list[int], steer: bool) -> None:
        sampling = [
            SamplingParams(
                temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False,
                extra_args={"steersman": spec} if steer else None,
            )
            for count, spec in zip(new, specs, strict=False)
        ]  # fmt: skip
        outputs = llm.generate([{"prompt_token_ids": row} for row in ids], sampling, use_tqdm=False)
        assert [len(output.outputs[0].token_ids) for output in outputs] == new

    even, ragged = prompts([PROMPT] * REQUESTS), prompts([length for length, _ in RAGGED])
    return {
        "none": lambda count: run(even[:count], [NEW] * count, False),
        "all": lambda count: run(even[:count], [NEW] * count, True),
        "ragged": lambda count: run(ragged[:count], [new for _, new in RAGGED[:count]], True),
    }


def hf(folder: str) -> dict[str, Job]:
    """Runs of transformers: left-padded, one batch, a forward hook that adds each row's vector at every layer.

    All rows run until the longest is done; there is no way to end one earlier at a length of its own.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    rows = prompts([length for length, _ in RAGGED])
    vectors = torch.stack([plan[0].vector for plan in plans()])[:, None]  # pyright: ignore
    count_now = 1

    def hook(module: Any, args: Any, output: Any) -> Any:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        steered = hidden + vectors[:count_now]
        return steered if isinstance(output, torch.Tensor) else (steered, *output[1:])

    for layer in model.model.layers:
        layer.register_forward_hook(hook)

    def run(count: int) -> None:
        nonlocal count_now
        count_now = count
        width = max(len(row) for row in rows[:count])
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows[:count]])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows[:count]])
        longest = max(new for _, new in RAGGED[:count])
        model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=longest, min_new_tokens=longest, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip

    return {"ragged": run}


if __name__ == "__main__":
    main()
