"""What weights cannot do exactly is refused before anything is written, with the reason and a way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import tiny_tokenizer
from tests.weights.baking import bake, direction, model_of

import steersman as sm
from steersman.engines.weights import check_bakeable, why_not
from steersman.errors import BusyError, InterventionError, UnsupportedError


def refused(model: sm.SteeringModel) -> list[tuple[Any, str]]:
    v = direction(model)
    return [
        (sm.Add(v, layers=1), r'positions last\+generation.*use positions="all"'),
        (sm.Ablate(v, positions="prompt"), "positions prompt"),
        (sm.Add(v, sm.schedule([2.0, 1.0]), layers=1), "follows a schedule.*give one number"),
        (sm.Add(v, layers=1, positions="all", when=sm.When(v, 0, above=0.1)), "has a condition.*leave when= out"),
        (sm.Rotate(v, 0.3, layers=1, positions="all"), "rotation depends on the norm"),
        (sm.Clamp(v, 1.0, side="above", layers=1), "one-sided clamp"),
        (sm.Clamp(v, 1.0, layers=1), "the blocks below read the stream"),
        (sm.Ablate(v, layers="all"), "use Ablate.direction. without layers="),
        (sm.Replace(torch.ones(2, model.d_model), layers=1, positions="all"), "differ from token to token"),
        (sm.Resample(sm.heads(1, 1), torch.randn(3, 32)), "another value for each prompt"),
        (sm.Custom(lambda h, where: h, layers=1, site="attn_out", positions="all"), "it is a function"),
        (sm.Plan([sm.Ablate(v), sm.Ablate(v, layers=1), sm.Add(v, layers=0, positions="all"), sm.Ablate(v, layers=2)]),
         "the blocks below read"),
    ]  # fmt: skip


@pytest.mark.parametrize("case", range(12))
def test_a_plan_is_refused_by_its_shape_alone(case: int, tmp_path: Path) -> None:
    model = model_of("llama")
    plan, message = refused(model)[case]
    with pytest.raises(UnsupportedError, match=message) as raised:
        bake(model.edit(plan), tmp_path / "out")
    assert "model.edit(plan)" in str(raised.value)
    assert why_not(plan, model.shape) == str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_weights_can_do_has_no_reason() -> None:
    shape = model_of("llama").shape
    v = torch.ones(shape.d_model)
    for plan in (sm.Ablate(v), sm.Add(v, layers=2, positions="all"), sm.Zero(sm.heads(1, 1)), None):
        assert why_not(plan, shape) is None


@pytest.mark.parametrize(
    ("family", "plan", "message"),
    [
        ("qwen2", "add", r"model.layers.1.mlp.down_proj of qwen2 has no bias.*adapter=True"),
        ("mixtral", "add", "experts whose weights do not sum to one"),
        ("qwen2_moe", "add", "experts whose weights"),
        ("gemma2", "add", r"post_feedforward_layernorm.weight\) has no bias"),
        ("gemma2", "ablate", "no weights before or in that norm"),
        ("mistral", "mean", "self_attn.o_proj of mistral has no bias"),
    ],
)
def test_an_architecture_without_a_place_is_refused_by_name(
    family: str, plan: str, message: str, tmp_path: Path
) -> None:
    model = model_of(family)
    v = direction(model)
    plans = {
        "add": sm.Add(v, layers=1, positions="all"),
        "ablate": sm.Ablate(v),
        "mean": sm.Mean(sm.heads(1, 0), torch.ones(model.n_heads * model.shape.d_head)),
    }
    with pytest.raises(UnsupportedError, match=message):
        bake(model, tmp_path / "out", plan=plans[plan])
    with pytest.raises(UnsupportedError, match=message):
        check_bakeable(model.architecture, plans[plan])
    assert list(tmp_path.iterdir()) == []


def test_the_same_is_asked_of_a_model_without_weights() -> None:
    from transformers import AutoModelForCausalLM

    from steersman.model.architecture import find_architecture

    config = model_of("llama", mlp_bias=False).hf.config
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    architecture = find_architecture(empty, prove=False)
    found = check_bakeable(architecture, sm.Add(torch.ones(32), layers=1, positions="all"))
    assert found.settings == {"mlp_bias": True}
    assert found.changes["model.layers.1.mlp.down_proj.bias"].fill == (32,)


def test_targets_that_would_lose_something_are_refused(tmp_path: Path) -> None:
    model = model_of("gpt2", tmp_path / "base")
    plan = sm.Add(direction(model), layers=1, positions="all")
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="is a file"):
        bake(model, tmp_path / "file", plan=plan)
    with pytest.raises(FileExistsError, match="not baked; give another folder, or overwrite=True"):
        bake(model, tmp_path / "mine", plan=plan)
    with pytest.raises(FileExistsError, match="where the model was loaded from"):
        bake(model, tmp_path / "base", plan=plan, overwrite=True)
    with pytest.raises(FileNotFoundError, match="create it first"):
        bake(model, tmp_path / "no" / "where", plan=plan)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"
    bake(model, tmp_path / "mine", plan=plan, overwrite=True)
    assert not (tmp_path / "mine" / "thesis.txt").exists()


def test_nothing_to_bake_and_a_model_that_is_being_steered(tmp_path: Path) -> None:
    model = model_of("gpt2")
    plan = sm.Add(direction(model), layers=1, positions="all")
    with pytest.raises(InterventionError, match="nothing to bake"):
        bake(model, tmp_path / "out")
    with pytest.raises(InterventionError, match="nothing to bake"):
        bake(model.edit(sm.Add(direction(model), 0.0, layers=1)), tmp_path / "out")
    with model.steer(plan), pytest.raises(BusyError, match="leave the context"):
        bake(model.edit(plan), tmp_path / "out")
    with pytest.raises(InterventionError, match="use float32"):
        bake(model, tmp_path / "out", plan=plan, dtype="int8")
    assert list(tmp_path.iterdir()) == []


def test_quantised_and_wrapped_models_are_told_what_to_do(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = model_of("llama")
    plan = sm.Ablate(direction(model))
    model.hf.is_quantized = True
    with pytest.raises(UnsupportedError, match="bake an adapter"):
        bake(model, tmp_path / "out", plan=plan)
    wrapped = get_peft_model(model_of("llama").hf, LoraConfig(target_modules=["q_proj"], r=1))
    with pytest.raises(UnsupportedError, match="merge_and_unload"):
        bake(sm.SteeringModel(wrapped, tiny_tokenizer()), tmp_path / "out", plan=plan)
    assert list(tmp_path.iterdir()) == []
