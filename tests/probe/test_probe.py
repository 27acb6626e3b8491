"""The linear probe, against scikit-learn used by hand and against what must hold of honest figures."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.models import tiny, tiny_tokenizer

import steersman as sm
from steersman.errors import DataError, FileFormatError, MismatchError
from steersman.probe.statistics import interval, shuffle, split, temperature

SCALES = np.array([1.0, 20.0, 0.1, 3.0, 1.0, 1.0, 0.5, 8.0])


def gaussian(n: int = 160, width: int = 8, gap: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes ``gap`` standard deviations apart along the first axis, features of very different scales."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    values = rng.normal(size=(n, width))
    values[:, 0] += gap * labels
    return 5 + values * np.resize(SCALES, width), labels


def acts(values: np.ndarray, layer: int = 3) -> dict[int, torch.Tensor]:
    return {layer: torch.from_numpy(values).float()}


def by_hand(values: np.ndarray, labels: np.ndarray, c: float) -> tuple[np.ndarray, float, np.ndarray]:
    """Raw weights, raw bias and standard deviations of scikit-learn's own pipeline."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-8, max_iter=10_000)).fit(values, labels)
    scaler, model = pipeline[0], pipeline[1]
    weights = model.coef_[0] / scaler.scale_
    return weights, float(model.intercept_[0] - weights @ scaler.mean_), scaler.scale_


@pytest.mark.parametrize("width", [8, 300])  # fewer and more dimensions than items
def test_weights_and_predictions_equal_scikit_learns_pipeline(width: int) -> None:
    values, labels = gaussian(width=width)
    values = values.astype(np.float32).astype(np.float64)
    probe = sm.LinearProbe(c=0.1, shuffles=0).fit(acts(values), labels)
    weights, bias, _ = by_hand(values, labels, 0.1)
    fit = probe._layers[3]
    np.testing.assert_allclose(fit.weights[1], weights, rtol=1e-3, atol=1e-5 * np.abs(weights).max())
    assert fit.bias[1] == pytest.approx(bias, rel=1e-3, abs=1e-4)
    expected = (values @ weights + bias > 0).astype(int)
    assert probe.predict(torch.from_numpy(values), layer=3) == expected.tolist()


def test_held_out_accuracy_and_auroc_equal_a_loop_by_hand() -> None:
    values, labels = gaussian(gap=1.0)
    values = values.astype(np.float32).astype(np.float64)
    probe = sm.LinearProbe(cv=4, c=1.0, shuffles=0, seed=7).fit(acts(values), labels)
    correct, aurocs = [], []
    for train, test in StratifiedKFold(4, shuffle=True, random_state=7).split(values, labels):
        weights, bias, _ = by_hand(values[train], labels[train], 1.0)
        scores = values[test] @ weights + bias
        correct += list((scores > 0) == labels[test])
        aurocs.append(roc_auc_score(labels[test], scores))
    assert probe.accuracy[3] == pytest.approx(np.mean(correct))
    assert probe.auroc[3] == pytest.approx(np.mean(aurocs), abs=1e-6)


def test_c_is_chosen_by_the_cross_entropy_of_inner_folds() -> None:
    values, labels = gaussian(n=90, width=200, gap=1.0)
    candidates = (1e-3, 1e-1, 10.0)
    probe = sm.LinearProbe(cv=3, c=candidates, shuffles=0).fit(acts(values), labels)
    losses = []
    for c in candidates:
        loss = 0.0
        for train, test in StratifiedKFold(3, shuffle=True, random_state=0).split(values, labels):
            weights, bias, _ = by_hand(values[train], labels[train], c)
            loss += np.logaddexp(0, -(2 * labels[test] - 1) * (values[test] @ weights + bias)).sum()
        losses.append(loss)
    assert probe.frame()["c"][3] == candidates[int(np.argmin(losses))]


def test_several_classes_agree_with_scikit_learn_and_each_has_a_vector() -> None:
    rng = np.random.default_rng(1)
    labels = np.resize(["a", "b", "c"], 150)
    values = rng.normal(size=(150, 6))
    for k, name in enumerate("abc"):
        values[labels == name, k] += 2.5
    probe = sm.LinearProbe(c=1.0).fit(acts(values), labels)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, tol=1e-8)).fit(values, labels)
    assert probe.classes == ("a", "b", "c")
    assert probe.predict(torch.from_numpy(values)) == pipeline.predict(values).tolist()
    assert 0.8 < (probe.accuracy[3] or 0) <= 1
    assert (probe.shuffled[3] or 1) == pytest.approx(1 / 3, abs=0.1)
    with pytest.raises(DataError, match="which of"):
        probe.to_vector()
    for k, name in enumerate("abc"):
        raw = pipeline[1].coef_ / pipeline[0].scale_
        expected = raw[k] - np.delete(raw, k, axis=0).mean(0)
        vector = probe.to_vector(name)
        cosine = torch.nn.functional.cosine_similarity(vector[3].double(), torch.from_numpy(expected), dim=0)
        assert float(cosine) == pytest.approx(1, abs=1e-5)
        along = vector[3].double() / vector[3].double().norm()
        projected = torch.from_numpy(values) @ along
        low, high = projected[labels != name].mean(), projected[labels == name].mean()
        assert vector.projections[3] == pytest.approx((float(low), float(high)), abs=1e-5)
        assert float(vector[3].norm()) == pytest.approx(float(high - low), rel=1e-5)


def test_the_vector_is_w_over_sigma_at_one_gap_and_separates() -> None:
    values, labels = gaussian()
    values = values.astype(np.float32).astype(np.float64)
    vector = sm.LinearProbe(c=1.0).fit(acts(values), labels).to_vector(name="mood")
    weights, _, scale = by_hand(values, labels, 1.0)
    along = weights / np.linalg.norm(weights)
    np.testing.assert_allclose(vector[3].numpy() / vector[3].norm().item(), along, atol=1e-3)
    standardised = weights * scale / np.linalg.norm(weights * scale)
    assert abs(standardised @ along) < 0.9  # the features' scales differ, so that w itself points elsewhere
    low, high = vector.projections[3]
    projected = values @ (vector[3].double().numpy() / vector[3].double().norm().item())
    assert (low, high) == pytest.approx((projected[labels == 0].mean(), projected[labels == 1].mean()), abs=1e-4)
    assert vector.gap[3] == pytest.approx(float(vector[3].norm()), rel=1e-5)
    assert np.mean((projected > (low + high) / 2) == labels) > 0.75
    assert (vector.name, vector.method, vector.layer, vector.site) == ("mood", "linear_probe", 3, "resid_post")
    assert vector.quality is not None
    assert vector.quality["layers"]["3"]["accuracy"] is not None


def test_no_source_is_on_both_sides_of_a_split() -> None:
    rng = np.random.default_rng(0)
    sources = np.repeat(np.arange(20), 4)
    labels = rng.permutation(np.repeat([0, 1], 40))
    folds = split(labels, sources, 5, seed=0)
    assert all(len(set(folds[sources == source])) == 1 for source in range(20))
    assert set(folds) == set(range(5))


def test_groups_unmask_a_probe_that_remembers_sources() -> None:
    """Labels belong to sources at random: a split by item looks perfect, a split by source is at chance."""
    rng = np.random.default_rng(0)
    sources = np.repeat(np.arange(40), 5)
    labels = rng.permutation(np.arange(40) % 2)[sources]
    values = rng.normal(size=(40, 64))[sources] + 0.05 * rng.normal(size=(200, 64))
    leaking = sm.LinearProbe(c=1.0, shuffles=0).fit(acts(values), labels)
    honest = sm.LinearProbe(c=1.0).fit(acts(values), labels, groups=[f"template {s}" for s in sources])
    assert (leaking.accuracy[3] or 0) > 0.95
    low, high = honest.interval[3] or (0, 0)
    assert low < 0.5 < high
    assert high - low > 0.25  # forty sources, not two hundred items


def test_shuffled_labels_are_at_chance_and_figures_at_an_informative_layer_are_not() -> None:
    values, labels = gaussian(n=200)
    noise = np.random.default_rng(5).normal(size=values.shape)
    probe = sm.LinearProbe(c=0.1).fit({2: torch.from_numpy(noise).float(), **acts(values)}, labels)
    for layer in (2, 3):
        assert (probe.shuffled[layer] or 0) == pytest.approx(0.5, abs=0.07)
    assert (probe.interval[2] or (1, 0))[0] < 0.5
    assert (probe.interval[3] or (0, 0))[0] > 0.7
    assert probe.best_layer == 3
    assert (probe.auroc[3] or 0) > 0.85


def test_shuffling_keeps_sources_whole_or_swaps_within_them() -> None:
    rng = np.random.default_rng(0)
    sources = np.repeat(np.arange(10), 4)
    pure = (np.arange(10) % 2)[sources]
    exchanged = shuffle(pure, sources, rng)
    assert all(len(set(exchanged[sources == s])) == 1 for s in range(10))
    assert exchanged.sum() == pure.sum()
    mixed = np.tile([0, 0, 1, 1], 10)
    exchanged = shuffle(mixed, sources, rng)
    assert all(exchanged[sources == s].sum() == 2 for s in range(10))
    assert (exchanged != mixed).any()


def test_the_interval_is_wilsons_for_items_of_their_own_and_wider_for_sources() -> None:
    correct = np.r_[np.ones(70), np.zeros(30)]
    alone = interval(correct, np.arange(100))
    wilson = stats.binomtest(70, 100).proportion_ci(method="wilson")
    assert alone == pytest.approx((wilson.low, wilson.high), abs=0.002)
    together = interval(correct, np.repeat(np.arange(20), 5))
    assert together[1] - together[0] > 1.8 * (alone[1] - alone[0])
    low, high = interval(np.ones(50), np.repeat(np.arange(10), 5))
    assert high == 1.0
    assert 0.6 < low < 0.8  # ten sources that were all right, not fifty items, and no point


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    sources, hits, trials = np.repeat(np.arange(25), 4), 0, 300
    for _ in range(trials):
        rates = rng.beta(8, 2, size=25)  # sources differ
        correct = (rng.random(100) < rates[sources]).astype(float)
        low, high = interval(correct, sources)
        hits += low <= 0.8 <= high
    assert stats.binomtest(hits, trials, 0.95).pvalue > 1e-3


@pytest.mark.parametrize(("c", "most"), [((1e-3, 1e-2, 1e-1, 1.0), 0.05), (10.0, 0.08)])
def test_probabilities_are_calibrated_on_new_data(c: float, most: float) -> None:
    """What it calls 80% is right about four times in five; an overfitted probe, far too sure, becomes cautious."""
    values, labels = gaussian(n=300, width=100, gap=1.5)
    fresh, truth = gaussian(n=4000, width=100, gap=1.5, seed=9)
    probe = sm.LinearProbe(c=c, shuffles=0).fit(acts(values), labels)
    raw = torch.from_numpy(probe._layers[3].logits(fresh)).softmax(1)[:, 1].numpy()
    calibrated = probe.probabilities(torch.from_numpy(fresh))[:, 1].numpy()

    def error(p: np.ndarray) -> float:
        confidence, right = np.maximum(p, 1 - p), (p > 0.5) == truth
        bins = np.clip(((confidence - 0.5) * 20).astype(int), 0, 9)
        return sum(abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in set(bins))

    assert error(calibrated) < most
    if c == 10.0:
        assert error(raw) > 2 * error(calibrated)
        assert probe.frame()["temperature"][3] > 2


def test_probabilities_of_several_classes_are_calibrated_too() -> None:
    """An overfitted probe of three classes is far too sure before its temperature, and about right after it."""
    rng = np.random.default_rng(3)
    centres = np.zeros((3, 60))
    centres[[0, 1, 2], [0, 1, 2]] = 1.5

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(n) % 3
        return centres[labels] + rng.normal(size=(n, 60)), labels

    values, labels = draw(240)
    probe = sm.LinearProbe(c=10.0, shuffles=0).fit(acts(values), labels)
    fresh, truth = draw(3000)

    def surprise(p: np.ndarray) -> float:
        return float(-np.log(p[np.arange(len(p)), truth]).mean())

    raw = torch.from_numpy(probe._layers[3].logits(fresh)).softmax(1).numpy()
    calibrated = probe.probabilities(torch.from_numpy(fresh)).numpy()
    assert calibrated.shape == (3000, 3)
    np.testing.assert_allclose(calibrated.sum(1), 1)
    assert (calibrated.argmax(1) == raw.argmax(1)).all()
    right = (calibrated.argmax(1) == truth).mean()
    assert abs(calibrated.max(1).mean() - right) < 0.08
    assert raw.max(1).mean() - right > 0.15
    assert surprise(calibrated) < 0.5 * surprise(raw)


def test_temperature_recovers_a_known_one_and_stays_finite_for_separable_classes() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=4000)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-true))).astype(int)
    assert temperature(np.stack([0 * true, 3 * true], 1), labels) == pytest.approx(3, rel=0.1)
    perfect = np.array([[0.0, -4.0]] * 20 + [[0.0, 4.0]] * 20)
    found = temperature(perfect, np.repeat([0, 1], 20))
    assert 0.5 < found < 2  # ln 21 = 3.04 is the logit of Platt's target


def test_too_few_examples_are_said_and_the_direction_is_there_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    values, labels = gaussian(n=12)
    probe = sm.LinearProbe().fit(acts(values), labels)
    assert (probe.accuracy[3], probe.interval[3], probe.shuffled[3], probe.auroc[3]) == (None,) * 4
    assert probe.best_layer is None
    assert probe.notice is not None
    assert "smallest class has 6 sources and held-out figures need 8" in probe.notice
    assert probe.notice in caplog.text
    vector = probe.to_vector()
    assert vector.layer is None
    assert vector.quality is None
    assert len(probe.predict(torch.from_numpy(values))) == 12
    with pytest.raises(DataError, match="too few examples"):
        probe.svg()


def test_save_and_load_are_exact(tmp_path: Path) -> None:
    values, labels = gaussian()
    names = np.array(["no", "yes"])[labels]
    probe = sm.LinearProbe(cv=4, seed=3, shuffles=2).fit(
        {**acts(values), 5: torch.from_numpy(values).float() * 2}, names
    )
    again = sm.LinearProbe.load(probe.save(tmp_path / "probe.safetensors"))
    assert again.frame().equals(probe.frame())
    assert (again.classes, again.fitted, again.settings) == (probe.classes, probe.fitted, probe.settings)
    assert torch.equal(again.probabilities(torch.from_numpy(values)), probe.probabilities(torch.from_numpy(values)))
    assert again.to_vector() == probe.to_vector()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((tmp_path / "probe.safetensors").read_bytes()[:-40])
    with pytest.raises(FileFormatError):
        sm.LinearProbe.load(damaged)
    probe.to_vector().save(tmp_path / "vector.safetensors")
    with pytest.raises(FileFormatError, match="steering vector, not a probe"):
        sm.LinearProbe.load(tmp_path / "vector.safetensors")


def test_a_file_whose_parts_do_not_belong_together_is_refused(tmp_path: Path) -> None:
    from steersman.files import container

    values, labels = gaussian()
    path = sm.LinearProbe(shuffles=0, c=1.0).fit(acts(values), labels).save(tmp_path / "probe.safetensors")
    tensors, document = container.read(path, "probe")
    broken = json.loads(json.dumps(document))
    broken["fitted"]["shape"] = [5]
    container.write(path, "probe", tensors, broken)
    with pytest.raises(FileFormatError, match="is no probe: layer 3 has tensors of shape"):
        sm.LinearProbe.load(path)


def test_the_same_seed_gives_the_same_figures() -> None:
    values, labels = gaussian()
    first, second = (sm.LinearProbe(c=1.0, seed=2).fit(acts(values), labels).frame() for _ in range(2))
    assert first.equals(second)


def test_labels_may_be_booleans_texts_or_tensors() -> None:
    values, labels = gaussian(n=40)
    for given, expected in (
        (labels.astype(bool).tolist(), (False, True)),
        (torch.from_numpy(labels), (0, 1)),
        (["pos" if one else "neg" for one in labels], ("neg", "pos")),
    ):
        assert sm.LinearProbe(c=1.0, shuffles=0).fit(acts(values), given).classes == expected


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda v, y: sm.LinearProbe(cv=1), DataError, "at least two folds"),
        (lambda v, y: sm.LinearProbe(c=0), DataError, "positive number"),
        (lambda v, y: sm.LinearProbe().accuracy, DataError, "not been fitted"),
        (lambda v, y: sm.LinearProbe().fit(acts(v), y[:-1]), DataError, "for 39 labels"),
        (lambda v, y: sm.LinearProbe().fit(acts(v), 0 * y), DataError, r"the labels hold \[0\] only"),
        (lambda v, y: sm.LinearProbe().fit(acts(v), [1, "a"] * 20), DataError, "mix texts and numbers"),
        (lambda v, y: sm.LinearProbe().fit(acts(v), y, groups=["a"]), DataError, "1 groups for 40 items"),
        (
            lambda v, y: sm.LinearProbe(c=1.0).fit(acts(v), y).predict(torch.zeros(3, 5)),
            MismatchError,
            r"reads \[n, 8\]",
        ),
        (
            lambda v, y: sm.LinearProbe(c=1.0).fit(acts(v), y).predict(torch.zeros(3, 8), layer=9),
            MismatchError,
            "no layer 9",
        ),
        (lambda v, y: sm.LinearProbe(c=1.0).fit(acts(v), y).to_vector("x"), DataError, "no class 'x'"),
    ],
)
def test_what_cannot_be_fitted_is_refused(call: object, error: type[Exception], message: str) -> None:
    values, labels = gaussian(n=40)
    with pytest.raises(error, match=message):
        call(values, labels)  # type: ignore[operator]


def test_from_texts_to_a_vector_that_steers_on_a_model() -> None:
    model = sm.SteeringModel(tiny("llama"), tiny_tokenizer())
    texts = [f"{word} {i}" for i in range(12) for word in ("good", "bad thing")]
    probe = sm.LinearProbe(c=0.1, shuffles=1).fit(sm.activations(model, texts), [1, 0] * 12)
    assert probe.layers == (0, 1, 2)
    vector = probe.to_vector(name="good")
    assert vector.origin is not None
    plan = sm.Add(vector, 1.0)
    assert not torch.equal(model.logits("it is", steer=plan), model.logits("it is"))
    figure = ElementTree.fromstring(probe.svg())
    shown = [mark for mark in figure.iter() if mark.get("data-series") == "held out" and mark.get("data-x")]
    assert [float(mark.attrib["data-y"]) for mark in shown if "data-y" in mark.attrib] == list(probe.accuracy.values())


def test_heads_keep_their_shape() -> None:
    values, labels = gaussian(n=60)
    heads = sm.Activations({1: torch.from_numpy(values).float().reshape(60, 2, 4)}, site="z")
    probe = sm.LinearProbe(c=1.0, shuffles=0).fit(heads, labels)
    vector = probe.to_vector()
    assert (vector[1].shape, vector.site) == ((2, 4), "z")
    assert len(probe.predict(heads)) == 60
