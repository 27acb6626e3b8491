"""Lens, projections, likeness, geometry and norms, against the same by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from tests.models import WIDTH, tiny, tiny_tokenizer
from torch import Tensor

import steersman as sm
from steersman.analysis.readout import gain_of
from steersman.errors import DataError, InterventionError, MismatchError, PromptError, UnsupportedError

PROMPT = "the movie was"
MODELS: dict[str, sm.SteeringModel] = {}


def model_of(family: str) -> sm.SteeringModel:
    if family not in MODELS:
        MODELS[family] = sm.SteeringModel(tiny(family), tiny_tokenizer())
    return MODELS[family]


@pytest.fixture
def model() -> sm.SteeringModel:
    return model_of("llama")


def direction(seed: int = 0) -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def vector(seed: int = 0, **facts: Any) -> sm.SteeringVector:
    return sm.SteeringVector({i: direction(seed + i) for i in range(3)}, name=facts.pop("name", "happy"), **facts)


# -- lens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "cohere"])
def test_without_the_norm_the_lens_is_the_unembedding_times_the_vector_to_the_bit(family: str) -> None:
    model, v = model_of(family), direction()
    found = sm.lens(model, v, k=5, norm="none")
    expected = model.hf.lm_head.weight.detach() @ v
    assert torch.equal(found.logits, expected)
    top, bottom = expected.topk(5), expected.topk(5, largest=False)
    assert [logit for _, logit in found.boosted] == top.values.tolist()
    assert [logit for _, logit in found.suppressed] == bottom.values.tolist()
    assert (found.boosted_ids, found.suppressed_ids) == (top.indices.tolist(), bottom.indices.tolist())


@pytest.mark.parametrize("family", ["llama", "gemma2", "olmo2", "granite", "qwen3"])
def test_with_an_rms_norm_the_lens_weighs_by_its_gain(family: str) -> None:
    model, v = model_of(family), direction()
    weight = model.architecture.final_norm.weight.detach()  # type: ignore[union-attr]
    gain = 1 + weight if family == "gemma2" else weight
    expected = model.hf.lm_head.weight.detach() @ (gain * v)
    torch.testing.assert_close(sm.lens(model, v).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "cohere", "olmo", "nemotron", "opt"])
def test_with_a_layer_norm_it_is_centred_too(family: str) -> None:
    model, v = model_of(family), direction()
    weight = getattr(model.architecture.final_norm, "weight", None)
    gain = torch.ones(WIDTH) if weight is None else weight.detach() + (1 if family == "nemotron" else 0)
    expected = model.hf.lm_head.weight.detach() @ (gain * (v - v.mean()))
    torch.testing.assert_close(sm.lens(model, v).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [7, 8])
def test_a_gain_is_read_off_the_answers_of_a_norm(width: int) -> None:
    norm, rms = torch.nn.LayerNorm(width), torch.nn.RMSNorm(width)
    with torch.no_grad():
        for one in (norm, rms):
            one.weight.copy_(torch.randn(width))
        norm.bias.copy_(torch.randn(width))
    for one, centred in ((norm, True), (rms, False)):
        gain, found = gain_of(one, width)
        torch.testing.assert_close(gain, one.weight.detach(), rtol=1e-4, atol=1e-4)
        assert found is centred
    with pytest.raises(UnsupportedError, match="grows with its input"):
        gain_of(torch.nn.Linear(width, width), width)


def test_the_gain_lens_is_the_derivative_of_the_logits_at_the_last_layer() -> None:
    """Where the direction is at right angles to the residual, the norm's scale does not change."""
    model = model_of("llama")
    last = model.n_layers - 1
    hidden = sm.capture(model, PROMPT)[last][-1].double()
    v = direction().double()
    v = (v - (v @ hidden) / (hidden @ hidden) * hidden).float()
    step = 1e-2
    change = model.logits(PROMPT, steer=sm.Add(v * step, layers=last))[0, -1] - model.logits(PROMPT)[0, -1]
    scale = float(hidden.square().mean().sqrt())
    expected = sm.lens(model, v).logits / scale
    torch.testing.assert_close(change / step, expected, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "cohere"])
def test_on_a_prompt_the_lens_is_the_difference_of_logits(family: str) -> None:
    model, v = model_of(family), vector()
    found = sm.lens(model, v, layer=1, prompt=PROMPT, strength=1.5, controls=3)
    steered = model.logits(PROMPT, steer=sm.Add(v, 1.5, layers=1))[0, -1]
    torch.testing.assert_close(found.logits, steered - model.logits(PROMPT)[0, -1], rtol=1e-5, atol=1e-5)
    assert found.controls == 3
    assert found.notes == ()


def test_the_control_is_the_extreme_of_random_directions_of_equal_length(model: sm.SteeringModel) -> None:
    v = direction() * 3
    found = sm.lens(model, v, controls=50, seed=4, norm="none")
    drawn = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(4))
    drawn = drawn / drawn.norm(dim=1, keepdim=True) * v.norm()
    tops = (drawn @ model.hf.lm_head.weight.detach().T).abs().amax(1)
    assert found.control == pytest.approx(float(tops.quantile(0.95)), rel=1e-5)
    rows = model.hf.lm_head.weight.detach()
    assert sm.lens(model, rows[rows.norm(dim=1).argmax()], norm="none").frame()["beyond"].iloc[0]
    assert sm.lens(model, v, controls=0).control is None


@pytest.mark.parametrize(
    ("family", "note"), [("gemma2", "caps its logits"), ("granite", "divides"), ("cohere", "multiplies")]
)
def test_what_a_model_does_to_its_logits_afterwards_is_noted(family: str, note: str) -> None:
    assert any(note in one for one in sm.lens(model_of(family), direction()).notes)


def test_a_model_in_half_precision_gives_a_float32_lens() -> None:
    model = sm.SteeringModel(tiny("llama").to(torch.bfloat16), tiny_tokenizer())
    v = direction()
    expected = model.hf.lm_head.weight.detach().float() @ (model.architecture.final_norm.weight.detach().float() * v)
    torch.testing.assert_close(sm.lens(model, v).logits, expected, rtol=1e-4, atol=1e-4)


def test_an_adapted_unembedding_is_asked_with_its_adapter() -> None:
    from peft import LoraConfig, get_peft_model

    plain = tiny("llama")
    adapted = get_peft_model(plain, LoraConfig(target_modules=["lm_head"], r=2, init_lora_weights=False))
    model, v = sm.SteeringModel(adapted.eval(), tiny_tokenizer()), direction()
    found = sm.lens(model, v, norm="none").logits
    with torch.no_grad():
        torch.testing.assert_close(found, model.architecture.unembedding(v), rtol=1e-4, atol=1e-5)


def test_a_lens_as_a_table_and_a_figure(model: sm.SteeringModel, tmp_path: Path) -> None:
    found = sm.lens(model, vector(layer=2), k=4)
    frame = found.frame()
    lines = str(found).splitlines()
    assert len(lines) == 6
    assert all(repr(token) in line for (token, _), line in zip(found.boosted, lines[1:5], strict=True))
    assert frame["logit"].tolist() == [logit for _, logit in (*found.boosted, *found.suppressed)]
    assert (found.layer, found.name) == (2, "happy")
    path = tmp_path / "lens.svg"
    assert found.svg(path) == path.read_text(encoding="utf-8")
    marks = [m for m in ElementTree.parse(path).iter() if m.get("data-side")]
    assert [(m.get("data-token"), float(m.attrib["data-value"])) for m in marks] == [*found.boosted, *found.suppressed]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: sm.lens(m, vector()), InterventionError, "no chosen layer"),
        (lambda m: sm.lens(m, torch.zeros(WIDTH)), InterventionError, "points nowhere"),
        (lambda m: sm.lens(m, torch.ones(5)), MismatchError, "has 5 values"),
        (lambda m: sm.lens(m, direction(), layer=9), MismatchError, "0 to 2"),
        (lambda m: sm.lens(m, direction(), prompt=PROMPT), InterventionError, "layer="),
        (lambda m: sm.lens(m, direction(), norm="rms"), InterventionError, 'use "gain" or "none"'),
        (lambda m: sm.lens(m, direction(), k=0), InterventionError, "at least one token"),
        (lambda m: sm.lens(m, sm.SteeringVector({0: torch.ones(48)}, site="mlp_post")), UnsupportedError, "mlp_post"),
        (lambda m: sm.lens(model_of("opt_post_norm"), direction()), UnsupportedError, "reads 16 values"),
    ],
)
def test_lenses_that_make_no_sense_are_refused(
    model: sm.SteeringModel, call: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(model)


# -- projections --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_projections_are_those_of_plain_hooks(family: str) -> None:
    model, v = model_of(family), vector(projections={1: (-2.0, 3.0)})
    seen: list[Tensor] = []
    handle = model.architecture.blocks[1].register_forward_hook(
        lambda m, a, out: seen.append(out if isinstance(out, Tensor) else out[0])
    )
    with torch.no_grad():
        model.hf(torch.tensor([model.tokens.encode(PROMPT)]))
    handle.remove()
    expected = seen[0][0] @ (v[1] / v[1].norm())
    found = sm.projections(model, PROMPT, v, layer=1)
    assert found.values == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
    assert found.between == pytest.approx([(value + 2) / 5 for value in found.values])
    assert found.tokens[0] == "<s>"
    assert "".join(found.tokens[1:]) == PROMPT
    assert len(found.frame()) == len(found) == len(found.tokens)


def test_the_class_means_lie_at_zero_and_one(model: sm.SteeringModel) -> None:
    pairs = sm.ContrastPairs([f"so good {i}" for i in range(8)], [f"a bad thing {i}" for i in range(8)], name="mood")
    v = sm.extract(model, pairs)
    last = [[p.between[-1] for p in (sm.projections(model, t, v, layer=1) for t in side) if p.between]
            for side in (pairs.negative, pairs.positive)]  # fmt: skip
    assert [np.mean(side) for side in last] == pytest.approx([0, 1], abs=1e-4)


def test_projections_under_a_plan_show_what_it_does(model: sm.SteeringModel) -> None:
    v = vector()
    plain = sm.projections(model, PROMPT, v, layer=1)
    steered = sm.projections(model, PROMPT, v, layer=1, steer=sm.Add(v, 2.0, layers=1, positions="last"))
    assert steered.values[-1] - plain.values[-1] == pytest.approx(2 * float(v[1].norm()), rel=1e-4)
    assert steered.values[:-1] == plain.values[:-1]


def test_a_bare_tensor_has_no_classes(model: sm.SteeringModel) -> None:
    found = sm.projections(model, PROMPT, direction(), layer=1)
    assert (found.between, found.classes) == (None, None)
    marks = [m for m in ElementTree.fromstring(found.svg()).iter() if m.get("data-token")]
    assert [float(m.attrib["data-value"]) for m in marks] == found.values
    assert [m.get("data-token") for m in marks] == found.tokens
    with pytest.raises(InterventionError, match="layer="):
        sm.projections(model, PROMPT, direction())
    with pytest.raises(PromptError, match="one text"):
        sm.projections(model, ["a", "b"], direction(), layer=1)


# -- likeness -----------------------------------------------------------------------------------------------------


def test_the_cosine_matrix_is_numpys() -> None:
    happy, formal = vector(), vector(seed=7, name="formal")
    found = sm.cosine_matrix([happy, formal, direction(3)], layer=1)
    rows = np.stack([t.double().numpy() for t in (happy[1], formal[1], direction(3))])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(found.to_numpy(), rows @ rows.T, atol=1e-7)
    assert list(found.index) == list(found.columns) == ["happy", "formal", "direction 2"]
    assert found.random_sd == pytest.approx(WIDTH**-0.5)
    assert found.loc["happy", "formal"] == found.loc["formal", "happy"]
    marks = [m for m in ElementTree.fromstring(found.svg()).iter() if m.get("data-row")]
    assert [float(m.attrib["data-value"]) for m in marks] == found.to_numpy().flatten().tolist()


def test_an_orthogonalised_vector_has_no_cosine_left() -> None:
    happy, formal = vector(), vector(seed=7, name="formal")
    found = sm.cosine_matrix([happy.orthogonalize(formal), formal], layer=2)
    assert found.iloc[0, 1] == pytest.approx(0, abs=1e-6)


def test_vectors_of_one_name_stay_apart_and_each_may_have_its_own_layer() -> None:
    found = sm.cosine_matrix([vector(layer=0), vector(layer=2)])
    assert list(found.columns) == ["happy", "happy (1)"]
    assert found.iloc[0, 1] == pytest.approx(
        float(torch.cosine_similarity(direction(0), direction(2), dim=0)), abs=1e-6
    )


@pytest.mark.parametrize(
    ("given", "layer", "error", "message"),
    [
        ([], 1, InterventionError, "compares a list"),
        (vector(), 1, InterventionError, "compares a list"),
        ([vector()], None, InterventionError, "no chosen layer"),
        ([vector()], 8, MismatchError, "no layer 8"),
        ([torch.zeros(4)], 1, InterventionError, "zero vector"),
        ([torch.ones(4), torch.ones(5)], 1, InterventionError, "different widths"),
    ],
)
def test_what_has_no_cosine_is_refused(given: Any, layer: int | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sm.cosine_matrix(given, layer=layer)


# -- geometry -----------------------------------------------------------------------------------------------------


def test_geometry_is_the_pca_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=(20, 9)) + 1.5, rng.normal(size=(15, 9))
    found = sm.geometry(torch.from_numpy(positive), torch.from_numpy(negative))
    pca = PCA(2, svd_solver="full").fit(np.r_[positive, negative])
    points = pca.transform(np.r_[positive, negative])
    mine = torch.cat([found.positive, found.negative]).numpy()
    np.testing.assert_allclose(np.abs(mine), np.abs(points), atol=1e-9)
    assert found.explained == pytest.approx(tuple(pca.explained_variance_ratio_))
    assert float(found.positive[:, 0].mean()) > float(found.negative[:, 0].mean())
    difference = positive.mean(0) - negative.mean(0)
    share = np.linalg.norm(pca.components_ @ difference) / np.linalg.norm(difference)
    assert found.in_plane == pytest.approx(share)
    frame = found.frame()
    assert (frame["class"] == "positive").sum() == 20
    marks = [m for m in ElementTree.fromstring(found.svg()).iter() if m.get("data-group")]
    assert len(marks) == 35


def test_geometry_takes_activations_at_a_layer(model: sm.SteeringModel) -> None:
    good, bad = (sm.activations(model, [f"{w} {i}" for i in range(5)]) for w in ("good", "bad"))
    assert sm.geometry(good, bad, layer=1).layer == 1
    with pytest.raises(DataError, match="layer="):
        sm.geometry(good, bad)
    with pytest.raises(DataError, match="all activations are the same"):
        sm.geometry(torch.ones(4, 3), torch.ones(4, 3))
    with pytest.raises(DataError, match="at least three"):
        sm.geometry(torch.ones(1, 3), torch.ones(1, 3))
    with pytest.raises(DataError, match="common plane"):
        sm.geometry(torch.ones(3, 3), torch.ones(3, 4))


# -- norms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 10_000])
def test_norms_are_the_medians_without_first_tokens_and_padding(model: sm.SteeringModel, budget: int) -> None:
    texts = ["hello there you", "a", "one two three"]
    found = sm.norms(model, texts, token_budget=budget)
    alone = sm.capture(model, texts)
    for layer in range(model.n_layers):
        lengths = torch.cat([one[layer][1:].norm(dim=-1) for one in alone])
        assert found[layer] == pytest.approx(float(lengths.median()), rel=1e-5)
        assert found.quartiles[layer] == pytest.approx(
            (float(lengths.quantile(0.25)), float(lengths.quantile(0.75))), rel=1e-5
        )
    assert found.tokens == sum(len(model.tokens.encode(text)) - 1 for text in texts)
    marks = [m for m in ElementTree.fromstring(found.svg()).iter() if m.get("data-label")]
    assert [float(m.attrib["data-value"]) for m in marks] == list(found.median.values())
    assert list(found.frame()["median"]) == list(found.median.values())


def test_norms_need_a_token_beyond_the_first(model: sm.SteeringModel) -> None:
    with pytest.raises(DataError, match="beyond its first"):
        sm.norms(model, ["<s>"])
