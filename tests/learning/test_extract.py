"""Directions by mean difference, and what is measured about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests.models import tiny, tiny_tokenizer

import steersman as sm
from steersman.errors import DataError, MismatchError
from steersman.extraction.quality import FOLDS, best_layer, measure

GOOD = ["good", "fine", "nice", "happy", "sunny", "sweet", "neat", "warm", "kind", "calm"]
BAD = ["bad", "poor", "sad", "grim", "cold", "sour", "rude", "dull", "mean", "sick"]


@pytest.fixture(scope="module")
def model() -> sm.SteeringModel:
    return sm.SteeringModel(tiny("llama"), tiny_tokenizer())


@pytest.fixture(scope="module")
def pairs() -> sm.ContrastPairs:
    return sm.ContrastPairs([f"it is {w}" for w in GOOD], [f"it really was {w}" for w in BAD], name="mood")


def test_the_vector_is_the_difference_of_the_class_means(model: sm.SteeringModel, pairs: sm.ContrastPairs) -> None:
    vector = sm.extract(model, pairs)
    positive, negative = sm.activations(model, list(pairs.positive)), sm.activations(model, list(pairs.negative))
    for layer in range(model.n_layers):
        expected = positive[layer].mean(0) - negative[layer].mean(0)
        torch.testing.assert_close(vector[layer], expected, rtol=1e-5, atol=1e-6)
        assert vector.gap[layer] == pytest.approx(float(expected.norm()), rel=1e-5)
        low, high = vector.projections[layer]
        along = expected / expected.norm()
        assert high == pytest.approx(float(positive[layer].mean(0) @ along), rel=1e-4)
        assert low == pytest.approx(float(negative[layer].mean(0) @ along), rel=1e-4, abs=1e-5)
    assert (vector.name, vector.method, vector.site) == ("mood", "mean_difference", "resid_post")


def test_exchanging_the_classes_negates_and_order_and_batches_change_nothing(
    model: sm.SteeringModel, pairs: sm.ContrastPairs
) -> None:
    vector = sm.extract(model, pairs, quality=False)
    swapped = sm.extract(model, sm.ContrastPairs(pairs.negative, pairs.positive), quality=False)
    shuffled = sm.extract(model, sm.ContrastPairs(pairs.positive[::-1], pairs.negative[::-1]), quality=False)
    single = sm.extract(model, pairs, quality=False, token_budget=1)
    for layer in vector:
        torch.testing.assert_close(swapped[layer], -vector[layer], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(shuffled[layer], vector[layer], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(single[layer], vector[layer], rtol=1e-5, atol=1e-6)


def test_adding_it_once_moves_one_class_mean_onto_the_other(model: sm.SteeringModel, pairs: sm.ContrastPairs) -> None:
    vector = sm.extract(model, pairs, layers=1, quality=False)
    moved = sm.activations(model, list(pairs.negative), layers=1, steer=sm.Add(vector, layers=1, positions="last"))
    target = sm.activations(model, list(pairs.positive), layers=1)
    torch.testing.assert_close(moved[1].mean(0), target[1].mean(0), rtol=1e-4, atol=1e-5)


def test_at_the_mlp_output_it_equals_a_bias_on_the_projection(model: sm.SteeringModel) -> None:
    plain = sm.SteeringModel(tiny("gpt2"), tiny_tokenizer())
    vector = torch.randn(plain.d_model)
    steered = plain.logits("hello there", steer=sm.Add(vector, layers=1, positions="all"))
    bias = plain.architecture.mlp_projection(1).bias
    with torch.no_grad():
        bias += vector
    torch.testing.assert_close(plain.logits("hello there"), steered, rtol=1e-5, atol=1e-5)


def test_norms_are_medians_over_all_tokens_but_the_first(model: sm.SteeringModel, pairs: sm.ContrastPairs) -> None:
    vector = sm.extract(model, pairs, quality=False)
    texts = [*pairs.positive, *pairs.negative]
    norms = torch.cat([sm.capture(model, text)[2][1:].norm(dim=1) for text in texts])
    assert vector.norms[2] == pytest.approx(float(norms.median()), rel=1e-5)


def test_per_head_vectors(model: sm.SteeringModel, pairs: sm.ContrastPairs) -> None:
    vector = sm.extract(model, pairs, site="z", layers=1, quality=False)
    assert vector[1].shape == (model.n_heads, model.shape.d_head)
    assert not torch.equal(model.logits("hello", steer=sm.Add(vector, layers=1)), model.logits("hello"))


def test_a_function_is_a_method_and_its_scale_is_set_to_one_gap(
    model: sm.SteeringModel, pairs: sm.ContrastPairs
) -> None:
    def median_difference(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        return 7 * (positive.median(0).values - negative.median(0).values)

    vector = sm.extract(model, pairs, method=median_difference, layers=1)
    assert vector.method == "median_difference"
    assert float(vector[1].norm()) == pytest.approx(vector.gap[1], rel=1e-5)


def test_quality_chooses_a_layer_and_few_examples_choose_none(
    model: sm.SteeringModel, pairs: sm.ContrastPairs, caplog: pytest.LogCaptureFixture
) -> None:
    vector = sm.extract(model, pairs)
    assert vector.layer in vector.layers
    assert vector.quality is not None
    figures = vector.quality["layers"][str(vector.layer)]
    low, high = figures["accuracy_interval"]
    assert 0 <= low <= figures["accuracy"] <= high <= 1
    assert figures["gap_to_norm"] == pytest.approx(vector.gap[vector.layer] / vector.norms[vector.layer])
    few = sm.extract(model, sm.ContrastPairs(pairs.positive[:3], pairs.negative[:3]))
    assert (few.layer, few.quality) == (None, None)
    assert "too few examples to measure" in caplog.text


def test_a_vector_survives_its_file_and_says_how_it_was_made(
    model: sm.SteeringModel, pairs: sm.ContrastPairs, tmp_path: Path
) -> None:
    vector = sm.extract(model, pairs)
    loaded = sm.SteeringVector.load(vector.save(tmp_path / "mood.safetensors"))
    assert loaded == vector
    assert loaded.metadata["read"] == "last"
    assert (loaded.metadata["positive"], loaded.metadata["paired"]) == (10, True)
    other = sm.SteeringModel(tiny("gpt2"), tiny_tokenizer())
    with pytest.raises(MismatchError, match="vector 'mood' was made for"):
        other.logits("hello", steer=sm.Add(loaded, layers=1))


def test_examples_that_look_the_same_are_refused(model: sm.SteeringModel) -> None:
    with pytest.raises(DataError, match="look the same at layer 0"):
        sm.extract(model, sm.ContrastPairs(["same text"], ["same text"]))


def test_bad_requests_are_refused(model: sm.SteeringModel, pairs: sm.ContrastPairs) -> None:
    with pytest.raises(DataError, match="unknown method 'magic'; the methods are mean_difference"):
        sm.extract(model, pairs, method="magic")
    with pytest.raises(DataError, match="needs ContrastPairs"):
        sm.extract(model, [("a", "b")])  # type: ignore[arg-type]


# -- held-out quality, on activations made up for it ------------------------------------------------------------


def difference(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    return positive.mean(0) - negative.mean(0)


def planted(n: int, shift: float, seed: int = 0, width: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, n, width, generator=generator, dtype=torch.float64)
    noise[0, :, 0] += shift
    return noise[0], noise[1]


def names(n: int) -> tuple[list[str], list[str]]:
    return [str(i) for i in range(n)], [str(i) for i in range(n)]


def test_a_clear_direction_is_found_and_shuffled_labels_give_chance() -> None:
    quality = measure(*planted(100, 4.0), names(100), difference)
    assert quality is not None
    assert quality.accuracy > 0.93
    assert quality.auroc > 0.98
    assert abs(quality.shuffled - 0.5) < 0.15
    assert quality.d_prime == pytest.approx(4, abs=0.8)


def test_without_a_direction_the_interval_covers_chance_in_nineteen_of_twenty() -> None:
    """200 sets of pure noise: a 95% interval misses one half in about 10; the bounds are those of the binomial."""
    missed = 0
    for seed in range(200):
        quality = measure(*planted(40, 0.0, seed), names(40), difference, seed=seed)
        assert quality is not None
        low, high = quality.accuracy_interval
        missed += not low <= 0.5 <= high
    assert 0.02 * 200 <= missed <= 0.16 * 200  # held-out noise is a little wider than its bootstrap


def test_scores_are_held_out_so_memorising_gains_nothing() -> None:
    positive, negative = planted(12, 0.0, width=400)
    quality = measure(positive, negative, names(12), difference)
    direction = difference(positive, negative)
    assert float((positive @ direction).min()) > float((negative @ direction).max())  # in sample: perfect
    assert quality is not None
    assert quality.accuracy < 0.85


def test_items_of_one_source_stay_on_one_side() -> None:
    """Copies of one template leak unless they stay together: noise repeated ten times must not look separable."""
    positive, negative = planted(10, 0.0, width=64)
    copies = positive.repeat(10, 1), negative.repeat(10, 1)
    sources = [str(i % 10) for i in range(100)]
    together = measure(*copies, (sources, sources), difference)
    apart = measure(*copies, names(100), difference)
    assert together is not None
    assert apart is not None
    assert apart.accuracy > 0.95
    assert together.accuracy < 0.8


def test_auroc_agrees_with_scikit_learn() -> None:
    positive, negative = planted(60, 1.0)
    quality = measure(positive, negative, names(60), difference)
    folds = np.random.default_rng(0).permutation(60)
    order = np.unique(np.array([str(i) for i in range(60)]), return_inverse=True)[1]
    fold_of = folds[order] % FOLDS
    scores = torch.zeros(2, 60, dtype=torch.float64)
    for fold in range(FOLDS):
        inside = torch.from_numpy(fold_of == fold)
        direction = difference(positive[~inside], negative[~inside])
        high, low = positive[~inside].mean(0) @ direction, negative[~inside].mean(0) @ direction
        for side, values in enumerate((positive, negative)):
            scores[side, inside] = (values[inside] @ direction - (high + low) / 2) / (high - low)
    assert quality is not None
    assert quality.auroc == pytest.approx(roc_auc_score([1] * 60 + [0] * 60, scores.flatten().numpy()))


def test_under_eight_items_nothing_is_measured() -> None:
    assert measure(*planted(7, 3.0), names(7), difference) is None
    assert best_layer({0: None, 1: None}) is None


def test_the_layer_with_the_clearest_separation_is_chosen() -> None:
    layers = {
        layer: measure(*planted(60, shift, layer), names(60), difference) for layer, shift in enumerate((0.5, 3, 1))
    }
    assert best_layer(layers) == 1
