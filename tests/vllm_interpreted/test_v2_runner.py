"""vLLM's second model runner, the default where Triton runs, with the Triton kernel: held to the hook engine."""

import pytest
from tests.vllm.mixes import compare, requests

from steersman.engines.vllm.triton_kernel import launch
from vllm import SamplingParams

TIGHT = {"max_num_batched_tokens": 64, "num_gpu_blocks_override": 16, "enable_prefix_caching": True}


@pytest.fixture
def by_triton(monkeypatch):
    """Makes the op launch the Triton kernel here, as it does on a GPU; before the op is registered."""
    calls = []

    def steer(hidden, residual, bank, entries, factors, tokens, gates, work, index):
        calls.append(hidden.shape[0])
        launch(hidden, residual, bank, entries, factors, tokens, gates)

    monkeypatch.setattr("steersman.engines.vllm.kernel.steer", steer)
    return calls


def test_mixes_in_chunks_and_from_a_warm_cache(by_triton, engine, models):
    llm = engine("demo", enforce_eager=True, **TIGHT)
    assert llm.llm.llm_engine.vllm_config.use_v2_model_runner
    model = models["demo"][1]
    prompts, plans = requests(model, 10, seed=11)
    sampling = SamplingParams(temperature=0.0, max_tokens=8, logprobs=5, ignore_eos=True)
    compare(model, prompts, plans, llm.run(prompts, plans, sampling))
    again = llm.run(prompts[-4:], plans[-4:], sampling)
    compare(model, prompts[-4:], plans[-4:], again)
    assert sum(output.num_cached_tokens or 0 for output in again) > 0
    assert by_triton
    (stats,) = llm.stats()
    assert stats["self_check"] == "passed"
    assert stats["steered_steps"] > 0
