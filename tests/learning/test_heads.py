"""Inference-time intervention: the heads that know, one standard deviation each."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.models import tiny, tiny_tokenizer
from torch import Tensor

import steersman as sm
from steersman.errors import DataError
from steersman.extraction.methods.iti import choose_heads, iti

WORDS = ["good", "fine", "nice", "happy", "sunny", "sweet", "neat", "warm", "kind", "calm"]
OTHERS = ["bad", "poor", "sad", "grim", "cold", "sour", "rude", "dull", "mean", "sick"]
PAIRS = sm.ContrastPairs([f"it is {w}" for w in WORDS], [f"it was {w}" for w in OTHERS])


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> sm.SteeringModel:
    return sm.SteeringModel(tiny(request.param), tiny_tokenizer())


def planted(n: int = 60, layers: int = 3, heads: int = 4) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Noise in every head but (1, 2), whose first coordinate tells the classes apart."""
    generator = torch.Generator().manual_seed(0)
    sides = [
        {i: torch.randn(n, heads, 8, generator=generator, dtype=torch.float64) for i in range(layers)} for _ in "+-"
    ]
    sides[0][1][:, 2, 0] += 4
    return sides[0], sides[1]


def test_the_head_that_knows_is_found_and_chance_is_shown() -> None:
    names = [str(i) for i in range(60)]
    choice = choose_heads(*planted(), (names, names), heads=2)
    assert choice.heads[0] == (1, 2)
    assert choice.accuracy[1, 2] > 0.9
    assert len(choice.accuracy) == 12
    assert choice.items == 24
    assert 0.5 < choice.chance < choice.accuracy[1, 2]
    assert choose_heads(*planted(), (names, names), heads=2) == choice


def test_no_source_is_split_and_both_classes_are_held_out() -> None:
    """Every item is a copy of one of ten: a probe that saw the copies would score 1 on noise."""
    positive, negative = ({0: values[0][:10].repeat(6, 1, 1)} for values in planted(10))
    names = [str(i % 10) for i in range(60)]
    assert max(choose_heads(positive, negative, (names, names), seed=1).accuracy.values()) < 1
    apart = [f"+{i}" for i in range(60)], [f"-{i}" for i in range(60)]
    assert max(choose_heads(positive, negative, apart, seed=1).accuracy.values()) == 1


def test_sources_of_two_classes_of_different_size_are_kept_together_too() -> None:
    generator = torch.Generator().manual_seed(3)
    kinds = torch.randn(18, 4, 24, generator=generator, dtype=torch.float64)
    positive, negative = {0: kinds[:10].repeat(6, 1, 1)}, {0: kinds[10:].repeat(5, 1, 1)}
    named = [f"+{i % 10}" for i in range(60)], [f"-{i % 8}" for i in range(40)]
    choice = choose_heads(positive, negative, named)
    assert max(choice.accuracy.values()) < 1  # noise, of which it has seen no copy
    assert choice.items == 2 * 6 + 2 * 5
    seen = [str(i) for i in range(60)], [str(-i) for i in range(1, 41)]
    assert max(choose_heads(positive, negative, seen).accuracy.values()) == 1


def test_one_head_holds_one_standard_deviation_along_its_mean_shift() -> None:
    positive, negative = (side[1][:, 2] for side in planted())
    shift = positive.mean(0) - negative.mean(0)
    theta = shift / shift.norm()
    sigma = (torch.cat([positive, negative]) @ theta).std(correction=0)
    torch.testing.assert_close(iti(positive, negative), sigma * theta)
    weights = LogisticRegression(max_iter=1000).fit(torch.cat([positive, negative]), [1] * 60 + [0] * 60).coef_[0]
    theta = torch.from_numpy(weights) / torch.from_numpy(weights).norm()
    sigma = (torch.cat([positive, negative]) @ theta).std(correction=0)
    torch.testing.assert_close(iti(positive, negative, direction="probe"), sigma * theta)
    with pytest.raises(DataError, match="mass_mean"):
        iti(positive, negative, direction="other")  # type: ignore[arg-type]


def test_the_vector_holds_the_chosen_heads_only(model: sm.SteeringModel) -> None:
    vector = sm.extract(model, PAIRS, method="iti", heads=3)
    assert vector.site == "z"
    assert vector.quality is not None
    chosen = {(row["layer"], row["head"]) for row in vector.quality["heads"]}
    assert len(chosen) == 3
    acts = [sm.activations(model, list(side), site="z") for side in (PAIRS.positive, PAIRS.negative)]
    for layer in vector:
        for head in range(model.n_heads):
            expected = iti(acts[0][layer][:, head].double(), acts[1][layer][:, head].double()).float()
            wanted = expected if (layer, head) in chosen else torch.zeros_like(expected)
            torch.testing.assert_close(vector[layer][head], wanted, rtol=1e-4, atol=1e-6)
    for row in vector.quality["heads"]:
        assert row["sigma"] == pytest.approx(float(vector[row["layer"]][row["head"]].norm()), rel=1e-5)
    assert set(vector.layers) == {layer for layer, _ in chosen}
    assert vector.metadata["scale"] == "one sigma per head"


def test_it_equals_adding_what_the_output_projection_makes_of_it(model: sm.SteeringModel) -> None:
    """``sum_h alpha sigma_h W_O[:, h] theta_h`` added to the attention output: a constant, as a bias would be."""
    vector, alpha = sm.extract(model, PAIRS, method="iti", heads=5), 15.0
    steered = model.logits("it is so", steer=sm.Add(vector, alpha, layers="all", positions="all"))
    bias = []
    with torch.no_grad():
        for layer in vector:
            project = model.architecture.attention_projection(layer)
            total = sum(
                project(
                    torch.nn.functional.pad(
                        vector[layer][h], (h * model.shape.d_head, (model.n_heads - 1 - h) * model.shape.d_head)
                    )
                )
                - project(torch.zeros(model.n_heads * model.shape.d_head))
                for h in range(model.n_heads)
            )
            bias.append(sm.Add(alpha * total, layers=layer, site="attn_out", positions="all"))
    torch.testing.assert_close(model.logits("it is so", steer=sm.Plan(bias)), steered, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.logits("it is so"), steered, atol=1e-2)


def test_by_default_the_share_of_heads_is_the_papers(model: sm.SteeringModel) -> None:
    vector = sm.extract(model, PAIRS, method="iti")
    assert vector.quality is not None
    assert len(vector.quality["heads"]) == 1  # 48 / 1024 of 12


def test_what_cannot_be_ranked_is_refused(model: sm.SteeringModel) -> None:
    with pytest.raises(DataError, match="needs 8 sources of each class; there are 3 positive"):
        sm.extract(model, sm.ContrastPairs(PAIRS.positive[:3], PAIRS.negative[:3]), method="iti")
    with pytest.raises(DataError, match='defined at site="z"'):
        sm.extract(model, PAIRS, method="iti", site="resid_post")
    with pytest.raises(DataError, match="these layers have 12 heads"):
        sm.extract(model, PAIRS, method="iti", heads=13)
    with pytest.raises(DataError, match="between 0 and 1"):
        sm.extract(model, PAIRS, method="iti", validation=1.5)
