"""What is said about examples before anything is steered: agreement of pairs, and shortcuts."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models import tiny, tiny_tokenizer
from torch import Tensor

import steersman as sm
from steersman.extraction.consistency import consistency
from steersman.extraction.leakage import leakage
from steersman.extraction.methods import METHODS
from steersman.extraction.quality import FOLDS, SHUFFLES, _auroc, _bootstrap_auroc, measure

module = sys.modules["steersman.extraction.examples"]  # the name leads to the function


def pairs(n: int, shift: float, seed: int = 0, width: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base, noise = torch.randn(2, n, width, generator=generator, dtype=torch.float64)
    direction = torch.zeros(width, dtype=torch.float64)
    direction[3] = shift
    return base + direction + noise, base


def names(n: int) -> list[str]:
    return [str(i) for i in range(n)]


# -- separation -------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 500), shift=st.floats(0, 0.5))
def test_the_interval_of_the_auroc_holds_the_auroc_also_of_pairs_that_differ_by_a_little_alike(
    seed: int, shift: float
) -> None:
    base = np.random.default_rng(seed).normal(size=12)
    scores, labels = np.r_[base + shift, base], np.r_[np.ones(12, bool), np.zeros(12, bool)]
    sources = np.r_[np.arange(12), np.arange(12)]
    picks = np.random.default_rng(seed).integers(0, 12, (200, 12))
    drawn = _bootstrap_auroc(scores, labels, sources, picks)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert low - 1e-9 <= _auroc(scores, labels) <= high + 1e-9


def test_sources_are_compared_with_themselves_and_with_others_as_often_as_in_the_whole() -> None:
    scores, labels = np.array([3.0, 1.0, 2.0, 2.0, 0.0]), np.array([True, True, False, False, False])
    sources = np.array([0, 1, 0, 1, 1])  # of 6 comparisons, 3 are within a source
    picks = np.array([[0, 1, 1], [0, 0, 1], [1, 0, 1]])
    by_hand = []
    for pick in picks:
        rates: dict[bool, list[float]] = {True: [], False: []}
        for first in pick:
            for second in pick:
                times = 1 if first != second else 1 / np.count_nonzero(pick == first)
                for high in scores[labels & (sources == first)]:
                    for low in scores[~labels & (sources == second)]:
                        rates[bool(first == second)].append(times)
                        rates[bool(first == second)].append(times * ((high > low) + 0.5 * (high == low)))
        by_hand.append(np.mean([sum(r[1::2]) / sum(r[::2]) for r in rates.values()]))
    assert _bootstrap_auroc(scores, labels, sources, picks).tolist() == pytest.approx(by_hand)


def test_a_resample_of_one_class_says_nothing() -> None:
    labels = np.array([True, False])
    drawn = _bootstrap_auroc(np.array([1.0, 0.0]), labels, np.array([0, 1]), np.array([[0, 0], [0, 1], [1, 1]]))
    assert np.isnan(drawn).tolist() == [True, False, True]
    assert drawn[1] == 1


# -- agreement of pairs -----------------------------------------------------------------------------------------


def test_pairs_that_differ_all_alike_agree_wholly() -> None:
    base = torch.randn(10, 16, dtype=torch.float64)
    found = consistency(base + 2.0, base, names(10))
    assert found is not None
    assert found.cosine == pytest.approx(1)
    assert found.r_squared == pytest.approx(1 - 1 / 10)
    assert found.split_half == pytest.approx(1)
    assert found.split_half_full == pytest.approx(1)


def test_pairs_that_share_nothing_show_nothing() -> None:
    """The floor 1/n is what unrelated differences give, so the mean over many sets is zero."""
    found = [consistency(*pairs(30, 0, seed), names(30)) for seed in range(200)]
    assert all(one is not None for one in found)
    r_squared = [one.r_squared for one in found if one is not None]
    assert abs(np.mean(r_squared)) < 3 * np.std(r_squared) / np.sqrt(200)
    assert abs(np.mean([one.split_half for one in found if one is not None])) < 0.05


def test_pairs_that_contradict_each_other_have_no_agreement_at_full_length() -> None:
    shift = torch.linspace(-1, 1, 16, dtype=torch.float64)
    found = consistency(torch.stack([shift, -shift]), torch.zeros(2, 16, dtype=torch.float64), names(2))
    assert found is not None
    assert (found.split_half, found.r_squared) == (pytest.approx(-1), pytest.approx(-1 / 2))
    assert found.split_half_full is None


def test_the_figures_by_hand() -> None:
    positive, negative = pairs(20, 2)
    found, differences = consistency(positive, negative, names(20)), positive - negative
    mean = differences.mean(0)
    assert found is not None
    cosines = [float(d @ mean / (d.norm() * mean.norm())) for d in differences]
    assert found.cosine == pytest.approx(np.mean(cosines))
    expected = float(mean @ mean) / np.mean([float(d @ d) for d in differences]) - 1 / 20
    assert found.r_squared == pytest.approx(expected)
    assert found.split_half_full == pytest.approx(2 * found.split_half / (1 + found.split_half))


@given(seed=st.integers(0, 500), scale=st.floats(0.1, 10))
def test_agreement_does_not_depend_on_the_classes_names_or_the_scale(seed: int, scale: float) -> None:
    positive, negative = pairs(12, 1, seed)
    first, second = (
        consistency(*sides, names(12)) for sides in ((positive, negative), (scale * negative, scale * positive))
    )
    assert first is not None
    assert second is not None
    assert second.cosine == pytest.approx(first.cosine)
    assert second.r_squared == pytest.approx(first.r_squared)
    assert second.split_half == pytest.approx(first.split_half)


def test_copies_of_one_pair_are_one_source_and_never_in_both_halves() -> None:
    positive, negative = (values.repeat(10, 1) for values in pairs(6, 0))
    sources = [str(i % 6) for i in range(60)]
    together, apart = consistency(positive, negative, sources), consistency(positive, negative, names(60))
    assert together is not None
    assert apart is not None
    assert apart.split_half > 0.8
    assert together.split_half < 0.5
    assert consistency(positive, negative, ["same"] * 60) is None
    assert consistency(positive, positive, sources) is None


def test_methods_of_pairs_see_aligned_pairs_in_every_fold_also_with_labels_exchanged() -> None:
    """Bases far apart drown the shift unless each pair is subtracted from its own partner."""
    positive, negative = pairs(40, 6.0)
    spread = 1000 * torch.randn(40, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    positive, negative = positive + spread, negative + spread
    seen: list[float] = []

    def method(fit_positive: Tensor, fit_negative: Tensor) -> Tensor:
        seen.append(float((fit_positive - fit_negative).abs().max()))
        return METHODS["pca"].compute(fit_positive, fit_negative)

    quality = measure(positive, negative, (names(40), names(40)), method, paired=True)
    assert quality is not None
    assert quality.consistency is not None
    assert len(seen) == FOLDS * (1 + SHUFFLES)
    assert max(seen) < 50


def test_of_many_examples_a_random_choice_is_measured_with_pairs_kept_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESERVOIR", 10)
    many = names(30)
    first, second = module.reservoir(sm.ContrastPairs(many, many), np.random.default_rng(0))
    assert first == second
    assert len(set(first)) == 10
    first, second = module.reservoir(sm.ContrastPairs(many, many, paired=False), np.random.default_rng(0))
    assert first != second


# -- shortcuts --------------------------------------------------------------------------------------------------


def warnings(positive: list[list[int]], negative: list[list[int]], *, paired: bool = False) -> list[str]:
    found = leakage(positive, negative, paired=paired, decode=lambda ids: f"<{ids[0]}>")
    return [warning.partition(":")[0] for warning in found]


def texts(n: int, length: int = 8, seed: int = 0, vocabulary: int = 50) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[0, 1, *rng.integers(2, vocabulary, length).tolist()] for _ in range(n)]


def test_examples_without_a_shortcut_raise_no_warning() -> None:
    for seed in range(20):
        assert warnings(texts(40, seed=seed), texts(40, seed=seed + 100)) == []
        assert warnings(texts(40, seed=seed), texts(40, seed=seed + 100), paired=True) == []


def test_examples_of_different_lengths_are_warned_about() -> None:
    assert warnings(texts(20, 12), texts(20, 8, 1)) == warnings(texts(20, 8), texts(20, 12, 1)) == ["length"]
    mostly = [*texts(15, 12), *texts(5, 8, 2)]  # in three of four pairs, which chance may do
    assert warnings(mostly, texts(20, 10, 1), paired=True) == []
    lengths = [length for length in range(3, 23) for _ in range(1)]
    long, short = ([texts(1, length + more, length + 50 * more)[0] for length in lengths] for more in (1, 0))
    assert warnings(long, short, paired=True) == ["length"]
    assert warnings(long, short) == []
    assert "negative example is the longer one in 100% of the pairs" in leakage(short, long, paired=True, decode=str)[0]


def test_a_first_token_that_gives_the_class_away_is_warned_about() -> None:
    positive, negative = ([[0, 1, first, *text[3:]] for text in texts(20, seed=first)] for first in (7, 8))
    spread = [[*text[:3], 7, 8, *text[5:]] for text in (*positive, *negative)]
    assert warnings(spread[:20], spread[20:]) == ["first token"]


def test_first_tokens_that_are_all_different_show_nothing() -> None:
    positive, negative = (
        [[0, 1, 100 * side + i, *text[3:]] for i, text in enumerate(texts(20, seed=side))] for side in (1, 2)
    )
    assert warnings(positive, negative) == []


def test_one_word_that_gives_the_class_away_is_warned_about() -> None:
    positive, negative = texts(20), texts(20, seed=1)
    for number, text in enumerate(positive):
        text[4 + number % 4] = 77
    assert warnings(positive, negative) == ["word"]
    positive[0][4] = 78  # nineteen in twenty are enough
    assert warnings(positive, negative) == ["word"]
    assert "<77>" in leakage(negative, positive, paired=False, decode=lambda ids: f"<{ids[0]}>")[0]


def test_few_examples_are_not_judged() -> None:
    assert warnings(texts(7, 20), texts(7, 5)) == []
    assert warnings(texts(7, 20), texts(30, 5)) == warnings(texts(30, 20), texts(7, 5)) == []


# -- with a vector ----------------------------------------------------------------------------------------------


def test_a_vector_keeps_its_warnings_and_the_agreement_of_its_pairs(caplog: pytest.LogCaptureFixture) -> None:
    model = sm.SteeringModel(tiny("llama"), tiny_tokenizer())
    words, others = (
        ["good", "fine", "nice", "happy", "sunny", "sweet", "neat", "warm"],
        ["bad", "poor", "sad", "grim", "cold", "sour", "rude", "dull"],
    )
    vector = sm.extract(
        model, sm.ContrastPairs([f"it is {w}" for w in words], [f"so it really was {w}" for w in others])
    )
    assert vector.quality is not None
    assert [warning.partition(":")[0] for warning in vector.quality["warnings"]] == ["length", "first token", "word"]
    assert "the negative example is the longer one" in caplog.text
    figures = vector.quality["layers"]["1"]
    acts = [
        sm.activations(model, list(side), layers=1)[1]
        for side in ([f"it is {w}" for w in words], [f"so it really was {w}" for w in others])
    ]
    found = consistency(acts[0].double(), acts[1].double(), names(8))
    assert found is not None
    assert figures["consistency"]["cosine"] == pytest.approx(found.cosine, rel=1e-4)
    assert figures["gap"] == pytest.approx(vector.gap[1])
    classes = sm.extract(
        model, sm.ContrastPairs([f"it is {w}" for w in words], [f"it was {w}" for w in others], paired=False)
    )
    assert classes.quality is not None
    assert classes.quality["layers"]["1"]["consistency"] is None
    silent = sm.extract(model, sm.ContrastPairs(words, others), quality=False)
    assert silent.quality is None
