"""Intervals, p-values, slopes and splits agree with scipy's, and with what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from steersman.errors import DataError
from steersman.evaluation import statistics as own


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("draw", [lambda g: g.normal(1, 2, 40), lambda g: g.exponential(1, 25), lambda g: g.random(12)])
def test_the_interval_of_a_mean_is_scipys_bca(draw) -> None:
    values = draw(rng(3))
    found = own.mean(values, seed=5, resamples=1500)
    level = own.expanded(0.95, len(values))
    wanted = stats.bootstrap(
        (values,), np.mean, n_resamples=1500, method="BCa", rng=rng(5), confidence_level=level
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert found.value == pytest.approx(values.mean())
    assert found.method == "BCa"


def test_the_interval_of_any_statistic_is_scipys() -> None:
    values = rng(1).normal(size=30)
    found = own.statistic(lambda x: float(np.median(x)), values, seed=2)
    wanted = stats.bootstrap(
        (values,), np.median, n_resamples=2000, vectorized=False, rng=rng(2), confidence_level=own.expanded(0.95, 30)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_sources_are_resampled_whole() -> None:
    """Copies of an item in its source add nothing: the interval is that of one item a source."""
    values = rng(4).normal(size=15)
    once = own.mean(values, seed=1)
    copied = own.mean(np.repeat(values, 6), np.repeat(np.arange(15), 6), seed=1)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert (copied.n, copied.sources) == (90, 15)
    naive = own.mean(np.repeat(values, 6), seed=1)
    assert copied.high - copied.low > 2 * (naive.high - naive.low)


def test_sources_of_unequal_size_give_the_mean_over_items() -> None:
    sources = [0, 0, 0, *range(1, 12)]
    values = np.arange(14.0)
    assert own.mean(values, sources).value == values.mean()
    assert own.statistic(np.mean, values, sources).value == values.mean()


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    hits = naive = 0
    for seed in range(150):
        generator = rng(seed)
        shared = np.repeat(generator.normal(size=20), 3)  # items of one source have much in common
        values = 0.5 + shared + generator.normal(0, 0.3, 60)
        found = own.mean(values, np.repeat(np.arange(20), 3), resamples=1000, seed=seed)
        single = own.mean(values, resamples=1000, seed=seed)
        hits += found.low <= 0.5 <= found.high
        naive += single.low <= 0.5 <= single.high
    assert hits >= 137  # 142 expected
    assert naive <= 125


@pytest.mark.parametrize("sources", [8, 12, 40])
def test_of_normal_data_it_is_students_interval(sources: int) -> None:
    """A normal bootstrap distribution of spread ``s sqrt((n - 1) / n) / sqrt(n)``, read at the expanded level."""
    level = own.expanded(0.95, sources)
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt((sources - 1) / sources)
    assert half == pytest.approx(stats.t.ppf(0.975, sources - 1))
    assert own.expanded(0.95, 10_000) == pytest.approx(0.95, abs=1e-4)


def test_a_dozen_items_are_enough_for_an_interval_to_hold_what_it_says() -> None:
    hits = plain = 0
    for seed in range(300):
        values = rng(seed).normal(size=12)
        found = own.mean(values, resamples=1000, seed=seed)
        hits += found.low <= 0 <= found.high
        bare = stats.bootstrap((values,), np.mean, n_resamples=1000, rng=rng(seed)).confidence_interval
        plain += bare.low <= 0 <= bare.high
    low, high = stats.binomtest(hits, 300).proportion_ci(0.99)
    assert low < 0.95 < high
    assert plain < hits  # what it would hold without being read at another level


def test_too_few_sources_have_no_interval_and_say_so() -> None:
    found = own.mean(np.arange(30.0), np.repeat(np.arange(5), 6))
    assert found.low is None
    assert found.high is None
    assert "5 sources" in (found.note or "")
    assert own.share([True] * 5).low is None
    assert own.mean(range(own.FEWEST)).low is not None


def test_where_nothing_varies_the_interval_is_a_point_and_a_share_keeps_its_width() -> None:
    found = own.mean(np.ones(20))
    assert (found.low, found.high, found.note) == (1.0, 1.0, "all items are equal")
    assert own.share(np.ones(20)).low == pytest.approx(stats.binomtest(20, 20).proportion_ci(method="wilson").low)


def test_a_share_has_wilsons_interval() -> None:
    held = np.array([True] * 13 + [False] * 7)
    wanted = stats.binomtest(13, 20).proportion_ci(method="wilson")
    found = own.share(held)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=30), st.floats(-9, 9))
def test_a_rank_p_value_counts(null: list[float], observed: float) -> None:
    n = len(null)
    assert own.rank_p_value(observed, null) == (1 + sum(abs(x) >= abs(observed) for x in null)) / (1 + n)
    assert own.rank_p_value(observed, null, side="greater") == (1 + sum(x >= observed for x in null)) / (1 + n)
    assert own.rank_p_value(observed, null, side="less") == own.rank_p_value(
        -observed, [-x for x in null], side="greater"
    )


def test_with_one_place_the_maximum_is_the_rank() -> None:
    null = rng(2).normal(size=(60, 1))
    for observed in (0.3, -1.2, 4.0):
        assert own.max_statistic([observed], null)[0] == own.rank_p_value(observed, null[:, 0])


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("side", ["two-sided", "greater", "less"])
def test_the_best_of_many_places_is_significant_as_often_as_it_should(scale: bool, side) -> None:
    """Under the null, the smallest corrected p is uniform; uncorrected it would be far too small."""
    smallest, naive = [], []
    for seed in range(300):
        generator = rng(seed)
        sizes = np.array([0.1, 1.0, 1.0, 3.0, 10.0])
        common = generator.normal(size=(40, 1))  # places have something in common
        draws = (generator.normal(size=(40, 5)) + common) * sizes
        smallest.append(own.max_statistic(draws[0], draws[1:], side=side, scale=scale).min())
        naive.append(min(own.rank_p_value(draws[0, i], draws[1:, i], side=side) for i in range(5)))
    false = np.mean(np.array(smallest) <= 0.05)
    assert 0.02 <= false <= 0.085
    assert np.mean(np.array(naive) <= 0.05) > 0.1
    jitter = rng(9).uniform(0, 1 / 40, 300)  # p-values of ranks are discrete
    assert stats.kstest(np.array(smallest) - jitter, "uniform").pvalue > 0.01


def test_scaling_hears_a_quiet_place_beside_a_loud_one() -> None:
    generator = rng(0)
    null = np.column_stack([generator.normal(0, 0.1, 99), generator.normal(0, 10, 99)])
    assert own.max_statistic([1.0, 0.0], null)[0] <= 0.02
    assert own.max_statistic([1.0, 0.0], null, scale=False)[0] > 0.5


def test_flipping_signs_agrees_with_scipy_and_is_exact_when_small() -> None:
    values = np.array([0.5, 1.0, 0.2, 0.9, 0.7, 1.1])
    assert own.sign_flip_p_value(values) == pytest.approx(2 / 2**6)  # only all or none are as extreme
    doubled = own.sign_flip_p_value(np.repeat(values / 2, 2), np.repeat(np.arange(6), 2))
    assert doubled == pytest.approx(2 / 2**6)


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.integers(0, 99))
def test_slopes_are_those_of_least_squares(y: list[float], seed: int) -> None:
    x = np.sort(rng(seed).normal(size=4))
    found = own.slopes(x, np.array([y, y[::-1]]))
    wanted = [stats.linregress(x, y).slope, stats.linregress(x, y[::-1]).slope]
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_spearman_is_scipys_and_brown_carries_halves_to_the_whole() -> None:
    x, y = rng(1).normal(size=12), rng(2).normal(size=12)
    assert own.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert own.spearman_brown(0.6) == pytest.approx(0.75)
    assert own.spearman_brown(0.75, 0.5) == pytest.approx(0.6)  # its own inverse at the reciprocal


def test_split_halves_tell_reliable_curves_from_noise() -> None:
    curve = np.linspace(-1, 1, 7)
    reliable = own.split_half(curve + rng(0).normal(0, 0.3, (40, 7)))
    noise = own.split_half(rng(1).normal(size=(40, 7)))
    assert reliable > 0.95
    assert noise < 0.7


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.floats(0.1, 0.9), st.integers(0, 99))
def test_no_source_lies_on_both_sides(sources: list[int], tune: float, seed: int) -> None:
    if len(set(sources)) < 2:
        with pytest.raises(DataError, match="two sources"):
            own.split_by_source(sources, tune=tune, seed=seed)
        return
    first, second = own.split_by_source(sources, tune=tune, seed=seed)
    assert sorted([*first, *second]) == list(range(len(sources)))
    assert not {sources[i] for i in first} & {sources[i] for i in second}
    assert len(first)
    assert len(second)


def test_a_ratio_of_means_covers_and_warns_of_a_denominator_near_zero() -> None:
    over, under = rng(1).normal(1, 0.2, 60), rng(2).normal(2, 0.2, 60)
    found = own.ratio_of_means((over, None), (under, None))
    assert found.low < 0.5 < found.high
    shaky = own.ratio_of_means((over, None), (rng(3).normal(0.01, 1, 30), None))
    assert "zero" in (shaky.note or "")


def test_what_cannot_be_measured_is_refused() -> None:
    for bad in ([], [1.0, float("nan")], [float("inf")]):
        with pytest.raises(DataError):
            own.mean(bad)
    with pytest.raises(DataError, match="3 sources for 2"):
        own.mean([1.0, 2.0], [1, 2, 3])
    with pytest.raises(DataError, match="at least 1000"):
        own.mean(range(20), resamples=10)
    with pytest.raises(DataError, match="different strengths"):
        own.slopes([1.0, 1.0], np.ones((2, 2)))
    with pytest.raises(DataError, match="draws, 2"):
        own.max_statistic([1.0, 2.0], np.ones((5, 3)))
