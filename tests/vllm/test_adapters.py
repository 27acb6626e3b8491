"""Beside what vLLM does itself: AsyncLLM with LoRA adapters, and quantised weights."""

import asyncio
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.vllm.mixes import compare, logprobs, requests
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

import steersman as sm
from steersman.engines.vllm.requests import carried
from steersman.registry import Registry
from vllm import SamplingParams

RANK = 4


@pytest.fixture(scope="module")
def adapted(models, tmp_path_factory):
    """A folder with a random adapter for the Llama, and the Llama with it merged in."""
    folder, model = models["llama"]
    adapter = tmp_path_factory.mktemp("adapter")
    generator = torch.Generator().manual_seed(4)
    merged = type(model.hf).from_pretrained(folder)
    tensors = {}
    for layer, block in enumerate(merged.model.layers):
        for part, name in ((block.self_attn.q_proj, "self_attn.q_proj"), (block.mlp.down_proj, "mlp.down_proj")):
            a = torch.randn(RANK, part.in_features, generator=generator) * 0.2
            b = torch.randn(part.out_features, RANK, generator=generator) * 0.2
            key = f"base_model.model.model.layers.{layer}.{name}"
            tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
            part.weight.data += b @ a
    save_file(tensors, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["q_proj", "down_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return adapter, sm.SteeringModel(merged.eval(), model.tokenizer)


def test_async_llm_steers_requests_with_an_adapter_and_requests_without(models, adapted, tmp_path):
    """One batch after the other: vLLM's CPU build, steered or not, adapts all requests of a batch if it adapts one."""
    folder, model = models["llama"]
    adapter, merged = adapted
    prompts, plans = requests(model, 16, seed=21)
    registry = Registry(tmp_path)
    arguments = AsyncEngineArgs(
        model=str(folder), dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=16, block_size=32,
        max_num_batched_tokens=128, enable_lora=True, max_lora_rank=8, max_loras=1,
        additional_config={"steersman": {"vectors": str(tmp_path)}},
    )  # fmt: skip

    async def one(engine, number):
        document = carried(plans[number], registry)
        sampling = SamplingParams(
            temperature=0.0, max_tokens=16, logprobs=5, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=None if document is None else {"steersman": document},
        )  # fmt: skip
        lora = LoRARequest("a", 1, str(adapter)) if number >= 8 else None
        prompt = {"prompt_token_ids": prompts[number]}
        async for output in engine.generate(prompt, sampling, str(number), lora_request=lora):
            found = output
        return found

    async def run():
        engine = AsyncLLM.from_engine_args(arguments)
        try:
            plain = await asyncio.gather(*[one(engine, number) for number in range(8)])
            return plain + await asyncio.gather(*[one(engine, number) for number in range(8, 16)])
        finally:
            engine.shutdown()

    outputs = asyncio.run(run())
    compare(model, prompts[:8], plans[:8], outputs[:8])
    compare(merged, prompts[8:], plans[8:], outputs[8:])
    with pytest.raises(AssertionError):
        compare(model, prompts[8:], plans[8:], outputs[8:])


def quantised(folder, out):
    """The Llama in 8-bit integers, each output channel with its scale; and in the numbers that these stand for."""
    plain, stored = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        plain[name] = stored[name] = weight
        if name.endswith("proj.weight"):
            scale = weight.abs().amax(1, keepdim=True) / 127
            integers = (weight / scale).round().to(torch.int8)
            plain[name] = integers.float() * scale
            stored |= {name: integers, name.replace("weight", "weight_scale"): scale}
    group = {
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
        "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
    }
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": group},
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config))
    save_file(stored, out / "model.safetensors", {"format": "pt"})
    return plain


def test_quantised_weights_are_steered_as_what_they_stand_for(models, engine, tmp_path):
    """vLLM rounds activations to 8 bits, too: errors are those of unsteered requests, and effects far larger."""
    folder, model = models["llama"]
    plain = quantised(folder, tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    hf = type(model.hf).from_pretrained(folder)
    hf.load_state_dict(plain, strict=False)
    exact = sm.SteeringModel(hf.eval(), model.tokenizer)
    llm = engine(tmp_path, enforce_eager=True)
    prompts, plans = requests(model, 32, seed=22)
    outputs = llm.run(prompts, plans, SamplingParams(temperature=0.0, max_tokens=8, logprobs=5, ignore_eos=True))
    errors, effects = {True: [], False: []}, []
    for prompt, plan, output in zip(prompts, plans, outputs, strict=True):
        top = output.outputs[0].logprobs[0]
        wanted = logprobs(exact, prompt, [0], plan)[0]
        found = torch.tensor([entry.logprob for entry in top.values()], dtype=torch.float64)
        errors[plan is not None].append(float((found - wanted[list(top)]).abs().max()))
        effects.append(float((logprobs(exact, prompt, [0], None)[0] - wanted)[list(top)].abs().max()))
    rounding = max(errors[False])
    assert max(errors[True]) <= 4 * rounding, (errors, effects)
    assert sum(effect > 4 * rounding for effect in effects) >= 8, (errors, effects)
