"""Held to the hook engine: mixes of everything in one batch give the same tokens and log-probabilities."""

import pytest
from tests.vllm.mixes import ALIKE, compare, requests, vectors
from vllm.exceptions import VLLMValidationError

import steersman as sm
from vllm import SamplingParams

GREEDY = {"temperature": 0.0, "max_tokens": 40, "logprobs": 5, "ignore_eos": True}
#: So little room that prompts come in chunks and running requests are preempted.
TIGHT = {"max_num_batched_tokens": 64, "num_gpu_blocks_override": 16, "enable_prefix_caching": True}


def check(llm, model, seed, conditions=True):
    """A mix, then its last requests again, which find their blocks in the prefix cache."""
    prompts, plans = requests(model, 24, seed, conditions=conditions)
    outputs = llm.run(prompts, plans, SamplingParams(**GREEDY))
    compare(model, prompts, plans, outputs)
    again = llm.run(prompts[-8:], plans[-8:], SamplingParams(**GREEDY))
    compare(model, prompts[-8:], plans[-8:], again)
    assert sum(output.num_cached_tokens or 0 for output in again) > 0
    for stats in llm.stats():
        assert stats["self_check"] == "passed"
        assert stats["steered_steps"] > 0


def counted(llm, what):
    """One of vLLM's own counters."""
    return sum(metric.value for metric in llm.llm.get_metrics() if metric.name == f"vllm:{what}")


def preemptions(llm):
    """How often a running request had to give up its blocks."""
    return counted(llm, "num_preemptions")


@pytest.mark.parametrize("name", ["demo", "llama", "gpt2"])
def test_eager_with_chunked_prefill_preemption_and_a_warm_cache(name, engine, models):
    llm = engine(name, enforce_eager=True, **TIGHT)
    check(llm, models[name][1], seed=7)
    assert preemptions(llm) > 0


@pytest.mark.parametrize("name", ["demo", "gpt2"])
def test_compiled_with_chunked_prefill_preemption_and_a_warm_cache(name, engine, models):
    llm = engine(name, **TIGHT)
    assert llm.llm.llm_engine.vllm_config.compilation_config.mode > 0
    check(llm, models[name][1], seed=8)
    assert preemptions(llm) > 0


@pytest.mark.parametrize("size", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_two_processes_compiled(size, engine, models):
    llm = engine("llama", **{size: 2}, distributed_executor_backend="mp", **TIGHT)
    assert len(llm.stats()) == 2
    check(llm, models["llama"][1], seed=9, conditions=size == "tensor_parallel_size")
    assert preemptions(llm) > 0


def test_speculative_decoding(engine, models):
    """Drafts are what followed the same tokens before; what tells generated tokens apart is refused.

    The worker is a process of its own: it loads numba, and vLLM can start no other engine in a process that did.
    """
    guess = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    llm = engine("llama", enforce_eager=True, speculative_config=guess, distributed_executor_backend="mp")
    model = models["llama"][1]
    prompts, plans = requests(model, 24, seed=10, members=ALIKE)
    compare(model, prompts, plans, llm.run(prompts, plans, SamplingParams(**GREEDY)))
    drafted, accepted = (counted(llm, f"spec_decode_num_{what}_tokens") for what in ("draft", "accepted"))
    assert 0 < accepted < drafted
    vector = vectors(model)[0][1]
    for strength, positions in ((1.0, "generation[1:4]"), (sm.schedule([1.0, 2.0, 3.0]), "last+generation")):
        with pytest.raises(VLLMValidationError, match="with speculative decoding"):
            llm.run(prompts[:1], [sm.Add(vector, strength, layers=1, positions=positions)], SamplingParams(**GREEDY))


def test_the_prefix_cache_is_shared_where_it_may_be_and_nowhere_else(engine, models, monkeypatch):
    llm, model = engine("llama", enforce_eager=True, enable_prefix_caching=True), models["llama"][1]
    vector = vectors(model)[0]
    prompt = requests(model, 1, seed=5, lengths=(80, 80))[0][0]
    always = sm.Add(vector[1], 4.0, layers=1, positions="all")
    late = sm.Add(vector[1], 4.0, layers=1)
    sequence = [None, always, sm.Add(vector[1], -4.0, layers=1, positions="all"), late, None, always]

    def errors_and_hits():
        found = []
        for plan in sequence:
            (output,) = llm.run([prompt], [plan], SamplingParams(**GREEDY | {"max_tokens": 2}))
            try:
                compare(model, [prompt], [plan], [output])
                right = True
            except AssertionError:
                right = False
            found.append((right, output.num_cached_tokens))
        return found

    ours = errors_and_hits()
    assert ours == [(True, 0), (True, 0), (True, 0), (True, 64), (True, 64), (True, 64)]

    llm.llm.reset_prefix_cache()
    from vllm.v1.core import block_pool, kv_cache_utils

    stock = kv_cache_utils.generate_block_hash_extra_keys.__wrapped__
    monkeypatch.setattr(kv_cache_utils, "generate_block_hash_extra_keys", stock)
    monkeypatch.setattr(block_pool, "generate_block_hash_extra_keys", stock)
    theirs = errors_and_hits()
    assert [right for right, _ in theirs] == [True, False, False, True, True, False]
