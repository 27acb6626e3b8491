"""Whether plugins that steer vLLM do what a forward hook does: in chunks of a prompt, and beside a prefix cache.

    python -m benchmarks.vllm_claims {steersman,hotwire,vllm-lens}

Each plugin needs an environment with the vLLM that it asks for. A random Llama is asked to add a vector at the output
of one block, for prompts of 65 tokens, which come in chunks of 64 and 1, and of 40, which come whole. What is printed
is the largest error of the log-probabilities that vLLM reports, against transformers with a hook at the positions that
were asked for; and where that is wrong, at which other positions it would be right. Without a GPU, hotwire's kernel is
run by Triton's interpreter.
"""

from __future__ import annotations

import copy
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

import torch  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

LAYER, WIDTH, LONG, SHORT, NEW, CHUNK = 1, 128, 65, 40, 8, 64
CONFIG = {
    "vocab_size": 512, "hidden_size": WIDTH, "intermediate_size": 160, "num_hidden_layers": 4, "head_dim": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1,
}  # fmt: skip
#: Sets of positions, as predicates of (position, length of the prompt).
POSITIONS: dict[str, Callable[[int, int], bool]] = {
    "nowhere": lambda p, n: False,
    "everywhere": lambda p, n: True,
    "generated tokens": lambda p, n: p >= n,
    "positions 3 and -1 of the prompt": lambda p, n: p in (3, n - 1),
    "position 3": lambda p, n: p == 3,
    "last prompt token and generated ones": lambda p, n: p >= n - 1,
    "the cached tokens": lambda p, n: p < CHUNK,
}
#: What is asked for, for a prompt of which length, and what ran on that prompt just before, with an empty cache.
CASES = [
    ("nowhere", LONG, None), ("everywhere", LONG, None), ("nowhere", LONG, "everywhere"),
    ("everywhere", LONG, "nowhere"), ("generated tokens", LONG, None), ("generated tokens", SHORT, None),
    *(("positions 3 and -1 of the prompt", length, None) for length in (LONG, SHORT)),
    ("an unknown vector", SHORT, None), ("what is no spec", SHORT, None),
]  # fmt: skip

#: The extra arguments of a request for what is asked for, and a prompt of a length; None if there is no way to ask.
Requests = Callable[[str, int], Any]


def hotwire(vector: torch.Tensor, folder: Path) -> Requests:
    if INTERPRETED:  # vLLM's CPU build takes Triton for present only if it has a backend for CPUs
        import triton.backends

        backend = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)
        triton.backends.backends.setdefault("cpu", backend)
    torch.save(vector, folder / "v.pt")
    os.environ |= {"HOTWIRE_VECTORS": str(folder), "VLLM_PLUGINS": "hotwire"}
    spec = {"id": "v", "layer": LAYER, "scale": 1.0}
    specs: dict[str, Any] = {"everywhere": spec, "generated tokens": spec | {"decode_only": True}}
    specs |= {"an unknown vector": spec | {"id": "w"}, "what is no spec": ["x"]}
    return lambda what, length: {"hotwire": json.dumps(specs[what])} if what in specs else None


def vllm_lens(vector: torch.Tensor, folder: Path) -> Requests:
    os.environ["VLLM_PLUGINS"] = "activations"
    from vllm_lens import SteeringVector  # pyright: ignore[reportMissingImports]

    common = {"layer_indices": [LAYER], "scale": 1.0, "norm_match": False}

    def request(what: str, length: int) -> Any:
        listed = {"generated tokens": range(length, length + NEW), "positions 3 and -1 of the prompt": (3, length - 1)}
        if what in listed:
            at = list(listed[what])
            rows = vector.expand(1, len(at), WIDTH).clone()
            own = SteeringVector(activations=rows, position_indices=at, **common)
        elif what == "everywhere":
            own = SteeringVector(activations=vector[None], **common)
        else:
            own = "x" if what == "what is no spec" else None  # the vector itself is sent, so none is unknown
        return None if own is None else {"apply_steering_vectors": [own]}

    return request


def steersman(vector: torch.Tensor, folder: Path) -> Requests:
    from steersman.registry import Registry

    os.environ |= {"VLLM_PLUGINS": "steersman", "STEERSMAN_VECTORS": str(folder)}
    spec = {"vector": Registry(folder).store(vector), "layers": [LAYER]}
    where = {"everywhere": "all", "generated tokens": "generation"}
    where |= {"positions 3 and -1 of the prompt": "prompt[3]+prompt[-1]"}
    specs: dict[str, Any] = {what: {"interventions": [spec | {"positions": each}]} for what, each in where.items()}
    specs |= {"an unknown vector": {"interventions": [spec | {"vector": "w"}]}, "what is no spec": ["x"]}
    return lambda what, length: {"steersman": specs[what]} if what in specs else None


def main() -> None:
    """Run the cases and print what came of each."""
    name = sys.argv[1]
    torch.manual_seed(0)
    model, vector = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval(), 4 * torch.randn(WIDTH)
    prompt = torch.randint(5, 500, (LONG,)).tolist()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as vectors:
        model.save_pretrained(folder)
        ask = {"hotwire": hotwire, "vllm-lens": vllm_lens, "steersman": steersman}[name](vector, Path(vectors))
        import vllm  # pyright: ignore[reportMissingImports]

        llm = vllm.LLM(
            folder, skip_tokenizer_init=True, dtype="float32", max_model_len=128, max_num_seqs=8, block_size=32,
            enforce_eager=True, enable_prefix_caching=True, max_num_batched_tokens=CHUNK,
        )  # fmt: skip
        print(f"{name}, vLLM {vllm.__version__}, torch {torch.__version__}")

        def run(what: str, length: int) -> Any:
            sampling = vllm.SamplingParams(
                temperature=0.0, max_tokens=NEW, logprobs=5, ignore_eos=True, detokenize=False,
                extra_args=copy.deepcopy(ask(what, length)),
            )  # fmt: skip
            return llm.generate([{"prompt_token_ids": prompt[:length]}], sampling, use_tqdm=False)[0]

        for what, length, before in CASES:
            label = f"{what}, {length} tokens" + (f", after the same {before}" if before else "")
            if ask(what, length) is None and what != "nowhere":
                print(f"  {label}: cannot be asked for")
                continue
            llm.reset_prefix_cache()
            if before is not None:
                run(before, length)
            try:
                output = run(what, length)
            except Exception as error:
                if "ValidationError" not in type(error).__name__:
                    raise
                print(f"  {label}: refused, {type(error).__name__}: {str(error).splitlines()[0][:90]}")
                continue
            print(f"  {label}: {output.num_cached_tokens or 0} cached; {verdict(model, vector, output, what, length)}")


def verdict(model: Any, vector: torch.Tensor, output: Any, what: str, length: int) -> str:
    """How far the log-probabilities are from those of the hook; if far, which positions they are those of."""
    errors = {name: _error(model, vector, output, where, length) for name, where in POSITIONS.items()}
    nearest = min(errors, key=lambda name: errors[name])
    near = f"{nearest} (error {errors[nearest]:.0e})" if errors[nearest] < 1e-4 else "at none of the sets tried"
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
    tops = zip(found.logprobs, expected, strict=True)
    return max(abs(each.logprob - float(row[token])) for top, row in tops for token, each in top.items())


if __name__ == "__main__":
    main()
