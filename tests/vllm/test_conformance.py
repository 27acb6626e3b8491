"""Held to the hook engine: mixes of everything in one batch give the same tokens and log-probabilities."""

import pytest
from vllm import SamplingParams

from tests.vllm.mixes import compare, requests

GREEDY = {"temperature": 0.0, "max_tokens": 8, "logprobs": 5, "ignore_eos": True}


def check(llm, model, seed, passes=2):
    prompts, plans = requests(model, 24, seed)
    cached = 0
    for _ in range(passes):  # the second finds its blocks in the prefix cache
        outputs = llm.run(prompts, plans, SamplingParams(**GREEDY))
        compare(model, prompts, plans, outputs)
        cached = sum(output.num_cached_tokens or 0 for output in outputs)
    return cached


@pytest.mark.parametrize("name", ["demo", "llama", "gpt2"])
def test_eager_chunked_prefill_preemption_and_a_warm_cache(name, engine, models):
    llm = engine(name, enforce_eager=True, max_num_batched_tokens=64, num_gpu_blocks_override=24)
    assert check(llm, models[name][1], seed=7) > 0
    (stats,) = llm.stats()
    assert stats["self_check"] == "passed"
    assert stats["steered_steps"] > 0
    preempted = [metric.value for metric in llm.llm.get_metrics() if metric.name == "vllm:num_preemptions"]
    assert sum(preempted) > 0
