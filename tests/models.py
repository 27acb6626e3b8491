"""Tiny random models of every family, and a tiny tokenizer: no hub, no files, milliseconds each.

Every parameter is drawn anew, biases and norm gains too, so that no test passes because something happened to be zero
or one. Weights are scaled so that each layer changes the residual stream visibly.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

torch.set_num_threads(1)  # the models are too small to gain from threads, and lose much

WIDTH, LAYERS, HEADS, VOCABULARY = 32, 3, 4, 320
WINDOW = 8  # sliding windows: shorter than the sequences of the tests
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_LLAMA = _COMMON | {"intermediate_size": 48, "num_key_value_heads": 2}
_GPT2 = {key: value for key, value in _COMMON.items() if key != "max_position_embeddings"} | {"n_positions": 256}
_PLAIN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
_GEMMA = _LLAMA | {"num_hidden_layers": 4, "head_dim": 12}
_ALTERNATING = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}
_DEEPSEEK = _LLAMA | {
    "num_key_value_heads": HEADS,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "head_dim": 4,
}
_HYBRID = _LLAMA | {
    "num_hidden_layers": 4,
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
}

_SETTINGS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", **_GPT2},
    "gpt_bigcode": {"model_type": "gpt_bigcode", **_GPT2},
    "gpt_neo": {
        **_COMMON,
        "model_type": "gpt_neo",
        "num_hidden_layers": 4,
        "window_size": WINDOW,
        "attention_types": [[["global", "local"], 2]],
    },
    "gpt_neox": {"model_type": "gpt_neox", **_COMMON, "intermediate_size": 48},
    "gpt_neox_sequential": {
        "model_type": "gpt_neox",
        **_COMMON,
        "intermediate_size": 48,
        "use_parallel_residual": False,
    },
    "gptj": {"model_type": "gptj", **_GPT2, "rotary_dim": 4},
    "codegen": {"model_type": "codegen", **_GPT2, "rotary_dim": 4},
    "opt": {"model_type": "opt", **_COMMON, "ffn_dim": 48, "word_embed_proj_dim": WIDTH},
    "opt_post_norm": {
        "model_type": "opt",
        **_COMMON,
        "ffn_dim": 48,
        "word_embed_proj_dim": 16,
        "do_layer_norm_before": False,
    },
    "xglm": {
        "model_type": "xglm",
        **_COMMON,
        "ffn_dim": 48,
        "num_layers": LAYERS,
        "d_model": WIDTH,
        "attention_heads": HEADS,
    },
    "biogpt": {"model_type": "biogpt", **_COMMON, "intermediate_size": 48},
    "bloom": {"model_type": "bloom", **_COMMON},
    "bloom_post_norm": {
        "model_type": "bloom",
        **_COMMON,
        "apply_residual_connection_post_layernorm": True,
    },
    "falcon": {"model_type": "falcon", **_COMMON, "multi_query": True, "parallel_attn": True, "bias": True},
    "falcon_new": {"model_type": "falcon", **_COMMON, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_sequential": {
        "model_type": "falcon",
        **_COMMON,
        "parallel_attn": False,
        "alibi": True,
        "multi_query": False,
        "bias": True,
    },
    "llama": {"model_type": "llama", **_LLAMA, "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", **_LLAMA, "sliding_window": WINDOW},
    "mixtral": {"model_type": "mixtral", **_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": {"model_type": "qwen2", **_LLAMA},
    "qwen2_moe": {
        "model_type": "qwen2_moe",
        **_LLAMA,
        **EXPERTS,
        "num_experts": 4,
        "shared_expert_intermediate_size": 24,
    },
    "qwen3": {"model_type": "qwen3", **_LLAMA, "head_dim": 12},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        **_LLAMA,
        **EXPERTS,
        "num_experts": 4,
        "head_dim": 12,
        "mlp_only_layers": [1],
    },
    "qwen3_next": {
        "model_type": "qwen3_next",
        **_HYBRID,
        **EXPERTS,
        "num_experts": 4,
        "shared_expert_intermediate_size": 24,
    },
    "qwen3_5": {"model_type": "qwen3_5_text", **_HYBRID},
    "gemma": {"model_type": "gemma", **_LLAMA, "head_dim": 12},
    "gemma2": {"model_type": "gemma2", **_GEMMA, **_ALTERNATING, "query_pre_attn_scalar": 12},
    "gemma3": {"model_type": "gemma3_text", **_GEMMA, **_ALTERNATING, "query_pre_attn_scalar": 12},
    "phi": {"model_type": "phi", **_LLAMA},
    "phi3": {"model_type": "phi3", **_LLAMA, "sliding_window": WINDOW},
    "phimoe": {"model_type": "phimoe", **_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo": {"model_type": "olmo", **_LLAMA},
    "olmo2": {"model_type": "olmo2", **_LLAMA},
    "olmo3": {"model_type": "olmo3", **_LLAMA, "num_hidden_layers": 4, **_ALTERNATING},
    "olmoe": {"model_type": "olmoe", **_LLAMA, "num_experts": 4, "num_experts_per_tok": 2},
    "stablelm": {"model_type": "stablelm", **_LLAMA, "use_qkv_bias": True},
    "stablelm_parallel": {"model_type": "stablelm", **_LLAMA, "use_parallel_residual": True},
    "granite": {
        "model_type": "granite",
        **_LLAMA,
        "residual_multiplier": 0.22,
        "embedding_multiplier": 3.0,
        "logits_scaling": 4.0,
        "attention_multiplier": 0.3,
    },
    "granitemoe": {
        "model_type": "granitemoe",
        **_LLAMA,
        "residual_multiplier": 0.22,
        "embedding_multiplier": 3.0,
        "logits_scaling": 4.0,
        "attention_multiplier": 0.3,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "minicpm3": {
        "model_type": "minicpm3",
        **_LLAMA,
        "num_key_value_heads": HEADS,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 12,
        "scale_depth": 1.4,
        "head_dim": 4,
    },
    "cohere": {"model_type": "cohere", **_LLAMA},
    "cohere2": {"model_type": "cohere2", **_LLAMA, "num_hidden_layers": 4, **_ALTERNATING},
    "gpt_oss": {
        "model_type": "gpt_oss",
        **_GEMMA,
        **_ALTERNATING,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        **_PLAIN_ROPE,
    },
    "smollm3": {"model_type": "smollm3", **_LLAMA, "no_rope_layers": [1, 1, 0]},
    "starcoder2": {"model_type": "starcoder2", **_LLAMA, "sliding_window": WINDOW},
    "nemotron": {"model_type": "nemotron", **_LLAMA, "head_dim": 8},
    "glm": {"model_type": "glm", **_LLAMA, "head_dim": 8},
    "glm4": {"model_type": "glm4", **_LLAMA, "head_dim": 8},
    "helium": {"model_type": "helium", **_LLAMA, "head_dim": 8},
    "apertus": {"model_type": "apertus", **_LLAMA, **_PLAIN_ROPE},
    "arcee": {"model_type": "arcee", **_LLAMA},
    "bitnet": {"model_type": "bitnet", **_LLAMA},
    "cwm": {"model_type": "cwm", **_LLAMA, **_PLAIN_ROPE, "head_dim": 8, "sliding_window": WINDOW},
    "ernie4_5": {"model_type": "ernie4_5", **_LLAMA, "head_dim": 8},
    "exaone4": {"model_type": "exaone4", **_LLAMA, "num_hidden_layers": 4, **_ALTERNATING},
    "flex_olmo": {"model_type": "flex_olmo", **_LLAMA, "num_experts": 4, "num_experts_per_tok": 2},
    "hunyuan": {"model_type": "hunyuan_v1_dense", **_LLAMA, "head_dim": 8},
    "ministral": {"model_type": "ministral", **_LLAMA, "head_dim": 8, "sliding_window": WINDOW},
    "ministral3": {"model_type": "ministral3", **_LLAMA, "head_dim": 8},
    "seed_oss": {"model_type": "seed_oss", **_LLAMA, "head_dim": 8},
    "deepseek_v2": {"model_type": "deepseek_v2", **_DEEPSEEK, **EXPERTS},
    "deepseek_v3": {"model_type": "deepseek_v3", **_DEEPSEEK, **EXPERTS},
}

#: Every variant that :func:`tiny` can make.
FAMILIES: list[str] = list(_SETTINGS)


def tiny(family: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random model of a family in :data:`FAMILIES`, float32, in eval mode; ``overrides`` change its configuration."""
    settings = _SETTINGS[family] | overrides
    config = AutoConfig.for_model(settings["model_type"], **{k: v for k, v in settings.items() if k != "model_type"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return randomise(model, seed=seed).eval()


@torch.no_grad()
def randomise(model: PreTrainedModel, *, seed: int = 0) -> PreTrainedModel:
    """Draw every parameter anew: matrices that keep the size of what they map, gains near one, biases near 0.2."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "embed" in name or "wte" in name or "wpe" in name:
            value = noise * 0.5
        elif parameter.ndim >= 2:
            value = noise * 1.2 / min(parameter.shape[-2:]) ** 0.5
        elif name.endswith("bias"):
            value = noise * 0.2
        else:
            value = 1 + 0.3 * noise
        parameter.copy_(value)
    return model


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_WORDS = (" the", " a", " is", " was", " of", " and", " great", " awful", " good", " bad", " Paris", " London")


def tiny_tokenizer(*, vocab_size: int = VOCABULARY, pad: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a few whole words; it adds BOS, and round-trips any text.

    Args:
        vocab_size: the most tokens it may have; below 258 plus a few words there is no room for all bytes.
        pad: whether it has a pad token, which many tokenizers of base models lack.
    """
    special = ["<s>", "</s>", *(["<pad>"] if pad else [])]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words: dict[str, int] = {token: index for index, token in enumerate([*special, *alphabet])}
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        whole = word.replace(" ", "Ġ")
        steps = [(whole[:end], whole[end]) for end in range(1, len(whole))]
        new = [left + right for left, right in steps if left + right not in words]
        if len(words) + len(new) > vocab_size:
            break
        merges += [step for step in steps if step not in merges]
        words |= {token: len(words) + index for index, token in enumerate(new)}
    assert len(words) <= vocab_size, f"a byte-level tokenizer needs at least {len(words)} tokens"
    raw = Tokenizer(models.BPE(vocab=words, merges=merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", words["<s>"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>" if pad else None,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
