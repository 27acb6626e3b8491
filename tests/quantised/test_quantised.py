"""Models with quantised weights, as transformers' own loader makes them. Run by ``make test-quantised``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.models import tiny, tiny_tokenizer
from transformers import TorchAoConfig

import steersman as sm
from steersman.errors import UnsupportedError


@pytest.fixture
def model(tmp_path: Path) -> sm.SteeringModel:
    from torchao.quantization import Int8WeightOnlyConfig

    tiny("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    config = TorchAoConfig(quant_type=Int8WeightOnlyConfig())
    return sm.SteeringModel.from_pretrained(tmp_path, quantization_config=config, dtype=torch.float32)


def test_the_weights_really_are_quantised(model: sm.SteeringModel) -> None:
    weight = model.architecture.attention_projection(0).weight
    assert type(weight) is not torch.nn.Parameter
    plain = sm.SteeringModel(tiny("llama"), tiny_tokenizer())
    assert not torch.equal(plain.logits("hello"), model.logits("hello"))
    assert model.shape.d_mlp == plain.shape.d_mlp
    assert model.shape.fingerprint == plain.shape.fingerprint


def test_adding_equals_a_plain_hook(model: sm.SteeringModel) -> None:
    vector = torch.randn(model.d_model)
    steered = model.logits(["hello there", "hi"], steer=sm.Add(vector, layers=1, positions="all"))
    handle = model.hf.model.layers[1].register_forward_hook(lambda module, args, output: output + vector)
    try:
        by_hand = model.logits(["hello there", "hi"])
    finally:
        handle.remove()
    # padded columns are the model's own business
    assert torch.equal(steered[0], by_hand[0])
    assert torch.equal(steered[1, -1], by_hand[1, -1])


def test_heads_and_neurons_are_found_where_the_weights_are_quantised(model: sm.SteeringModel) -> None:
    base = model.logits("hello")
    for where in (sm.heads(1, 2), sm.neurons(0, [3, 4]), sm.attention(2)):
        assert not torch.equal(model.logits("hello", steer=sm.Zero(where)), base)
    assert torch.equal(model.logits("hello"), base)


def test_an_edit_works_but_has_no_second_module_tree(model: sm.SteeringModel) -> None:
    plan = sm.Add(torch.randn(model.d_model) * 4, layers=1)
    edited = model.edit(plan)
    assert torch.equal(edited.logits("hello"), model.logits("hello", steer=plan))
    with pytest.raises(UnsupportedError, match="quantised"):
        _ = edited.hf


def test_a_plan_is_baked_into_an_adapter_for_quantised_weights(tmp_path: Path) -> None:
    from peft import PeftModel
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForCausalLM

    tiny("mistral").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    options = {"quantization_config": TorchAoConfig(quant_type=Int8WeightOnlyConfig()), "dtype": torch.float32}
    model = sm.SteeringModel.from_pretrained(tmp_path, **options)
    plan = sm.Plan([sm.Ablate(torch.randn(32, generator=torch.Generator().manual_seed(1))), sm.Zero(sm.heads(1, 2))])
    with pytest.raises(UnsupportedError, match="bake an adapter"):
        sm.bake(model.edit(plan), tmp_path / "out")
    report = sm.bake(model.edit(plan), tmp_path / "out", adapter=True, max_new_tokens=4)
    assert report.verification.max_difference < 1e-4
    assert report.verification.effect > 0.5
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path, **options), str(tmp_path / "out")
    )
    ids = torch.tensor([model.tokens.encode("hello there")])
    with torch.no_grad():
        found = adapted(input_ids=ids).logits[0]
    expected = model.logits("hello there", steer=plan)[0]
    assert float((found - expected).abs().max()) < 1e-4


def test_biases_that_peft_does_not_take_beside_quantised_weights_are_refused(
    model: sm.SteeringModel, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=r"PEFT cannot hold this plan.*Nothing was kept"):
        sm.bake(model.edit(sm.Ablate(torch.ones(32))), tmp_path / "out", adapter=True)
    assert not (tmp_path / "out").exists()
