"""The parts of a model are found, and what was found is proved or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models import FAMILIES, HEADS, VOCABULARY, WIDTH, randomise, tiny, tiny_tokenizer
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput

from steersman.errors import ArchitectureError, MismatchError, SiteUnavailableError
from steersman.model.architecture import Architecture, Tap, find_architecture, fingerprint
from steersman.model.architecture.families import FAMILIES as LAYOUTS
from steersman.sites import COMPONENTS

SEQUENTIAL_ONLY = {"resid_mid"}
MIXTURES = {
    *("mixtral", "qwen2_moe", "qwen3_next", "phimoe", "olmoe", "granitemoe", "gpt_oss", "flex_olmo"),
    *("qwen3_moe", "deepseek_v2", "deepseek_v3"),
}
PARALLEL = {"gpt_neox", "gptj", "codegen", "falcon", "falcon_new", "phi", "stablelm_parallel", "cohere", "cohere2"}
POST_NORM = {"opt_post_norm", "bloom_post_norm"}
HYBRID = {"qwen3_next", "qwen3_5"}


def ids(rows: int = 2, tokens: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(5, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def first(value: Any) -> Tensor:
    return value[0] if isinstance(value, tuple) else value


@torch.no_grad()
def record(
    model: nn.Module, places: dict[Any, tuple[nn.Module, str]], tokens: Tensor | None = None
) -> dict[Any, Tensor]:
    """What passes the given places in one forward pass, by plain hooks that know nothing of the package."""
    seen: dict[Any, Tensor] = {}
    handles = []
    for key, (module, side) in places.items():
        if side == "input":

            def before(_: nn.Module, args: tuple[Any, ...], key: Any = key) -> None:
                seen[key] = args[0].clone()

            handles.append(module.register_forward_pre_hook(before))
        else:

            def after(_: nn.Module, args: tuple[Any, ...], output: Any, key: Any = key) -> None:
                seen[key] = first(output).clone()

            handles.append(module.register_forward_hook(after))
    model(input_ids=ids() if tokens is None else tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def read_all(arch: Architecture, tokens: Tensor | None = None) -> dict[tuple[str, int], Tensor]:
    """Every site of every layer, scaled, in one plain forward pass."""
    seen = record(arch.hf, {site: (tap.module, tap.side) for site, tap in arch.taps.items()}, tokens)
    return {site: value * arch.taps[site].scale for site, value in seen.items()}


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# -- every family --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_are_found_and_proved(family: str) -> None:
    model = tiny(family)
    arch = find_architecture(model)
    shape = arch.shape
    assert arch.hf is model
    assert shape.model_type == arch.family == model.config.model_type
    assert shape.n_layers == len(arch.blocks) == model.config.num_hidden_layers
    assert (shape.d_model, shape.n_heads) == (WIDTH, HEADS)
    assert arch.embedding is model.get_input_embeddings()
    assert arch.unembedding is model.get_output_embeddings()
    assert any(module is arch.decoder for module in model.modules())
    assert (arch.final_norm is None) == (family == "opt_post_norm")
    learned = {"gpt2", "gpt_bigcode", "gpt_neo", "opt", "opt_post_norm", "xglm", "biogpt"}
    assert (arch.position_embedding is not None) == (family in learned)
    for layer, block in enumerate(arch.blocks):
        inside = list(block.modules())
        assert any(arch.attention(layer) is m for m in inside)
        assert any(arch.mlp(layer) is m for m in inside)
        if ("z", layer) not in shape.unavailable:
            assert any(arch.attention_projection(layer) is m for m in inside)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_has_the_shape_it_declares(family: str) -> None:
    arch = find_architecture(tiny(family), prove=False)
    seen = read_all(arch)
    for layer in range(arch.shape.n_layers):
        for component in COMPONENTS:
            if (component, layer) in arch.shape.unavailable:
                assert (component, layer) not in seen
                continue
            value = seen[component, layer]
            assert value.shape[-1] == arch.shape.width(component, layer)
            assert value.numel() == 2 * 12 * arch.shape.width(component, layer)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_contributions_add_up(family: str) -> None:
    arch = find_architecture(tiny(family), prove=False)
    seen = {site: value.reshape(2, 12, -1) for site, value in read_all(arch).items()}
    for layer in range(arch.shape.n_layers):
        if ("attn_out", layer) in seen:
            total = seen["resid_pre", layer] + seen["attn_out", layer] + seen["mlp_out", layer]
            torch.testing.assert_close(seen["resid_post", layer], total)
            # Neither contribution is so small that the sum would hold without it.
            assert seen["attn_out", layer].norm() > 0.05 * total.norm()
            assert seen["mlp_out", layer].norm() > 0.02 * total.norm()
        if ("resid_mid", layer) in seen:
            torch.testing.assert_close(seen["resid_mid", layer], seen["resid_pre", layer] + seen["attn_out", layer])


def test_which_sites_a_family_lacks() -> None:
    for family in FAMILIES:
        missing = {component for component, _ in find_architecture(tiny(family), prove=False).shape.unavailable}
        expected: set[str] = set()
        expected |= {"resid_mid"} if family in PARALLEL else set()
        expected |= {"mlp_post"} if family in MIXTURES else set()
        expected |= {"attn_out", "mlp_out", "resid_mid"} if family in POST_NORM else set()
        expected |= {"z"} if family in HYBRID else set()
        assert missing == expected, family


@pytest.mark.parametrize(
    ("family", "component", "layer", "reason"),
    [
        ("gpt_neox", "resid_mid", 1, "side by side"),
        ("mixtral", "mlp_post", 0, "mixture of experts"),
        ("qwen3_moe", "mlp_post", 0, "mixture of experts"),
        ("opt_post_norm", "attn_out", 2, "normalises the residual stream"),
        ("qwen3_5", "z", 0, "linear recurrence"),
    ],
)
def test_an_absent_site_is_refused_by_name_and_with_its_reason(
    family: str, component: str, layer: int, reason: str
) -> None:
    arch = find_architecture(tiny(family), prove=False, name="my-model")
    with pytest.raises(SiteUnavailableError, match=f"my-model has no '{component}' in layer {layer}: .*{reason}"):
        arch.tap(component, layer)


def test_layers_can_differ() -> None:
    shape = find_architecture(tiny("qwen3_moe")).shape  # layer 1 is dense
    assert shape.d_mlp == (None, 48, None)
    assert find_architecture(tiny("qwen3_5")).tap("z", 1).side == "input"


def test_layers_count_from_the_end_too_and_are_checked() -> None:
    arch = find_architecture(tiny("llama"), prove=False)
    assert arch.tap("resid_post", -1) is arch.tap("resid_post", 2)
    assert arch.mlp(-1) is arch.mlp(2)
    with pytest.raises(MismatchError, match="3 layers"):
        arch.tap("resid_post", 3)


# -- the additive identity, by hand --------------------------------------------------------------------------------


def _gpt2(block: Any) -> tuple[Any, Any, float]:
    return (block.attn, "output"), (block.mlp, "output"), 1.0


def _llama(block: Any) -> tuple[Any, Any, float]:
    return (block.self_attn, "output"), (block.mlp, "output"), 1.0


def _neox(block: Any) -> tuple[Any, Any, float]:
    return (block.attention, "output"), (block.mlp, "output"), 1.0


def _gemma2(block: Any) -> tuple[Any, Any, float]:
    return (block.post_attention_layernorm, "output"), (block.post_feedforward_layernorm, "output"), 1.0


def _bloom(block: Any) -> tuple[Any, Any, float]:
    return (block.self_attention.dense, "output"), (block.mlp.dense_4h_to_h, "output"), 1.0


def _granite(block: Any) -> tuple[Any, Any, float]:
    return (block.self_attn, "output"), (block.mlp, "output"), 0.22


@pytest.mark.parametrize(
    ("family", "blocks", "parts"),
    [
        ("gpt2", lambda m: m.transformer.h, _gpt2),
        ("llama", lambda m: m.model.layers, _llama),
        ("gpt_neox", lambda m: m.gpt_neox.layers, _neox),
        ("mixtral", lambda m: m.model.layers, _llama),
        ("gemma2", lambda m: m.model.layers, _gemma2),
        ("bloom", lambda m: m.transformer.h, _bloom),
        ("granite", lambda m: m.model.layers, _granite),
    ],
)
def test_hand_written_hooks_agree(
    family: str, blocks: Callable[[Any], Any], parts: Callable[[Any], tuple[Any, Any, float]]
) -> None:
    model = tiny(family)
    places: dict[Any, tuple[nn.Module, str]] = {}
    for layer, block in enumerate(blocks(model)):
        attention, mlp, scale = parts(block)
        places |= {
            ("resid_pre", layer): (block, "input"),
            ("resid_post", layer): (block, "output"),
            ("attn_out", layer): attention,
            ("mlp_out", layer): mlp,
        }
    by_hand = record(model, places)
    scaled = {site: v * (scale if site[0].endswith("_out") else 1.0) for site, v in by_hand.items()}
    found = read_all(find_architecture(model))
    for site, value in scaled.items():
        torch.testing.assert_close(found[site], value, rtol=0, atol=0)
    for layer in range(len(blocks(model))):
        total = scaled["resid_pre", layer] + scaled["attn_out", layer] + scaled["mlp_out", layer]
        torch.testing.assert_close(total, scaled["resid_post", layer])


# -- taps write ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2", "opt", "gemma2", "granite", "falcon", "gpt_oss", "bloom"])
@torch.no_grad()
def test_an_edit_at_a_contribution_shifts_the_residual_by_exactly_that(family: str) -> None:
    arch = find_architecture(tiny(family), prove=False)
    last = arch.shape.n_layers - 1
    shift = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    tap = arch.tap("mlp_out", last)
    before = read_all(arch)["resid_post", last]
    handle = tap.hook(lambda value: value + shift)
    after = read_all(arch)["resid_post", last]
    handle.remove()
    torch.testing.assert_close(after, before + shift)


@pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2", "opt", "gemma2", "gpt_neox_sequential", "bloom"])
@torch.no_grad()
def test_an_edit_in_the_middle_reaches_the_residual_stream(family: str) -> None:
    arch = find_architecture(tiny(family), prove=False)
    shift = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    plain = {site: value.reshape(2, 12, -1) for site, value in read_all(arch).items()}
    handle = arch.tap("resid_mid", 1).hook(lambda value: value + shift)
    edited = {site: value.reshape(2, 12, -1) for site, value in read_all(arch).items()}
    handle.remove()
    assert arch.tap("resid_mid", 1).in_place
    reaction = edited["mlp_out", 1] - plain["mlp_out", 1]
    assert reaction.norm() > 0
    torch.testing.assert_close(edited["resid_post", 1], plain["resid_post", 1] + shift + reaction)


@torch.no_grad()
def test_a_named_input_and_a_tuple_output_are_hooked_alike() -> None:
    class Part(nn.Module):
        def forward(self, hidden_states: Tensor, flag: bool = True) -> tuple[Tensor, str]:
            return hidden_states * 2, "rest"

    part = Part()
    seen: list[Tensor] = []
    handles = [
        Tap(part, "input").hook(lambda v: (seen.append(v.clone()), v + 1)[1]),
        Tap(part, "output", scale=0.5).hook(lambda v: (seen.append(v.clone()), v + 1)[1]),
    ]
    for output in (part(torch.ones(3)), part(flag=False, hidden_states=torch.ones(3))):
        assert output[1] == "rest"
        torch.testing.assert_close(output[0], torch.full((3,), 6.0))  # (0.5 * 2 * 2 + 1) / 0.5
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(torch.stack(seen), torch.tensor([[1.0], [2.0], [1.0], [2.0]]).expand(4, 3))


# -- the proof fails when it should --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "wrong", "says"),
    [
        ("llama", {"attention_projection": "self_attn.q_proj"}, "attn_out depends on more than z"),
        ("llama", {"mlp_projection": "mlp.gate_proj"}, "mlp_out depends on more than mlp_post"),
        ("llama", {"middle": "input_layernorm"}, "resid_mid != resid_pre"),
        ("llama", {"scale": "factor"}, "layer 0"),
        ("llama", {"middle": "mlp"}, "resid_mid != resid_pre"),
        ("llama", {"attention_out": "post_attention_layernorm"}, "resid_mid != resid_pre"),
        ("llama", {"parallel": True, "mlp_out": "self_attn"}, "resid_post != resid_pre"),
        ("gptj", {"attention_out": "mlp", "mlp_out": "attn"}, "attn_out depends on more than z"),
        ("llama", {"final_norm": "layers.0.input_layernorm"}, "final norm != resid_post"),
        ("llama", {"final_norm": "layers.1.mlp.down_proj"}, "last axis"),
        ("llama", {"decoder": "model", "mlp_projection": "mlp.nothing"}, "no module 'mlp.nothing'"),
        ("llama", {"blocks": "h"}, "no list of blocks 'h'"),
        ("gemma2", {"attention_out": None}, "resid_mid != resid_pre"),
        ("gemma2", {"mlp_out": None}, "resid_post != resid_mid"),
        ("gemma2", {"middle": "post_feedforward_layernorm"}, "resid_mid != resid_pre"),
        ("granite", {"scale": None}, "resid_mid != resid_pre"),
        ("bloom", {"attention_out": None}, "resid_mid != resid_pre"),
        ("bloom_post_norm", {"normed": None}, "resid_mid != resid_pre"),
        ("opt_post_norm", {"normed": None}, "resid_mid != resid_pre"),
        ("gpt_neox", {"parallel": False}, "resid_mid != resid_pre"),
        ("olmo2", {"middle": None, "mlp_out": None}, "resid_post != resid_pre"),
    ],
)
def test_a_wrong_entry_fails_the_proof(
    monkeypatch: pytest.MonkeyPatch, family: str, wrong: dict[str, Any], says: str
) -> None:
    model = tiny(family)
    for block in model.modules():
        block.factor = 0.9  # type: ignore[assignment]
    kind = model.config.model_type
    monkeypatch.setitem(LAYOUTS, kind, replace(LAYOUTS[kind], **wrong))
    with pytest.raises(ArchitectureError) as refusal:
        find_architecture(model)
    assert says in str(refusal.value)
    assert kind in str(refusal.value)
    assert hooks_on(model) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_scale_off_by_a_twentieth_is_noticed_in_any_precision(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    model = tiny("granite").to(dtype)
    for layer in model.model.layers:
        layer.nearly = 0.22 * 1.05
    monkeypatch.setitem(LAYOUTS, "granite", replace(LAYOUTS["granite"], scale="nearly"))
    with pytest.raises(ArchitectureError, match="layer 0"):
        find_architecture(model)


@torch.no_grad()
def test_a_huge_residual_stream_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("granite").to(torch.bfloat16)
    model.model.embed_tokens.weight.add_(30000)  # each contribution is far below the stream's rounding
    find_architecture(model)
    monkeypatch.setitem(LAYOUTS, "granite", replace(LAYOUTS["granite"], scale=None))
    with pytest.raises(ArchitectureError, match="replaced by noise"):
        find_architecture(model)


def test_a_failure_names_family_equation_layer_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYOUTS, "granite", replace(LAYOUTS["granite"], scale=None))
    said = r"me/mine: GraniteForCausalLM .* family 'granite', but resid_mid != resid_pre \+ attn_out in layer 0: .*\d"
    with pytest.raises(ArchitectureError, match=said):
        find_architecture(tiny("granite"), name="me/mine")


@torch.no_grad()
def test_weights_that_are_not_finite_are_named() -> None:
    model = tiny("llama")
    model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ArchitectureError, match="mlp_out in layer 1 is not finite"):
        find_architecture(model)


# -- the model stays as it was -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_the_proof_changes_nothing(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    model = tiny("gpt2", attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    model.train()
    model.transformer.h[1].eval()
    flags = {name: module.training for name, module in model.named_modules()}
    weights = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    if fails:
        monkeypatch.setitem(LAYOUTS, "gpt2", replace(LAYOUTS["gpt2"], middle="ln_1"))
        with pytest.raises(ArchitectureError):
            find_architecture(model)
    else:
        find_architecture(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert hooks_on(model) == 0
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# -- precision, wrappers, devices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_proof_passes_in_half_precision(family: str, dtype: torch.dtype) -> None:
    find_architecture(tiny(family).to(dtype))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_a_peft_model_is_found(family: str) -> None:
    from peft import LoraConfig, get_peft_model

    plain = find_architecture(tiny(family))
    targets = ["c_proj", "c_attn"] if family == "gpt2" else ["o_proj", "down_proj", "q_proj"]
    targets = [*targets, "wte"] if family == "gpt2" else targets
    wrapped = get_peft_model(tiny(family), LoraConfig(target_modules=targets, r=2, init_lora_weights=False))
    wrapped.eval()
    arch = find_architecture(wrapped)
    assert arch.hf is wrapped
    assert arch.shape.fingerprint == plain.shape.fingerprint
    assert arch.shape == replace(plain.shape, name=arch.shape.name)
    assert "lora" in type(arch.attention_projection(0)).__module__


def test_a_peft_model_with_virtual_tokens_is_refused() -> None:
    from peft import PromptTuningConfig, get_peft_model

    wrapped = get_peft_model(tiny("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ArchitectureError, match="virtual tokens"):
        find_architecture(wrapped)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "opt", "bloom"])
def test_a_model_with_quantised_linear_maps_is_found(family: str) -> None:
    plain = find_architecture(tiny(family))
    quantised = torch.ao.quantization.quantize_dynamic(tiny(family), {nn.Linear}, dtype=torch.qint8)
    arch = find_architecture(quantised)
    assert not isinstance(getattr(arch.attention_projection(0), "weight", None), Tensor)
    assert arch.shape == plain.shape


@pytest.mark.parametrize("offload", [False, True])
def test_a_dispatched_model_is_found(tmp_path: Any, offload: bool) -> None:
    from accelerate import cpu_offload, dispatch_model

    model = tiny("llama")
    if offload:
        model = cpu_offload(model)
        assert all(parameter.device.type == "meta" for parameter in model.parameters())
    else:
        layers = {f"model.layers.{layer}": "disk" if layer == 1 else "cpu" for layer in range(3)}
        rest = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
        model = dispatch_model(model, rest | layers, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
        assert model.model.layers[1].mlp.down_proj.weight.device.type == "meta"
    arch = find_architecture(model)
    plain = find_architecture(tiny("llama"))
    for site, value in read_all(plain).items():
        torch.testing.assert_close(read_all(arch)[site], value)
    assert arch.shape == plain.shape


def test_weights_that_were_never_loaded_are_refused_before_running() -> None:
    config = tiny("llama").config
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ArchitectureError, match="not loaded"):
        find_architecture(empty)
    assert find_architecture(empty, prove=False).shape.d_mlp == (48, 48, 48)


def test_the_text_decoder_of_a_multimodal_model_is_found() -> None:
    text = tiny("gemma3").config.to_dict()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 5,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "vision_use_head": False,
    }
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    from transformers import Gemma3ForConditionalGeneration

    model = randomise(Gemma3ForConditionalGeneration(config)).eval()
    arch = find_architecture(model)
    assert arch.decoder is model.model.language_model
    assert arch.shape.fingerprint == find_architecture(tiny("gemma3")).shape.fingerprint


# -- models of no known family -------------------------------------------------------------------------------------


class OwnConfig(PreTrainedConfig):
    model_type = "own_decoder"

    def __init__(self, factor: float = 1.0, tuples: bool = False, causal: bool = True, **kwargs: Any) -> None:
        self.hidden_size, self.num_hidden_layers, self.num_attention_heads, self.vocab_size = 32, 3, 4, 64
        self.factor, self.tuples, self.causal = factor, tuples, causal
        super().__init__(**kwargs)


class OwnAttention(nn.Module):
    def __init__(self, config: OwnConfig) -> None:
        super().__init__()
        self.heads, self.causal = config.num_attention_heads, config.causal
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in parts)
        z = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(z.transpose(1, 2).flatten(2)), None


class OwnBlock(nn.Module):
    def __init__(self, config: OwnConfig) -> None:
        super().__init__()
        self.factor, self.tuples = config.factor, config.tuples
        self.norm_1, self.norm_2 = nn.LayerNorm(config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.attention = OwnAttention(config)
        self.ffn = nn.Sequential()
        self.ffn.add_module("up", nn.Linear(config.hidden_size, 48))
        self.ffn.add_module("act", nn.GELU())
        self.ffn.add_module("down", nn.Linear(48, config.hidden_size))

    def forward(self, x: Tensor) -> Any:
        x = self.factor * x + self.attention(self.norm_1(x))[0]
        x = x + self.ffn(self.norm_2(x))
        return (x, None) if self.tuples else x


class OwnModel(PreTrainedModel, GenerationMixin):
    config_class = OwnConfig

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.h = nn.ModuleList([OwnBlock(config) for _ in range(config.num_hidden_layers)])
        self.ln_f = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.wte

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, **_: Any) -> CausalLMOutput:
        x = self.wte(input_ids)
        for block in self.h:
            x = first(block(x))
        return CausalLMOutput(logits=self.head(self.ln_f(x)))


def own(**settings: Any) -> PreTrainedModel:
    return randomise(OwnModel(OwnConfig(**settings))).eval()


@pytest.mark.parametrize("tuples", [False, True])
def test_an_unknown_family_is_found_by_its_structure(tuples: bool) -> None:
    model = own(tuples=tuples)
    arch = find_architecture(model)
    assert (arch.family, arch.shape.model_type) == ("unknown", "own_decoder")
    assert (arch.shape.n_layers, arch.shape.d_head, arch.shape.d_mlp) == (3, 8, (48, 48, 48))
    assert arch.tap("resid_mid", 0).module is model.h[0].norm_2
    assert arch.attention_projection(2) is model.h[2].attention.out_proj
    assert arch.final_norm is model.ln_f
    assert not arch.shape.unavailable


def test_an_unknown_family_that_scales_its_residual_stream_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"OwnModel is of no known family.*resid_mid != resid_pre \+ attn_out"):
        find_architecture(own(factor=0.9))


def test_an_unknown_family_is_proved_even_if_no_proof_was_asked_for() -> None:
    with pytest.raises(ArchitectureError, match="none passed the proof"):
        find_architecture(own(factor=0.9), prove=False)


def test_an_attention_that_sees_the_future_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="reads later tokens"):
        find_architecture(own(causal=False))


def test_an_unknown_structure_is_refused_with_what_was_looked_for() -> None:
    model = own()
    for block in model.h:
        block.mixing, block.feed = block.ffn, None
        del block.ffn
    with pytest.raises(ArchitectureError, match=r"looked in OwnBlock for an MLP named one of mlp,.* found norm_1"):
        find_architecture(model)


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "gpt_neox", "falcon_sequential", "gemma2", "olmo2", "glm4", "mixtral", "qwen3_moe"]
)
def test_structure_alone_reads_the_common_layouts(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    model = tiny(family)
    known = find_architecture(model)
    monkeypatch.delitem(LAYOUTS, model.config.model_type)
    guessed = find_architecture(model)
    assert guessed.family == "unknown"
    assert guessed.taps == known.taps
    assert guessed.shape.unavailable.keys() == known.shape.unavailable.keys()


# -- what is no decoder-only causal LM -----------------------------------------------------------------------------


def test_other_kinds_of_model_are_refused_by_name() -> None:
    t5 = AutoConfig.for_model(
        "t5", vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    with pytest.raises(ArchitectureError, match="T5ForConditionalGeneration is an encoder-decoder"):
        find_architecture(AutoModelForSeq2SeqLM.from_config(t5))
    small = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = AutoConfig.for_model("bert", **small, intermediate_size=16)
    with pytest.raises(ArchitectureError, match="BertForMaskedLM"):
        find_architecture(AutoModelForMaskedLM.from_config(bert))
    with pytest.raises(ArchitectureError, match="BertModel has no language-modelling head"):
        find_architecture(AutoModel.from_config(bert))
    eurobert = AutoConfig.for_model("eurobert", **small, intermediate_size=16, num_key_value_heads=2, pad_token_id=0)
    with pytest.raises(ArchitectureError, match=r"EuroBertForMaskedLM.*reads later tokens"):
        find_architecture(randomise(AutoModelForMaskedLM.from_config(eurobert)))
    with pytest.raises(ArchitectureError, match="LlamaModel has no language-modelling head"):
        find_architecture(tiny("llama").model)
    with pytest.raises(ArchitectureError, match="Linear has no config"):
        find_architecture(nn.Linear(2, 2))


# -- who a model is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fingerprint_survives_saving(family: str, tmp_path: Any) -> None:
    model = tiny(family)
    model.config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert fingerprint(again) == fingerprint(model.config)


def test_the_fingerprint_of_a_saved_and_reloaded_model_is_the_same(tmp_path: Any) -> None:
    model = tiny("llama")
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, attn_implementation="eager", use_cache=False
    )
    one, other = find_architecture(model).shape, find_architecture(again).shape
    assert other.fingerprint == one.fingerprint
    assert (one.name, other.name) == ("llama", str(tmp_path))


def test_the_fingerprint_tells_architectures_apart() -> None:
    prints = {fingerprint(tiny(family).config) for family in FAMILIES}
    assert len(prints) == len(FAMILIES)
    base = fingerprint(tiny("llama").config)
    for change in (
        {"vocab_size": 321},
        {"num_hidden_layers": 4},
        {"hidden_act": "gelu"},
        {"rms_norm_eps": 1e-4},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ):
        assert fingerprint(tiny("llama", **change).config) != base, change
    for change in ({"use_cache": False}, {"attention_dropout": 0.1}, {"initializer_range": 1.0}, {"bos_token_id": 3}):
        assert fingerprint(tiny("llama", **change).config) == base, change


def test_the_name_is_the_one_given_else_the_path_else_the_type() -> None:
    model = tiny("gpt2")
    assert find_architecture(model, prove=False).shape.name == "gpt2"
    model.config._name_or_path = "openai-community/gpt2"
    assert find_architecture(model, prove=False).shape.name == "openai-community/gpt2"
    assert find_architecture(model, prove=False, name="mine").shape.name == "mine"


# -- the tests' own tools ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["The weather is great today, isn't it?", " the  Paris\n\tx = 1;", "<s> not bos", "é"])
def test_the_tiny_tokenizer_round_trips(text: str) -> None:
    tokenizer = tiny_tokenizer()
    tokens = tokenizer(text)["input_ids"]
    assert tokens[0] == tokenizer.bos_token_id
    assert tokenizer.decode(tokens[1:]) == text
    assert max(tokens) < len(tokenizer) <= VOCABULARY


def test_the_tiny_tokenizer_has_a_template_that_begins_with_bos() -> None:
    tokenizer = tiny_tokenizer()
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text.startswith(tokenizer.bos_token)
    assert tokenizer.pad_token is None
    assert tiny_tokenizer(pad=True).pad_token == "<pad>"
    assert tokenizer(" great")["input_ids"][1:] == [tokenizer.convert_tokens_to_ids("Ġgreat")]


def test_tiny_models_have_no_trivial_parameter() -> None:
    for family in ("gpt2", "llama", "gemma2"):
        for name, parameter in tiny(family).named_parameters():
            assert parameter.std() > 0.01, (family, name)
