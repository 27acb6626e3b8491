"""An adapter does on its base what the hooks do, and leaves the base as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.model import reference as by_hand
from tests.models import LAYERS, tiny
from tests.weights.baking import IDS, bake, direction, model_of, off

import steersman as sm
from steersman.errors import UnsupportedError


@torch.no_grad()
def adapted(family: str, folder: Path, **overrides: object) -> torch.Tensor:
    """What a base of one's own makes of an adapter."""
    return PeftModel.from_pretrained(tiny(family, **overrides), str(folder))(input_ids=torch.tensor([IDS])).logits[0]


@pytest.mark.parametrize(("family", "tied"), [("gpt2", True), ("mistral", False), ("llama", True), ("mixtral", False)])
def test_directional_ablation_is_of_rank_one_at_every_writer(family: str, tied: bool, tmp_path: Path) -> None:
    model = model_of(family, tie_word_embeddings=tied)
    r = direction(model)
    wanted = [parameter.requires_grad for parameter in model.hf.parameters()]
    before = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
    report = bake(model.edit(sm.Ablate(r)), tmp_path / "out", adapter=True)
    change = by_hand.ablate(r)
    edits = [("resid_pre", 0, change), *[(s, n, change) for n in range(LAYERS) for s in ("attn_out", "mlp_out")]]
    expected = by_hand.logits(model.hf, family, IDS, edits)
    assert off(adapted(family, tmp_path / "out", tie_word_embeddings=tied), expected) < 2e-5
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == 1
    assert config["rank_pattern"] == {}
    assert report.kind == "adapter"
    assert {name: torch.equal(tensor, before[name]) for name, tensor in model.hf.state_dict().items()} == dict.fromkeys(
        before, True
    )
    assert [parameter.requires_grad for parameter in model.hf.parameters()] == wanted
    assert not hasattr(model.hf, "peft_config")


@pytest.mark.parametrize("family", ["mistral", "gemma", "gpt2"])
def test_additions_need_no_place_in_the_architecture(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    v = direction(model)
    plan = sm.Plan([sm.Add(v, 0.8, layers=1, positions="all"), sm.Add(v, layers=0, site="resid_mid", positions="all")])
    bake(model.edit(plan), tmp_path / "out", adapter=True)
    if family in by_hand.PARTS:
        edits = [("resid_mid", 0, by_hand.add(v)), ("resid_post", 1, by_hand.add(0.8 * v))]
        assert off(adapted(family, tmp_path / "out"), by_hand.logits(model.hf, family, IDS, edits)) < 2e-5


def test_maps_on_both_sides_of_a_matrix_and_ranks_of_their_own(tmp_path: Path) -> None:
    model = model_of("llama")
    r, width = direction(model), model.shape.d_head
    means = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    plan = sm.Plan([sm.Mean(sm.heads(1, 2), means), sm.Clamp(r, 0.5, site="attn_out", layers=[1, 2])])
    bake(model.edit(plan), tmp_path / "out", adapter=True)
    columns = list(range(2 * width, 3 * width))
    clamp = by_hand.clamp(r, 0.5, "both")
    edits = [("z", 1, by_hand.put(columns, means[columns])), ("attn_out", 1, clamp), ("attn_out", 2, clamp)]
    assert off(adapted("llama", tmp_path / "out"), by_hand.logits(model.hf, "llama", IDS, edits)) < 2e-5
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    ranks = {name: len(tensor) for name, tensor in tensors.items() if name.endswith("lora_A.weight")}
    assert sorted(ranks.values()) == [1, 1 + width]


def test_a_plan_that_changes_gains_alone_is_an_adapter_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    model = model_of("gemma2")
    plan = sm.Zero(sm.attention(1), strength=0.5)
    report = bake(model.edit(plan), tmp_path / "out", adapter=True)
    assert report.settings["modules_to_save"] == ["model.layers.1.post_attention_layernorm"]
    assert not [str(one.message) for one in recwarn if "adapter" in str(one.message)]
    expected = model.edit(plan).hf(input_ids=torch.tensor([IDS])).logits[0].detach()
    assert off(adapted("gemma2", tmp_path / "out"), expected) < 2e-5


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
def test_the_base_may_be_offloaded(family: str, tmp_path: Path) -> None:
    whole = model_of(family, tmp_path / "base")
    options = {"device_map": {"": "disk"}, "offload_folder": str(tmp_path / "off")}
    model = sm.SteeringModel.from_pretrained(tmp_path / "base", **options)
    plan = sm.Ablate(direction(model))
    bake(model.edit(plan), tmp_path / "out", adapter=True)
    expected = whole.edit(plan).hf(input_ids=torch.tensor([IDS])).logits[0].detach()
    assert off(adapted(family, tmp_path / "out"), expected) < 2e-5
    assert all(parameter.is_meta for parameter in model.hf.parameters())


def test_nothing_is_drawn_from_the_random_state_of_the_user(tmp_path: Path) -> None:
    model = model_of("llama", tmp_path / "base")
    edited, before = model.edit(sm.Ablate(direction(model))), torch.get_rng_state()
    for adapter in (True, False):
        bake(edited, tmp_path / f"out{adapter}", adapter=adapter)
        assert torch.equal(torch.get_rng_state(), before)


def test_what_no_adapter_holds_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = model_of("gpt_oss")
    with pytest.raises(UnsupportedError, match="bias of experts"):
        bake(model.edit(sm.Ablate(direction(model))), tmp_path / "out", adapter=True)
    with pytest.raises(UnsupportedError, match="positions last"):
        bake(model.edit(sm.Add(direction(model), layers=1)), tmp_path / "out", adapter=True)
    assert list(tmp_path.iterdir()) == []
    wrapped = PeftModel  # loaded adapters are not baked a second time
    first = model_of("llama")
    bake(first.edit(sm.Zero(sm.heads(1, 1))), tmp_path / "one", adapter=True)
    again = sm.SteeringModel(wrapped.from_pretrained(tiny("llama"), str(tmp_path / "one")), first.tokenizer)
    with pytest.raises(UnsupportedError, match="wrapped by PEFT already"):
        bake(again.edit(sm.Zero(sm.heads(1, 2))), tmp_path / "two", adapter=True)


def test_a_matrix_that_is_stored_in_a_way_of_its_own_is_asked_for(tmp_path: Path) -> None:
    from steersman.engines.weights.adapter import _weight

    class Packed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_features, self.out_features = 300, 7
            self.weight = torch.nn.Parameter(torch.zeros(5, dtype=torch.uint8), requires_grad=False)
            self.bias = torch.nn.Parameter(torch.ones(7))
            self.hidden = [torch.randn(7, 300)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.hidden[0], self.bias)

    module = Packed()
    with torch.no_grad():
        assert torch.allclose(_weight(module, False), module.hidden[0], atol=1e-6)
