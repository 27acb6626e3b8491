"""What is baked equals hooks written by hand, which know nothing of the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.model import reference as by_hand
from tests.models import FAMILIES, LAYERS
from tests.weights.baking import IDS, bake, direction, model_of, off, plain_logits

import steersman as sm
from steersman.errors import SteersmanError


def writers(family: str, layers: int, change: by_hand.Change) -> by_hand.Edits:
    sites = [(site, layer, change) for layer in range(layers) for site in ("attn_out", "mlp_out")]
    return [("resid_pre", 0, change), *sites]


@pytest.mark.parametrize(
    ("family", "tied"),
    [("gpt2", True), ("llama", False), ("llama", True), ("mistral", False), ("gpt_neox", False), ("mixtral", False)],
)
def test_an_ablated_direction_is_orthogonalised_weights(family: str, tied: bool, tmp_path: Path) -> None:
    model = model_of(family, tie_word_embeddings=tied)
    r = direction(model)
    before = model.hf.get_input_embeddings().weight.detach().clone()
    report = bake(model.edit(sm.Ablate(r)), tmp_path / "out")
    expected = by_hand.logits(model.hf, family, IDS, writers(family, LAYERS, by_hand.ablate(r)))
    assert off(plain_logits(tmp_path / "out"), expected) < 2e-5
    assert report.verification.max_difference < 2e-5
    assert report.verification.effect > 0.5
    assert report.settings == ({"tie_word_embeddings": False} if tied else {})
    assert torch.equal(model.hf.get_input_embeddings().weight, before), "the model in memory is untouched"


def test_qwen2_and_the_embedded_model_too(tmp_path: Path) -> None:
    model = model_of("qwen2")
    r = direction(model)
    bake(model.edit(sm.Ablate(r)), tmp_path / "qwen2")
    expected = by_hand.logits(model.hf, "mistral", IDS, writers("mistral", LAYERS, by_hand.ablate(r)))
    assert off(plain_logits(tmp_path / "qwen2"), expected) < 2e-5
    demo = sm.demo_model()
    report = bake(demo.edit(sm.Ablate(direction(demo))), tmp_path / "demo", dtype="float32")
    assert report.verification.max_difference < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gpt_oss", "granite", "falcon", "phi"])
def test_an_addition_anywhere_in_the_stream_is_a_bias(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    v = direction(model)
    plan = sm.Plan([
        sm.Add(v, 0.7, layers=1, positions="all"),
        sm.Add(v.flip(0), layers={0: 1.0, 2: -0.5}, site="resid_pre", positions="all"),
    ])  # fmt: skip
    report = bake(model.edit(plan), tmp_path / "out")
    assert report.verification.max_difference < 2e-5
    if family in by_hand.PARTS:
        edits = [
            ("resid_pre", 0, by_hand.add(v.flip(0))),
            ("resid_post", 1, by_hand.add(0.7 * v)),
            ("resid_pre", 2, by_hand.add(-0.5 * v.flip(0))),
        ]
        assert off(plain_logits(tmp_path / "out"), by_hand.logits(model.hf, family, IDS, edits)) < 2e-5


def test_llama_gets_its_biases_by_an_option_of_its_configuration(tmp_path: Path) -> None:
    model = model_of("llama", attention_bias=False, mlp_bias=False)
    v = direction(model)
    plan = sm.Plan([sm.Add(v, layers=1, positions="all"), sm.Add(v, layers=0, site="resid_mid", positions="all")])
    report = bake(model.edit(plan), tmp_path / "out")
    assert report.settings == {"mlp_bias": True, "attention_bias": True}
    assert report.changed == ()
    assert len([name for name in report.added if name.endswith(".bias")]) == LAYERS * 7
    expected = by_hand.logits(
        model.hf, "llama", IDS, [("resid_post", 1, by_hand.add(v)), ("resid_mid", 0, by_hand.add(v))]
    )
    assert off(plain_logits(tmp_path / "out"), expected) < 2e-5


def test_heads_neurons_and_means(tmp_path: Path) -> None:
    model = model_of("llama")
    width = model.shape.d_head
    means = torch.randn(model.n_heads * width, generator=torch.Generator().manual_seed(3))
    plan = sm.Plan([
        sm.Zero(sm.heads(0, [1, 3])),
        sm.Zero(sm.neurons(1, [2, 5, 40]), strength=0.5),
        sm.Mean(sm.heads(2, 1), means),
    ])  # fmt: skip
    bake(model.edit(plan), tmp_path / "out")
    heads = [c for h in (1, 3) for c in range(h * width, (h + 1) * width)]
    second = list(range(width, 2 * width))
    edits = [
        ("z", 0, by_hand.put(heads, torch.zeros(len(heads)))),
        ("mlp_post", 1, by_hand.mixed(0.5, by_hand.put([2, 5, 40], torch.zeros(3)))),
        ("z", 2, by_hand.put(second, means[second])),
    ]
    expected = by_hand.logits(model.hf, "llama", IDS, edits)
    assert off(plain_logits(tmp_path / "out"), expected) < 2e-5


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_means_values_and_projections_of_what_attention_and_mlps_add(family: str, tmp_path: Path) -> None:
    """A mean is a bias once the matrix writes nothing; affine concept editing is a clamp between the class means."""
    model = model_of(family)
    v, width = direction(model), model.shape.width("mlp_post", 1)
    r = v / v.norm()
    corpus = ["the weather in Paris is good", "a bad movie", "it is a great movie in London"]
    means = {site: sm.mean_activations(model, corpus, sites=sm.site(site, 1)) for site in ("attn_out", "mlp_post")}
    vector = sm.SteeringVector({0: v}, site="mlp_out", projections={0: (-0.5, 1.5)})
    plan = sm.Plan([
        sm.Mean(sm.attention(1), means["attn_out"]),
        sm.Mean(sm.neurons(1, [0, 7, width - 1]), means["mlp_post"]),
        sm.Affine(vector, 0.25, layers=0),
        sm.Replace(v.flip(0), layers=2, site="mlp_out", positions="all"),
        sm.Ablate(v, layers=2, site="attn_out"),
    ])  # fmt: skip
    report = bake(model.edit(plan), tmp_path / "out")
    assert report.settings in ({}, {"tie_word_embeddings": False})
    chosen = [0, 7, width - 1]
    edits = [
        ("attn_out", 1, by_hand.put(None, means["attn_out"][1])),
        ("mlp_post", 1, by_hand.put(chosen, means["mlp_post"][1][chosen])),
        ("mlp_out", 0, by_hand.clamp(r, 0.75 * -0.5 + 0.25 * 1.5, "both")),
        ("mlp_out", 2, by_hand.put(None, v.flip(0))),
        ("attn_out", 2, by_hand.ablate(v)),
    ]
    assert off(plain_logits(tmp_path / "out"), by_hand.logits(model.hf, family, IDS, edits)) < 2e-5


def test_inference_time_intervention_is_a_bias_of_the_output_projection(tmp_path: Path) -> None:
    model = model_of("gpt2")
    shift = torch.zeros(model.d_model)
    shift[8:16] = direction(model)[8:16]
    vector = sm.SteeringVector({1: shift.reshape(model.n_heads, -1)}, site="z")
    report = bake(model.edit(sm.Add(vector, 2.0, layers=1, positions="all")), tmp_path / "out")
    assert report.changed == ("transformer.h.1.attn.c_proj.bias",)
    saved = sm.SteeringModel.from_pretrained(tmp_path / "out").hf.transformer.h[1].attn.c_proj
    own = model.hf.transformer.h[1].attn.c_proj
    assert torch.allclose(saved.bias, own.bias + 2.0 * shift @ own.weight, atol=1e-6)
    assert torch.equal(saved.weight, own.weight)


def test_maps_of_what_is_read_and_written_meet_in_one_matrix(tmp_path: Path) -> None:
    model = model_of("gpt2")
    r, v = direction(model), direction(model, 1)
    plan = sm.Plan([
        sm.Zero(sm.heads(1, 2)),
        sm.Clamp(v, 0.7, site="attn_out", layers=1),
        sm.Ablate(r, strength=0.6),
        sm.Add(v, site="resid_mid", layers=1, positions="all"),
        sm.Clamp(r, -0.4, site="mlp_out", layers=[0, 1]),
    ])  # fmt: skip
    bake(model.edit(plan), tmp_path / "out")
    half = by_hand.mixed(0.6, by_hand.ablate(r))
    edits = [
        ("resid_pre", 0, half),
        ("z", 1, by_hand.put(list(range(16, 24)), torch.zeros(8))),
        *[("attn_out", layer, half) for layer in (0, 2)],
        ("attn_out", 1, lambda h: half(by_hand.clamp(v, 0.7, "both")(h))),
        *[("mlp_out", layer, lambda h: by_hand.clamp(r, -0.4, "both")(half(h))) for layer in (0, 1)],
        ("mlp_out", 2, half),
        ("resid_mid", 1, by_hand.add(v)),
    ]
    assert off(plain_logits(tmp_path / "out"), by_hand.logits(model.hf, "gpt2", IDS, edits)) < 2e-5


def test_an_eraser_is_affine(tmp_path: Path) -> None:
    model = model_of("gpt_neox")
    generator = torch.Generator().manual_seed(5)
    write, read = (torch.randn(model.d_model, 2, generator=generator) * 0.2 for _ in range(2))
    mean = torch.randn(model.d_model, generator=generator)
    eraser = sm.Eraser({1: (write, read, mean)}, site="mlp_out")
    bake(model.edit(sm.Erase(eraser)), tmp_path / "out")
    expected = by_hand.logits(model.hf, "gpt_neox", IDS, [("mlp_out", 1, by_hand.erase(write, read, mean))])
    assert off(plain_logits(tmp_path / "out"), expected) < 2e-5


def test_projections_of_the_stream_are_nothing_once_every_writer_has_been_through_them(tmp_path: Path) -> None:
    """The hooks that directional ablation was published with: each input of a block, and what each part writes."""
    model = model_of("llama")
    r = direction(model)
    published = sm.Plan([
        sm.Ablate(r, site="resid_pre", layers="all"),
        sm.Ablate(r, site="attn_out", layers="all"),
        sm.Ablate(r, site="mlp_out", layers="all"),
    ])  # fmt: skip
    bake(model.edit(published), tmp_path / "out")
    expected = by_hand.logits(model.hf, "llama", IDS, writers("llama", LAYERS, by_hand.ablate(r)))
    assert off(plain_logits(tmp_path / "out"), expected) < 2e-5


def test_a_gain_after_the_write_takes_what_commutes_with_it(tmp_path: Path) -> None:
    for family in ("gemma2", "olmo2"):
        model = model_of(family)
        plan = sm.Plan([sm.Zero(sm.attention(1)), sm.Zero(sm.mlp(0), strength=0.3), sm.Zero(sm.heads(2, 1))])
        report = bake(model.edit(plan), tmp_path / family)
        assert report.verification.max_difference < 5e-5
        assert any("layernorm.weight" in name for name in report.changed)


#: Families in which one direction cannot be ablated in weights, and why.
NOT_ORTHOGONALISED = {
    "opt_post_norm": "normalises the residual stream itself",
    "bloom_post_norm": "normalises the residual stream itself",
    "bloom": "word_embeddings_layernorm",
    "xglm": "computes its positions",
    **dict.fromkeys(("gemma2", "gemma3", "olmo2", "olmo3", "glm4", "exaone4", "flex_olmo"), "after it is computed"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_orthogonalised_exactly_or_refused_with_the_reason(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    plan = sm.Ablate(direction(model))
    if family in NOT_ORTHOGONALISED:
        with pytest.raises(SteersmanError, match=NOT_ORTHOGONALISED[family]):
            bake(model, tmp_path / "out", plan=plan)
        assert list(tmp_path.iterdir()) == []
        return
    report = bake(model, tmp_path / "out", plan=plan, max_new_tokens=1, prompts=["The weather today is"])
    assert report.verification.max_difference < 5e-4
    assert report.verification.relative is not None
    assert report.verification.relative < 2e-3
