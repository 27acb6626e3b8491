"""Who a model is: a hash of its architecture, equal for every copy of it and for its fine-tuned descendants."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import cast

#: The settings that make up an architecture, under every name that a supported family gives them. Whatever is not
#: listed is left out, above all: ``dtype``, ``_attn_implementation``, ``use_cache``, ``_name_or_path``,
#: ``transformers_version``, ``architectures``, token ids, dropout, ``initializer_range``, generation settings, router
#: losses and ``quantization_config``. They say how a model is stored, trained or run, not what it computes; and as
#: only listed names count, a setting that a later transformers adds cannot change the hash of an old model.
KEYS = (
    *("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank", "q_lora_rank"),
    *("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "moe_intermediate_size"),
    *("shared_expert_intermediate_size", "word_embed_proj_dim", "max_position_embeddings", "n_positions"),
    *("hidden_act", "hidden_activation", "activation_function", "activation"),
    *(
        "rms_norm_eps",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "norm_eps",
        "norm_epsilon",
        "use_qk_norm",
        "qk_layernorm",
    ),
    *("rope_parameters", "rotary_dim", "alibi"),
    *("sliding_window", "use_sliding_window", "layer_types", "attention_layers", "window_size"),
    *("attention_bias", "mlp_bias", "use_bias", "bias", "enable_bias", "use_qkv_bias", "tie_word_embeddings"),
    *("parallel_attn", "new_decoder_architecture", "multi_query", "use_parallel_residual", "do_layer_norm_before"),
    *("apply_residual_connection_post_layernorm", "num_experts", "num_local_experts", "n_routed_experts"),
    *("n_shared_experts", "num_experts_per_tok", "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"),
    *("first_k_dense_replace", "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim"),
    *("linear_value_head_dim", "linear_conv_kernel_dim", "residual_multiplier", "embedding_multiplier"),
    *("attention_multiplier", "logits_scaling", "logit_scale", "scale_depth", "scale_emb", "dim_model_base"),
    *("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "scale_attn_weights"),
    *("scale_attn_by_inverse_layer_idx", "clip_qkv"),
)


def fingerprint(config: object) -> str:
    """The SHA-256, in hex, of the architecture that a (text) configuration describes: its settings in :data:`KEYS`."""
    settings = {key: _plain(getattr(config, key, None)) for key in KEYS}
    known = {key: value for key, value in settings.items() if value is not None}
    return hashlib.sha256(json.dumps(known, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _plain(value: object) -> object:
    """``value`` as JSON that does not depend on how it was written: 10000 and 10000.0, tuples and lists are equal."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        items = cast(Mapping[object, object], value).items()
        return {str(key): _plain(item) for key, item in items if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast(list[object], value)]
    return str(value)
