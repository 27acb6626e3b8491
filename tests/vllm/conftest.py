"""Engines of the tests: few and small, each closed before the next begins."""

import gc
import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import pytest
import torch


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """name -> (what vLLM loads, the same as a SteeringModel)."""
    from tests.models import tiny, tiny_tokenizer

    import steersman as sm

    found = {"demo": ("demo", sm.demo_model())}
    size = {"hidden_size": 128, "num_attention_heads": 4}  # vLLM's CPU attention takes heads of 32 and more
    sizes = {"llama": {**size, "num_key_value_heads": 2, "intermediate_size": 160, "head_dim": 32}, "gpt2": size}
    for family, own in sizes.items():
        hf = tiny(family, seed=3, **own)
        folder = tmp_path_factory.mktemp(family)
        hf.save_pretrained(folder)
        tokenizer = tiny_tokenizer()
        tokenizer.save_pretrained(folder)
        found[family] = (folder, sm.SteeringModel(hf, tokenizer))
    return found


@pytest.fixture(scope="module")
def engine(models):
    """Makes an engine, of a model by its name or of a folder, in place of the last one."""
    held = []

    def make(name, **options):
        from steersman.engines.vllm import SteeredLLM

        close(held)
        settings = {
            "dtype": "float32",
            "max_model_len": 128,
            "max_num_seqs": 24,
            "max_num_batched_tokens": 128,
            "block_size": 32,
            "disable_log_stats": False,
            **options,
        }
        held.append(SteeredLLM(models[name][0] if name in models else name, **settings))
        return held[0]

    yield make
    close(held)


def close(held):
    while held:
        held.pop().close()
        gc.collect()


torch.set_num_threads(1)
