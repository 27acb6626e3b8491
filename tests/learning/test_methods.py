"""Every method against its closed form, on activations made up for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.models import tiny, tiny_tokenizer
from torch import Tensor
from torch.nn.functional import cosine_similarity

import steersman as sm
from steersman.errors import DataError
from steersman.extraction.extract import at_one_gap
from steersman.extraction.methods import METHODS, ONE_GAP, Method
from steersman.extraction.methods.lda import lda
from steersman.extraction.methods.logistic import logistic
from steersman.extraction.methods.mean_centred import mean_centred
from steersman.extraction.methods.mean_difference import mean_difference
from steersman.extraction.methods.pca import SMALL, first_singular_vector, pca
from steersman.extraction.methods.repeng_compatible import repeng_compatible

WIDTH = 12
DIRECTIONS = [name for name, method in METHODS.items() if not method.per_head]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(n: int = 40, seed: int = 0, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Pairs that share a base, shifted apart along one direction, far from the origin, with noise of their own."""
    base = 5 + 2 * normal(n, WIDTH, seed=seed)
    shift = normal(WIDTH, seed=seed + 1)
    return base + shift + noise * normal(n, WIDTH, seed=seed + 2), base + noise * normal(n, WIDTH, seed=seed + 3)


def cos(a: Tensor, b: Tensor) -> float:
    return float(cosine_similarity(a, b, dim=0))


def stored(name: str, positive: Tensor, negative: Tensor) -> Tensor:
    direction = METHODS[name].compute(positive, negative)
    return (
        at_one_gap(direction, positive.mean(0), negative.mean(0), 0)[0]
        if METHODS[name].scale == ONE_GAP
        else direction.float()
    )


# -- what holds for all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIRECTIONS)
@settings(max_examples=25)
@given(seed=st.integers(0, 1000), order=st.permutations(range(21)))  # odd: a vote on the sign is never a tie
def test_exchanging_the_classes_negates_and_the_order_of_pairs_changes_nothing(
    name: str, seed: int, order: list[int]
) -> None:
    positive, negative = pairs(21, seed)
    direction = stored(name, positive, negative)
    size = float(direction.norm())
    torch.testing.assert_close(stored(name, negative, positive), -direction, rtol=1e-5, atol=1e-5 * size)
    torch.testing.assert_close(stored(name, positive[order], negative[order]), direction, rtol=1e-5, atol=1e-5 * size)


@pytest.mark.parametrize("name", [n for n in DIRECTIONS if METHODS[n].scale == ONE_GAP])
def test_adding_the_stored_vector_once_moves_one_class_mean_to_the_other_along_it(name: str) -> None:
    positive, negative = pairs()
    vector = stored(name, positive, negative).double()
    along = vector / vector.norm()
    assert float((negative + vector).mean(0) @ along) == pytest.approx(float(positive.mean(0) @ along), rel=1e-6)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_positive_examples_project_above_negative_ones(name: str) -> None:
    positive, negative = pairs()
    direction = stored(name, positive, negative).double()
    if name == "repeng_compatible":
        assert int(((positive - negative) @ direction > 0).sum()) >= len(positive) / 2
    else:
        assert float(positive.mean(0) @ direction) > float(negative.mean(0) @ direction)


# -- each by itself ---------------------------------------------------------------------------------------------


def test_the_mean_difference_and_the_centred_mean() -> None:
    positive, negative = pairs()
    expected = positive.mean(0) - negative.mean(0)
    torch.testing.assert_close(mean_difference(positive, negative), expected)
    torch.testing.assert_close(mean_centred(positive, negative), expected)
    torch.testing.assert_close((positive - negative).mean(0), expected)


def test_a_shift_common_to_all_pairs_is_found_by_pca_and_lost_by_repeng() -> None:
    positive, negative = pairs(200, noise=0.05)
    mean = mean_difference(positive, negative)
    assert cos(pca(positive, negative), mean) > 0.999
    assert abs(cos(repeng_compatible(positive, negative), mean)) < 0.5
    overlaps = []
    for seed in range(20):  # what is left is noise: its component points anywhere
        positive, negative = pairs(200, seed * 10, noise=0.05)
        overlaps.append(abs(cos(repeng_compatible(positive, negative), mean_difference(positive, negative))))
    assert np.mean(overlaps) < 1.5 * np.sqrt(2 / np.pi / WIDTH)


def test_pca_of_one_constant_shift_is_that_shift() -> None:
    base, shift = normal(10, WIDTH), normal(WIDTH, seed=1)
    torch.testing.assert_close(pca(base + shift, base), shift / shift.norm())
    with pytest.raises(DataError, match="all the same"):
        repeng_compatible(base + shift, base)


def test_uncentred_pca_equals_pca_of_the_centred_pairs_and_maximises_the_squares() -> None:
    positive, negative = pairs(noise=1.0)
    found, differences = pca(positive, negative), positive - negative
    halves = torch.cat([differences, -differences]) / 2
    assert abs(cos(found, torch.linalg.svd(halves).Vh[0])) == pytest.approx(1)
    best = (differences @ found).square().sum()
    others = normal(200, WIDTH, seed=9)
    assert bool(((differences @ (others / others.norm(dim=1, keepdim=True)).T).square().sum(0) <= best).all())


def test_the_first_singular_vector_of_many_rows_equals_the_full_decomposition() -> None:
    rows = normal(SMALL + 40, SMALL + 10) + normal(SMALL + 10, seed=2)
    whole = torch.linalg.svd(rows, full_matrices=False).Vh[0]
    assert abs(cos(first_singular_vector(rows), whole)) == pytest.approx(1, abs=1e-10)
    assert torch.equal(first_singular_vector(rows), first_singular_vector(rows))
    assert first_singular_vector(torch.zeros(SMALL + 40, SMALL + 10, dtype=torch.float64)).shape == (SMALL + 10,)


def test_repeng_has_unit_norm_and_equals_the_published_code() -> None:
    positive, negative = pairs(noise=1.0)
    direction = repeng_compatible(positive, negative)
    assert float(direction.norm()) == pytest.approx(1)
    differences = positive - negative
    centred = differences - differences.mean(0)
    assert abs(cos(direction, torch.linalg.svd(centred).Vh[0])) == pytest.approx(1)
    assert (positive @ direction > negative @ direction).double().mean() >= 0.5


def test_lda_solves_the_covariance_within_and_so_with_the_total_one() -> None:
    positive, negative = pairs(100, noise=1.0)
    gap = mean_difference(positive, negative).numpy()
    within = (np.cov(positive.T, bias=True) + np.cov(negative.T, bias=True)) / 2
    total = np.cov(torch.cat([positive, negative]).T, bias=True)
    found = lda(positive, negative, shrinkage=0.0)
    torch.testing.assert_close(found, torch.from_numpy(np.linalg.solve(within, gap)))
    assert cos(found, torch.from_numpy(np.linalg.solve(total, gap))) == pytest.approx(1, abs=1e-9)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(torch.cat([positive, negative]), [1] * 100 + [0] * 100)
    assert cos(found, torch.from_numpy(theirs.coef_[0])) == pytest.approx(1, abs=1e-9)


def test_lda_of_gaussian_classes_is_the_bayes_direction() -> None:
    mix, shift = normal(WIDTH, WIDTH, seed=4), normal(WIDTH, seed=5)
    positive, negative = normal(20_000, WIDTH, seed=6) @ mix.T + shift, normal(20_000, WIDTH, seed=7) @ mix.T
    bayes = torch.linalg.solve(mix @ mix.T, shift)
    assert cos(lda(positive, negative), bayes) > 0.999
    assert cos(mean_difference(positive, negative), bayes) < 0.9


@pytest.mark.parametrize("n", [5, 60])
def test_lda_shrinks_as_ledoit_and_wolf_do(n: int) -> None:
    """With fewer examples than dimensions, too, where the system is solved in the space of the examples."""
    positive, negative = pairs(n, noise=1.0)
    within = torch.cat([positive - positive.mean(0), negative - negative.mean(0)])
    covariance = torch.from_numpy(LedoitWolf(assume_centered=True).fit(within).covariance_)
    expected = torch.linalg.solve(covariance, mean_difference(positive, negative))
    torch.testing.assert_close(lda(positive, negative), expected, rtol=1e-8, atol=1e-8)
    assert cos(lda(positive, negative, shrinkage=1.0), mean_difference(positive, negative)) == pytest.approx(1)


def test_lda_refuses_what_it_cannot_estimate() -> None:
    with pytest.raises(DataError, match="full rank"):
        lda(*pairs(4), shrinkage=0)
    positive, negative = pairs(7)
    with pytest.raises(DataError, match="13 examples give no covariance of full rank in 12 dimensions"):
        lda(positive, negative[:6], shrinkage=0)  # two of thirteen go into the means
    with pytest.raises(DataError, match="two examples"):
        lda(*pairs(1))
    with pytest.raises(DataError, match="between 0 and 1"):
        lda(*pairs(), shrinkage=2)


def test_logistic_agrees_with_scikit_learn_in_raw_units() -> None:
    positive, negative = pairs(50, noise=1.0)
    values, labels = torch.cat([positive, negative]).numpy(), [1] * 50 + [0] * 50
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (0.05 * 100), tol=1e-10, max_iter=10_000)).fit(
        values, labels
    )
    scores = torch.from_numpy(probe.decision_function(values))
    found = torch.from_numpy(values) @ logistic(positive, negative, penalty=0.05)
    torch.testing.assert_close(found - found.mean(), scores - scores.mean(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("m", [50, 20])
def test_a_large_penalty_gives_the_mean_difference_of_standardised_data(m: int) -> None:
    positive, negative = pairs(50, noise=1.0)
    negative = negative[:m]
    sigma = torch.cat([positive, negative]).std(0, correction=0)
    expected = mean_difference(positive, negative) / sigma**2
    assert cos(logistic(positive, negative, penalty=1e5), expected) == pytest.approx(1, abs=1e-6)


def test_duplicating_the_data_changes_no_probe() -> None:
    positive, negative = pairs(50, noise=1.0)
    twice = logistic(positive.repeat(2, 1), negative.repeat(2, 1))
    torch.testing.assert_close(twice, logistic(positive, negative), rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="above zero"):
        logistic(positive, negative, penalty=0)


# -- through extract --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> sm.SteeringModel:
    return sm.SteeringModel(tiny("llama"), tiny_tokenizer())


WORDS = ["good", "fine", "nice", "happy", "sunny", "sweet", "neat", "warm", "kind", "calm"]
OTHERS = ["bad", "poor", "sad", "grim", "cold", "sour", "rude", "dull", "mean", "sick"]
MOOD = sm.ContrastPairs([f"it is {w}" for w in WORDS], [f"it was {w}" for w in OTHERS])


@pytest.mark.parametrize("name", [n for n in DIRECTIONS if n != "response_mean"])
def test_padding_and_batches_change_no_method(model: sm.SteeringModel, name: str) -> None:
    together = sm.extract(model, MOOD, method=name, layers=1, quality=False)
    single = sm.extract(model, MOOD, method=name, layers=1, quality=False, token_budget=1)
    torch.testing.assert_close(together[1], single[1], rtol=1e-4, atol=1e-4 * float(single[1].norm()))
    assert together.method == name
    assert together.metadata["scale"] == METHODS[name].scale


def test_a_published_scale_is_kept_and_the_gap_still_known(model: sm.SteeringModel) -> None:
    vector = sm.extract(model, MOOD, method="repeng_compatible", layers=1)
    assert float(vector[1].norm()) == pytest.approx(1, rel=1e-6)
    acts = [sm.activations(model, list(side), layers=1)[1] for side in (MOOD.positive, MOOD.negative)]
    assert vector.gap[1] == pytest.approx(float((acts[0].mean(0) - acts[1].mean(0)) @ vector[1]), abs=1e-5)


def test_options_reach_the_method_and_unknown_ones_are_refused(model: sm.SteeringModel) -> None:
    firm = sm.extract(model, MOOD, method="logistic", layers=1, penalty=1e5, quality=False)
    assert firm.metadata["options"] == {"penalty": 1e5}
    assert not torch.allclose(firm[1], sm.extract(model, MOOD, method="logistic", layers=1, quality=False)[1])
    with pytest.raises(DataError, match="'logistic' has no option 'shrinkage'; its options are penalty"):
        sm.extract(model, MOOD, method="logistic", shrinkage=0.1)
    with pytest.raises(DataError, match="'pca' has no option 'penalty'; it has none"):
        sm.extract(model, MOOD, method="pca", penalty=1)


def test_methods_of_pairs_refuse_two_classes(model: sm.SteeringModel) -> None:
    classes = sm.ContrastPairs(MOOD.positive, MOOD.negative, paired=False)
    for name in ("pca", "repeng_compatible"):
        with pytest.raises(DataError, match="two classes, not pairs"):
            sm.extract(model, classes, method=name)


def test_a_method_of_ones_own_may_keep_its_scale(model: sm.SteeringModel) -> None:
    own = Method(lambda positive, negative: 7 * (positive - negative).mean(0), "sevenfold", scale="seven gaps")
    vector = sm.extract(model, MOOD, method=own, layers=1, quality=False)
    torch.testing.assert_close(vector[1], 7 * sm.extract(model, MOOD, layers=1, quality=False)[1])
    assert (vector.method, vector.metadata["scale"]) == ("sevenfold", "seven gaps")


def test_a_direction_that_points_the_wrong_way_is_turned_to_the_positive_class(model: sm.SteeringModel) -> None:
    backwards = sm.extract(model, MOOD, method=lambda p, n: mean_difference(n, p), layers=1, quality=False)
    forwards = sm.extract(model, MOOD, layers=1, quality=False)
    torch.testing.assert_close(backwards[1], forwards[1])
    assert backwards.projections[1] == pytest.approx(forwards.projections[1])
    assert backwards.gap[1] > 0


def test_options_of_a_function_are_passed_on(model: sm.SteeringModel) -> None:
    def scaled(positive: Tensor, negative: Tensor, sign: int = 1) -> Tensor:
        return sign * mean_difference(positive, negative)

    method = Method(scaled, scale="own")
    vector = sm.extract(model, MOOD, method=method, layers=1, quality=False, sign=-1)
    torch.testing.assert_close(vector[1], -sm.extract(model, MOOD, method=method, layers=1, quality=False)[1])


def test_response_means_read_the_response(model: sm.SteeringModel) -> None:
    asked = {"role": "user", "content": "so?"}
    chats = sm.ContrastPairs(
        *([[asked, {"role": "assistant", "content": f"it is {w}"}] for w in side] for side in (WORDS, OTHERS))
    )
    vector = sm.extract(model, chats, method="response_mean", layers=1, quality=False)
    acts = [
        sm.activations(model, list(side), layers=1, read="response")[1] for side in (chats.positive, chats.negative)
    ]
    torch.testing.assert_close(vector[1], acts[0].mean(0) - acts[1].mean(0), rtol=1e-4, atol=1e-5)
    assert vector.metadata["read"] == "response"
    with pytest.raises(DataError, match="defined at read=\"response\", not 'last'"):
        sm.extract(model, chats, method="response_mean", read="last")
