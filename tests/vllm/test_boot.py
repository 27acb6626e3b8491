"""What must not start does not start, and says why; a vLLM that was not tested runs, and refuses to steer."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from vllm.engine.arg_utils import EngineArgs

from steersman.engines.vllm import install, seams
from steersman.engines.vllm.tables import Tables
from steersman.errors import ArchitectureError, UnsupportedError


@pytest.fixture(scope="module")
def config(models):
    args = EngineArgs(model=str(models["llama"][0]), dtype="float32", enforce_eager=True, max_model_len=128)
    return args.create_engine_config()


def test_an_ordinary_engine_is_not_refused(config):
    seams.refuse(config)


MOE = {"tensor_parallel_size": 2, "data_parallel_size": 2, "enable_expert_parallel": True}


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("parallel_config", {"ubatch_size": 2}, "micro-batching"),
        ("parallel_config", {"enable_dbo": True}, "micro-batching"),
        ("parallel_config", {"decode_context_parallel_size": 2}, "decode context parallelism"),
        ("parallel_config", {"prefill_context_parallel_size": 2}, "prefill context parallelism"),
        ("parallel_config", MOE | {"all2all_backend": "allgather_reducescatter"}, "sequence parallelism"),
        ("model_config", {"is_encoder_decoder": True}, "encoder-decoder"),
    ],
)
def test_what_splits_a_batch_is_refused_by_the_fields_that_this_vllm_has(part, values, message, config, monkeypatch):
    holder = getattr(config, part)
    for name, value in values.items():
        if isinstance(getattr(type(holder), name, None), property) or name == "is_encoder_decoder":
            monkeypatch.setitem(holder.__dict__, name, value)
        else:
            assert hasattr(holder, name)
            monkeypatch.setattr(holder, name, value)
    with pytest.raises(UnsupportedError, match=message):
        seams.refuse(config)


def test_a_field_that_is_gone_is_refused(config):
    class Gone:
        model_config = config.model_config
        parallel_config = object()

    with pytest.raises(UnsupportedError, match="not as it was known"):
        seams.refuse(Gone)


def test_an_engine_with_micro_batches_does_not_start(engine):
    with pytest.raises(UnsupportedError, match="micro-batching"):
        engine("llama", enforce_eager=True, ubatch_size=2, all2all_backend="deepep_low_latency")


def test_an_engine_that_does_not_steer_does_not_start(engine, monkeypatch):
    monkeypatch.setattr(Tables, "steer", lambda self, runs: None)
    with pytest.raises(ArchitectureError, match="does not reach the output"):
        engine("llama", enforce_eager=True)


def test_an_engine_that_takes_a_site_for_twice_its_size_does_not_start(engine, monkeypatch):
    original = install._spot

    def doubled(place, *rest):
        spot = original(place, *rest)
        return replace(spot, scale=2.0) if place == ("attn_out", 1) else spot

    monkeypatch.setattr(install, "_spot", doubled)
    with pytest.raises(ArchitectureError, match="attn_out of block 1 should do what it does at resid_mid of block 1"):
        engine("llama", enforce_eager=True)


def test_a_model_whose_blocks_are_not_one_list_does_not_start(engine, monkeypatch):
    monkeypatch.setattr("steersman.engines.vllm.install._LISTS", ("nothing",))
    with pytest.raises(ArchitectureError, match="0 lists of 3 decoder blocks"):
        engine("llama", enforce_eager=True)


OTHER_VERSION = """
import sys
from steersman.engines.vllm import seams, plugin
seams.SUPPORTED = ("0.1.0", "0.2.0")
if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    llm = LLM(sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=64, block_size=32)
    inputs = [{"prompt_token_ids": [5, 6, 7]}]
    plain = SamplingParams(max_tokens=3, temperature=0.0)
    print("ran", len(llm.generate(inputs, plain)[0].outputs[0].token_ids))
    for extra in ({"steersman": {"interventions": []}}, {"steersman_vector": "v"}, {"steersman.read": 1}):
        try:
            llm.generate(inputs, SamplingParams(max_tokens=3, extra_args=extra))
        except Exception as error:
            print(type(error).__name__, error)
    other = SamplingParams(max_tokens=3, extra_args={"other": 1})
    print("ran", len(llm.generate(inputs, other)[0].outputs[0].token_ids))
    from steersman.engines.vllm import SteeredLLM
    try:
        SteeredLLM(sys.argv[1])
    except Exception as error:
        print(type(error).__name__, error)
"""


def other_version(models, tmp_path, **environment):
    script = tmp_path / "other.py"
    script.write_text(OTHER_VERSION)
    return subprocess.run(
        [sys.executable, str(script), str(models["llama"][0])],
        env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_vllm_that_was_not_tested_runs_unsteered_requests_and_refuses_the_others(models, tmp_path):
    found = other_version(models, tmp_path)
    assert found.returncode == 0, found.stderr[-3000:]
    lines = [line for line in found.stdout.splitlines() if line.startswith(("ran", "VLLM", "Unsupp"))]
    assert [line.split()[0] for line in lines] == ["ran", *["VLLMValidationError"] * 3, "ran", "UnsupportedError"]
    assert "steersman steers vLLM 0.1.0 up to" in lines[1]


def test_it_does_not_start_where_steering_is_asked_for(models, tmp_path):
    found = other_version(models, tmp_path, STEERSMAN_VECTORS=str(tmp_path))
    assert found.returncode != 0
    assert "steersman steers vLLM 0.1.0 up to" in found.stderr
    assert "ran" not in found.stdout.splitlines()
