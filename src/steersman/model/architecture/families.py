"""Where each family of decoders keeps its parts: one small entry per family, as dotted paths.

Adding a family is adding a line to :data:`FAMILIES`. Nothing here is trusted: every entry is proved on the model it is
used for (:mod:`.proof`), so a wrong path is an error at load and never a wrong activation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

PARALLEL = "attention and the MLP of this block run side by side, so no residual stream lies between them"
EXPERTS = "a mixture of experts: each token passes through neurons of its own, so there is no single set of them"
LINEAR = "this block mixes tokens by a linear recurrence, not by attention heads"
NORMED = (
    "this block normalises the residual stream itself after each addition, so what a part writes is not what arrives"
)


@dataclass(frozen=True)
class Family:
    """The layout of a family. The defaults are Llama's.

    Attributes:
        decoder: path from the causal LM to the module that owns the blocks.
        blocks, final_norm, position_embedding: paths from the decoder; None where there is no such module.
        attention, mlp: paths from a block. Where the block holds the MLP's layers itself, its last layer.
        attention_projection, mlp_projection: from a block, the linear maps whose inputs are ``z`` and ``mlp_post``.
        attention_out, mlp_out: from a block, the module whose output is added to the residual stream, if that is
            not the attention or the MLP itself: a norm after it, or a projection inside it.
        middle: from a block, the module that reads the residual stream between the two additions.
        parallel: whether there is no such middle: True, or configuration flags of which any one says so.
        normed: the configuration flag, and its value, with which the residual stream itself is normalised.
        scale: the attribute of a block with the factor that both contributions are multiplied by.
        recurrence: from a block, what takes attention's place in the blocks of a hybrid that have none.
    """

    decoder: str = "model"
    blocks: str = "layers"
    final_norm: str | None = "norm"
    position_embedding: str | None = None
    attention: str = "self_attn"
    attention_projection: str = "self_attn.o_proj"
    attention_out: str | None = None
    mlp: str = "mlp"
    mlp_projection: str = "mlp.down_proj"
    mlp_out: str | None = None
    middle: str | None = "post_attention_layernorm"
    parallel: bool | tuple[str, ...] = False
    normed: tuple[str, bool] | None = None
    scale: str | None = None
    recurrence: str | None = None


LLAMA = Family()
LLAMA_PARALLEL = replace(LLAMA, parallel=True)
LLAMA_SCALED = replace(LLAMA, scale="residual_multiplier")
#: OLMo-2: norms after attention and after the MLP, none before them; the MLP itself reads the residual stream.
POST_NORMS = replace(
    LLAMA, attention_out="post_attention_layernorm", mlp_out="post_feedforward_layernorm", middle="mlp"
)
#: Gemma-2: norms on both sides of attention and of the MLP.
SANDWICH = replace(POST_NORMS, middle="pre_feedforward_layernorm")
PHI = replace(
    LLAMA_PARALLEL,
    attention_projection="self_attn.dense",
    mlp_projection="mlp.fc2",
    final_norm="final_layernorm",
)
GPT2 = Family(
    decoder="transformer",
    blocks="h",
    final_norm="ln_f",
    position_embedding="wpe",
    attention="attn",
    attention_projection="attn.c_proj",
    mlp_projection="mlp.c_proj",
    middle="ln_2",
)
GPTJ = replace(
    GPT2,
    position_embedding=None,
    attention_projection="attn.out_proj",
    mlp_projection="mlp.fc_out",
    parallel=True,
)
GPT_NEOX = Family(
    decoder="gpt_neox",
    final_norm="final_layer_norm",
    attention="attention",
    attention_projection="attention.dense",
    mlp_projection="mlp.dense_4h_to_h",
    parallel=("use_parallel_residual",),
)
FALCON = replace(
    GPT_NEOX,
    decoder="transformer",
    blocks="h",
    final_norm="ln_f",
    attention="self_attention",
    attention_projection="self_attention.dense",
    parallel=("parallel_attn", "new_decoder_architecture"),
)
#: BLOOM's attention and MLP add the residual stream inside themselves, so their contributions leave the projections.
BLOOM = replace(
    FALCON,
    attention_out="self_attention.dense",
    mlp_out="mlp.dense_4h_to_h",
    parallel=False,
    normed=("apply_residual_connection_post_layernorm", True),
)
OPT = Family(
    decoder="model.decoder",
    final_norm="final_layer_norm",
    position_embedding="embed_positions",
    attention_projection="self_attn.out_proj",
    mlp="fc2",
    mlp_projection="fc2",
    middle="final_layer_norm",
    normed=("do_layer_norm_before", False),
)

#: By ``model_type`` of the (text) configuration.
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        (
            *("llama", "mistral", "ministral", "ministral3", "qwen2", "qwen3", "gemma", "phi3", "smollm3", "olmo"),
            *("arcee", "seed_oss", "glm", "helium", "ernie4_5", "hunyuan_v1_dense", "cwm", "nemotron", "bitnet"),
            *("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v2", "deepseek_v3", "phimoe"),
        ),
        LLAMA,
    ),
    **dict.fromkeys(("olmo2", "olmo3", "exaone4", "flex_olmo"), POST_NORMS),
    **dict.fromkeys(("gemma2", "gemma3_text"), SANDWICH),
    **dict.fromkeys(("cohere", "cohere2"), LLAMA_PARALLEL),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text"), replace(LLAMA, recurrence="linear_attn")),
    "stablelm": replace(LLAMA, parallel=("use_parallel_residual",)),
    "starcoder2": replace(LLAMA, mlp_projection="mlp.c_proj"),
    "glm4": replace(LLAMA, attention_out="post_self_attn_layernorm", mlp_out="post_mlp_layernorm"),
    "apertus": replace(LLAMA, middle="feedforward_layernorm"),
    "granite": LLAMA_SCALED,
    "granitemoe": replace(LLAMA_SCALED, mlp="block_sparse_moe"),
    "minicpm3": replace(LLAMA, scale="residual_scale"),
    "phi": PHI,
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neo": replace(GPT2, attention_projection="attn.attention.out_proj"),
    "gptj": GPTJ,
    "codegen": GPTJ,
    "gpt_neox": GPT_NEOX,
    "falcon": FALCON,
    "bloom": BLOOM,
    "opt": OPT,
    "biogpt": replace(OPT, decoder="biogpt", final_norm="layer_norm", normed=None),
    "xglm": replace(OPT, decoder="model", final_norm="layer_norm", normed=None),
}
