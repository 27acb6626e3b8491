"""A condition is chosen by F1 on some prompts, measured on others, and holds in the engine where the choice says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score
from tests.model import reference
from tests.model.running import steering_model

import steersman as sm
from steersman.choosing.thresholds import best_cut, f1
from steersman.errors import DataError, InterventionError, MismatchError

WORDS = (" the", " a", " is", " was", " of", " and", " good", " bad")
SCORES = st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=14)


def prompts(end: str, count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(WORDS, 4)) + end for _ in range(count)]


@settings(max_examples=40)
@given(SCORES, st.data())
def test_no_threshold_has_a_higher_f1(scores: list[float], data: st.DataObject) -> None:
    values = np.array(scores)
    labels = np.array(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    cut = best_cut(values, labels)
    tried = [
        f1_score(labels, values > t if above else values < t, zero_division=0)
        for t in (np.unique(values)[:-1] + 0.5)
        for above in (True, False)
    ]
    assert cut.f1 == pytest.approx(max(tried, default=0.0))
    if tried:
        assert f1(labels, cut.holds(values)) == pytest.approx(cut.f1)
        assert cut.threshold not in values


def test_of_equal_cuts_the_one_with_room_around_it_is_kept() -> None:
    scores = np.array([0.0, 0.1, 5.0, 5.1])
    cut = best_cut(scores, np.array([False, False, True, True]))
    assert cut.above
    assert cut.threshold == pytest.approx(2.55)
    below = best_cut(scores, np.array([True, True, False, False]))
    assert not below.above
    assert below.threshold == pytest.approx(2.55)
    assert best_cut(scores, np.array([True, True, False, False]), above=True).f1 == pytest.approx(2 * 1 / (2 + 3))


def test_of_two_cuts_on_one_side_the_wider_is_kept_and_equal_scores_are_never_parted() -> None:
    labels = np.array([False, True, False, False, True])  # 4 / 6 above the first, 2 / 3 above the last but one
    assert best_cut(np.array([0.0, 5, 6, 7, 8]), labels, above=True).threshold == 2.5
    assert best_cut(np.array([0.0, 1, 2, 3, 9]), labels, above=True).threshold == 6
    tied = best_cut(np.array([0.0, 0, 1, 1]), np.array([False, True, True, True]))
    assert (tied.f1, tied.threshold) == (0.8, 0.5)


@pytest.fixture(scope="module")
def chosen():
    """Prompts that end in one word or another, read along the difference of others of their kind."""
    model = steering_model("llama")
    found = [sm.activations(model, prompts(end, 12, 7), layers="all") for end in (" Paris", " London")]
    noise = torch.randn(model.d_model, generator=torch.Generator().manual_seed(3)) * 2.5
    vector = sm.SteeringVector({layer: (found[0][layer] - found[1][layer]).mean(0) + noise for layer in range(3)})
    positive, negative = prompts(" Paris", 30, 1), prompts(" London", 40, 2)
    return model, vector, positive, negative, sm.choose_condition(model, vector, positive, negative, random=19)


def by_hand(model, when: sm.When, text: str) -> float:
    """What the condition reads, by a plain hook."""
    h = reference.read(model.hf, "llama", "resid_post", when.layer, model.tokens.encode(text))[-1]
    v = when.direction()
    return float(h @ v / v.norm() / h.norm()) if when.measure == "cosine" else float(h @ v / v.norm())


@pytest.mark.parametrize("measure", ["cosine", "projection"])
def test_what_is_reported_is_counted_on_prompts_kept_from_the_choice(chosen, measure) -> None:
    from steersman.evaluation.statistics import split_by_source

    model, vector, positive, negative, found = chosen
    if measure == "projection":
        found = sm.choose_condition(model, vector, positive, negative, random=0, measure=measure)
        assert found.p_value is None
    kept = [split_by_source([str(i) for i in range(len(side))])[1] for side in (positive, negative)]
    texts = [positive[i] for i in kept[0]] + [negative[i] for i in kept[1]]
    truth = np.r_[np.ones(len(kept[0]), bool), np.zeros(len(kept[1]), bool)]
    reads = np.array([by_hand(model, found.when, text) for text in texts])
    held = reads > found.when.above if found.when.above is not None else reads < found.when.below
    assert found.f1.value == pytest.approx(f1_score(truth, held))
    assert found.precision.value == pytest.approx(precision_score(truth, held))
    assert found.recall.value == pytest.approx(recall_score(truth, held))
    assert found.f1.n == found.facts["report_prompts"] == len(texts)
    assert found.precision.n == held.sum()
    assert found.recall.n == truth.sum()
    assert found.always == pytest.approx(f1_score(truth, np.ones(len(truth), bool)))


def test_it_is_better_than_random_directions_and_than_always(chosen) -> None:
    found = chosen[-1]
    assert found.f1.value > found.always
    assert found.p_value == pytest.approx((1 + sum(f >= found.f1.value for f in found.random)) / 20)
    assert len(found.random) == 19
    assert len({round(f, 6) for f in found.random}) > 3


def test_steering_happens_where_the_condition_was_said_to_hold(chosen) -> None:
    model, vector, positive, negative, found = chosen
    plan = sm.Plan([sm.Add(vector, 3.0, layers=2, when=found.when)], evidence=found.evidence())
    for text in positive[:6] + negative[:6]:
        read = by_hand(model, found.when, text)
        holds = read > found.when.above if found.when.above is not None else read < found.when.below
        moved = not torch.equal(model.logits(text, steer=plan)[:, -1], model.logits(text)[:, -1])
        assert moved == holds


def test_the_best_layer_has_the_highest_f1_on_the_tuning_prompts(chosen) -> None:
    found = chosen[-1]
    table = found.frame()
    best = table[table.layer == found.when.layer].iloc[0]
    assert best.f1 == table.f1.max()
    assert list(table.layer) == [0, 1, 2]


def test_where_all_is_right_the_interval_is_left_to_precision_and_recall() -> None:
    model = steering_model("gpt2")
    ends = [sm.activations(model, prompts(end, 8, 7)) for end in (" Paris", " London")]
    found = sm.choose_condition(
        model,
        (ends[0][0] - ends[1][0]).mean(0),
        prompts(" Paris", 20, 1),
        prompts(" London", 20, 2),
        random=0,
        layers=[0],
    )
    assert found.f1.value == 1
    assert (found.f1.low, found.f1.high) == (None, None)
    assert 0.6 < found.recall.low < 0.9
    assert found.recall.high == 1
    assert "above" in found.evidence()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"layers": [7]}, MismatchError, "layer 7"),
        ({"positive_prompts": [" a"]}, DataError, "positive prompts"),
        ({"positive_sources": ["x"]}, DataError, "sources"),
        ({"vector": torch.ones(5)}, MismatchError, "shape"),
        ({"measure": "angle"}, InterventionError, "cosine"),
    ],
)
def test_mistakes_are_told_before_anything_runs(changes: dict, error: type, words: str) -> None:
    from tests.model.running import counting_passes

    model = steering_model("llama")
    given = {"vector": torch.ones(model.d_model), "positive_prompts": prompts(" a", 6, 0),
             "negative_prompts": prompts(" the", 6, 0)} | changes  # fmt: skip
    with counting_passes(model.hf) as passes, pytest.raises(error, match=words):
        sm.choose_condition(model, **given)
    assert not passes
