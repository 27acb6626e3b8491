"""Whether plugins that steer vLLM do what a forward hook does: in chunks of a prompt, and beside a prefix cache.

    python -m benchmarks.vllm_claims {steersman,hotwire,vllm-lens}

Each plugin needs an environment with the vLLM that it asks for. A random Llama is asked to add a vector at the output
of one block, for prompts of 65 tokens, which come in chunks of 64 and 1, and of 40, which come whole. What is printed
is the largest error of the log-probabilities that vLLM reports, against transformers with a hook at the positions that
were asked for; and where that is wrong, at which other positions it would be right. Without a GPU, hotwire's kernel is
run by Triton's interpreter.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1",
}  # fmt: skip
INTERPRETED = sys.argv[1:] == ["hotwire"] and not Path("/dev/nvidia0").exists()
if INTERPRETED:  # before anything imports Triton
    os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}

import torch
from transformers import LlamaConfig, LlamaForCausalLM

LAYER, LONG, SHORT, NEW, CHUNK = 1, 65, 40, 8, 64  # two blocks of the cache make a chunk
CONFIG = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256, "initializer_range": 0.1,
}  # fmt: skip
#: Sets of positions, as predicates of (position, length of the prompt).
POSITIONS: dict[str, Callable[[int, int], bool]] = {
    "nowhere": lambda p, n: False,
    "everywhere": lambda p, n: True,
    "generated tokens": lambda p, n: p >= n,
    "positions 3, 63 and 64": lambda p, n: p in (3, 63, 64),
    "from the last prompt token on": lambda p, n: p >= n - 1,
    "the cached tokens": lambda p, n: p < CHUNK,
}
#: What is asked for: which positions, the length of the prompt, and what ran just before with an otherwise empty cache.
CASES = [
    ("nowhere", LONG, None), ("everywhere", LONG, None), ("nowhere", LONG, "everywhere"),
    ("everywhere", LONG, "nowhere"), ("generated tokens", LONG, None), ("generated tokens", SHORT, None),
    ("positions 3, 63 and 64", LONG, None), ("an unknown vector", SHORT, None), ("what is no spec", SHORT, None),
]  # fmt: skip


def hotwire(vector: torch.Tensor, folder: Path) -> dict[str, Any]:
    """Its requests."""
    if INTERPRETED:  # vLLM's CPU build takes Triton for present only if it has a backend for CPUs
        import triton.backends

        backend = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)
        triton.backends.backends.setdefault("cpu", backend)
    torch.save(vector, folder / "v.pt")
    os.environ |= {"HOTWIRE_VECTORS": str(folder), "VLLM_PLUGINS": "hotwire", "STEERSMAN_VLLM": "off"}
    spec = {"id": "v", "layer": LAYER, "scale": 1.0}
    found = {"everywhere": spec, "generated tokens": {**spec, "decode_only": True}}
    found |= {"an unknown vector": {**spec, "id": "w"}, "what is no spec": ["x"]}
    return {name: {"hotwire": json.dumps(each)} for name, each in found.items()}


def vllm_lens(vector: torch.Tensor, folder: Path) -> dict[str, Any]:
    """Its requests; the vector itself is sent, so none is unknown."""
    from vllm_lens import SteeringVector

    os.environ |= {"VLLM_PLUGINS": "activations", "STEERSMAN_VLLM": "off"}

    def at(positions: list[int] | None) -> Any:
        rows = vector[None] if positions is None else vector.expand(1, len(positions), -1).clone()
        where = {} if positions is None else {"position_indices": positions}
        own = SteeringVector(activations=rows, layer_indices=[LAYER], scale=1.0, norm_match=False, **where)
        return {"apply_steering_vectors": [own]}

    return {
        "everywhere": at(None), "positions 3, 63 and 64": at([3, 63, 64]),
        "what is no spec": {"apply_steering_vectors": ["x"]},
        **{f"generated tokens, {n}": at(list(range(n, n + NEW))) for n in (SHORT, LONG)},
    }  # fmt: skip


def steersman(vector: torch.Tensor, folder: Path) -> dict[str, Any]:
    """Our own requests."""
    from steersman.registry import Registry

    os.environ |= {"VLLM_PLUGINS": "steersman", "STEERSMAN_VECTORS": str(folder)}
    spec = {"vector": Registry(folder).store(vector), "layers": [LAYER]}
    found: dict[str, Any] = {"everywhere": spec | {"positions": "all"}}
    found["generated tokens"] = spec | {"positions": "generation"}
    found["positions 3, 63 and 64"] = spec | {"positions": "prompt[3]+prompt[63:65]"}
    found["an unknown vector"] = spec | {"vector": "w"}
    requests: dict[str, Any] = {name: {"steersman": {"interventions": [each]}} for name, each in found.items()}
    return requests | {"what is no spec": {"steersman": ["x"]}}


def main() -> None:
    """Run the cases and print what came of each."""
    name = sys.argv[1]
    torch.manual_seed(0)
    model, vector = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval(), 4 * torch.randn(128)
    prompt = torch.randint(5, 500, (LONG,)).tolist()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as vectors:
        model.save_pretrained(folder)
        requests = {"hotwire": hotwire, "vllm-lens": vllm_lens, "steersman": steersman}[name](vector, Path(vectors))
        import vllm

        llm = vllm.LLM(
            folder, skip_tokenizer_init=True, dtype="float32", max_model_len=128, max_num_seqs=8, block_size=32,
            enforce_eager=True, enable_prefix_caching=True, max_num_batched_tokens=CHUNK,
        )  # fmt: skip
        print(f"{name}, vLLM {vllm.__version__}, torch {torch.__version__}")

        def asked(what: str, length: int) -> Any:
            return requests.get(f"{what}, {length}", requests.get(what))

        def run(what: str, length: int) -> Any:
            sampling = vllm.SamplingParams(temperature=0.0, max_tokens=NEW, logprobs=5, ignore_eos=True,
                                           detokenize=False, extra_args=asked(what, length))  # fmt: skip
            return llm.generate([{"prompt_token_ids": prompt[:length]}], sampling, use_tqdm=False)[0]

        for what, length, before in CASES:
            label = f"{what}, {length} tokens" + (f", after the same {before}" if before else "")
            if asked(what, length) is None and what != "nowhere":
                print(f"  {label}: cannot be asked for")
                continue
            llm.reset_prefix_cache()
            if before is not None:
                run(before, length)
            try:
                output = run(what, length)
            except ValueError as error:
                print(f"  {label}: refused, {type(error).__name__}: {str(error).splitlines()[0][:90]}")
                continue
            print(f"  {label}: {output.num_cached_tokens or 0} cached; {verdict(model, vector, output, what, length)}")


def verdict(model: Any, vector: torch.Tensor, output: Any, what: str, length: int) -> str:
    """How far the log-probabilities are from those of the hook; if far, which positions they are those of."""
    errors = {name: _error(model, vector, output, where, length) for name, where in POSITIONS.items()}
    nearest = min(errors, key=lambda name: errors[name])
    near = f"{nearest} (error {errors[nearest]:.0e})" if errors[nearest] < 1e-4 else "no set of positions tried"
    if what in errors:
        return f"error {errors[what]:.0e}" + ("" if errors[what] < 1e-4 else f"; as if steered {near}")
    return f"answered, as if steered {near}"


def _error(model: Any, vector: torch.Tensor, output: Any, where: Callable[[int, int], bool], length: int) -> float:
    found = output.outputs[0]
    ids = [*output.prompt_token_ids, *found.token_ids[:-1]]
    mask = torch.tensor([[float(where(position, length))] for position in range(len(ids))])

    def hook(module: Any, args: Any, out: Any) -> Any:
        return out + mask * vector if isinstance(out, torch.Tensor) else (out[0] + mask * vector, *out[1:])

    handle = model.model.layers[LAYER].register_forward_hook(hook)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)[length - 1 :]
    handle.remove()
    return max(abs(each.logprob - float(expected[step, token]))
               for step, top in enumerate(found.logprobs) for token, each in top.items())  # fmt: skip


if __name__ == "__main__":
    main()
