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
