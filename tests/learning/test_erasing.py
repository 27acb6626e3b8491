"""LEACE: what it promises, and the reference implementation of its authors."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from concept_erasure import LeaceFitter
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import OAS
from sklearn.linear_model import LogisticRegression
from tests.models import tiny, tiny_tokenizer
from torch import Tensor

import steersman as sm
from steersman.errors import DataError, InterventionError
from steersman.extraction.erasing import EraserFitter, Moments, leace
from steersman.values import LayerValues

N, WIDTH = 300, 10


def data(classes: int = 2, seed: int = 0, n: int = N, width: int = WIDTH) -> tuple[Tensor, list[int]]:
    """Correlated activations, far from the origin, that tell classes of unequal sizes apart."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (n,), generator=generator)
    labels[labels == 1] = torch.where(torch.rand(int((labels == 1).sum()), generator=generator) < 0.3, 0, 1)
    labels[:classes] = torch.arange(classes)
    means = 2 * torch.randn(classes, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return 20 + noise @ mix.T + means[labels], labels.tolist()


def fitted(x: Tensor, labels: list[int], **options: bool) -> tuple[Tensor, Tensor, Tensor]:
    moments = Moments(x.shape[1])
    moments.update(x, labels)
    return leace(moments, **options)


def erase(x: Tensor, map_: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    write, read, mean = map_
    return x - (x - mean) @ read @ write.T


def one_hot(labels: list[int]) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels)).double()


# -- theorems ---------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(classes=st.integers(2, 4), seed=st.integers(0, 100), shrinkage=st.booleans())
def test_nothing_linear_is_left_whatever_the_covariance(classes: int, seed: int, shrinkage: bool) -> None:
    """Cross-covariance zero, so all class means agree; the mean is kept; erasing twice is erasing once."""
    x, labels = data(classes, seed)
    map_ = fitted(x, labels, shrinkage=shrinkage)
    erased = erase(x, map_)
    z = one_hot(labels)
    cross = (erased - erased.mean(0)).T @ (z - z.mean(0)) / N
    assert float(cross.abs().max()) < 1e-10
    means = torch.stack([erased[torch.tensor(labels) == c].mean(0) for c in range(classes)])
    torch.testing.assert_close(means, x.mean(0).expand(classes, -1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(erased.mean(0), x.mean(0))
    torch.testing.assert_close(erase(erased, map_), erased, rtol=1e-9, atol=1e-9)
    assert map_[0].shape == map_[1].shape == (WIDTH, classes - 1)


def test_two_classes_have_a_closed_form() -> None:
    x, labels = data()
    positive = torch.tensor(labels) == 1
    a = x[positive].mean(0) - x[~positive].mean(0)
    b = torch.linalg.solve(torch.from_numpy(np.cov(x.T.numpy(), bias=True)), a)
    expected = x - torch.outer((x - x.mean(0)) @ b, a) / (b @ a)
    torch.testing.assert_close(erase(x, fitted(x, labels)), expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=25)
@given(seed=st.integers(0, 500))
def test_no_other_map_that_erases_changes_less_by_any_measure_of_length(seed: int) -> None:
    """Every ``x -> x - a w^T (x - mu)``, ``w . a = 1``, erases two classes; none beats it under any inner product."""
    x, labels = data()
    positive = torch.tensor(labels) == 1
    a = x[positive].mean(0) - x[~positive].mean(0)
    generator = torch.Generator().manual_seed(seed)
    metric = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    w = a if seed == 0 else a + torch.randn(WIDTH, generator=generator, dtype=torch.float64)
    other = x - torch.outer((x - x.mean(0)) @ w, a) / (w @ a)
    torch.testing.assert_close(other[positive].mean(0), other[~positive].mean(0))
    ours, theirs = (float(((x - y) @ metric).square().sum(1).mean()) for y in (erase(x, fitted(x, labels)), other))
    assert ours < theirs


def test_a_fresh_probe_falls_to_chance() -> None:
    x, labels = data(3, n=4000)
    map_, guess = fitted(x[:2000], labels[:2000]), np.bincount(labels).max() / 4000
    erased = erase(x, map_)

    def score(values: Tensor, part: slice) -> float:
        probe = LogisticRegression(solver="newton-cholesky", C=100).fit(values[:2000], labels[:2000])
        return probe.score(values[part], labels[part])

    assert score(x, slice(2000, 4000)) > guess + 0.2
    assert score(erased, slice(0, 2000)) == pytest.approx(guess, abs=0.02)
    assert score(erased, slice(2000, 4000)) == pytest.approx(guess, abs=0.04)


# -- others' code -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_it_equals_the_authors_own_implementation(classes: int) -> None:
    x, labels = data(classes)
    theirs = LeaceFitter(
        WIDTH, classes, dtype=torch.float64, shrinkage=False, constrain_cov_trace=False, svd_tol=1e-9
    ).update(x, one_hot(labels)).eraser  # fmt: skip
    torch.testing.assert_close(erase(x, fitted(x, labels)), theirs(x), rtol=1e-8, atol=1e-8)


def test_shrinkage_is_the_oracle_approximating_one() -> None:
    x, labels = data(n=15)
    positive = torch.tensor(labels) == 1
    a = x[positive].mean(0) - x[~positive].mean(0)
    b = torch.linalg.solve(torch.from_numpy(OAS().fit(x.numpy()).covariance_), a)
    expected = x - torch.outer((x - x.mean(0)) @ b, a) / (b @ a)
    torch.testing.assert_close(erase(x, fitted(x, labels, shrinkage=True)), expected, rtol=1e-8, atol=1e-8)


# -- gathering --------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, N), max_size=6), offset=st.sampled_from([0.0, 1e4]))
def test_batches_of_any_size_give_the_moments_of_the_whole(cuts: list[int], offset: float) -> None:
    x, labels = data(3)
    x = x + offset
    streamed, edges = Moments(WIDTH), sorted({0, *cuts, N})
    for start, stop in pairwise(edges):
        streamed.update(x[start:stop], labels[start:stop])
    torch.testing.assert_close(
        streamed.covariance, torch.from_numpy(np.cov(x.T.numpy(), bias=True)), rtol=1e-7, atol=1e-6
    )
    z = one_hot(labels)[:, list(streamed.counts)]
    cross = (x - x.mean(0)).T @ (z - z.mean(0)) / N
    torch.testing.assert_close(streamed.cross_covariance, cross, rtol=1e-7, atol=1e-7)


def test_the_fitter_and_the_shortcut_agree() -> None:
    x, labels = data(3)
    acts = {2: x.float(), 5: (2 * x + 1).float()}
    fitter = EraserFitter()
    for part in (slice(0, 100), slice(100, N)):
        fitter.update({layer: values[part] for layer, values in acts.items()}, labels[part])
    streamed, whole = fitter.eraser("c"), sm.fit_eraser(acts, torch.tensor(labels), name="c")
    assert streamed.layers == whole.layers == (2, 5)
    for layer, values in acts.items():
        torch.testing.assert_close(erase(values, streamed[layer]), erase(values, whole[layer]), rtol=1e-4, atol=1e-4)
    assert (streamed.name, streamed.site) == ("c", "resid_post")
    with pytest.raises(DataError, match=r"has seen layers \[2, 5\]"):
        fitter.update({2: x}, labels)
    with pytest.raises(DataError, match=r"of resid_post, not .* of mlp_out"):
        fitter.update(LayerValues(acts, site="mlp_out"), labels)
    with pytest.raises(DataError, match=f"layer 5 has width {WIDTH - 1}, and had {WIDTH} before"):
        fitter.update({2: acts[2], 5: acts[5][:, 1:]}, labels)
    for layer in acts:  # what was refused has left no trace
        assert all(torch.equal(a, b) for a, b in zip(fitter.eraser()[layer], streamed[layer], strict=True))


def test_what_does_not_vary_is_left_alone() -> None:
    """Within a subspace the map is that of the subspace: rounding outside of it is not taken for variance."""
    x, labels = data(3)
    plane = torch.linalg.qr(torch.randn(25, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    inside = fitted(x @ plane.T, labels)
    torch.testing.assert_close(erase(x @ plane.T, inside), erase(x, fitted(x, labels)) @ plane.T, rtol=1e-8, atol=1e-8)
    outside = torch.randn(25, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    outside = outside - plane @ (plane.T @ outside)
    torch.testing.assert_close(erase(outside + inside[2], inside), outside + inside[2], rtol=1e-8, atol=1e-8)


def test_fewer_examples_than_dimensions_still_erase_and_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    x, labels = data(n=8, width=30)
    for shrinkage in (False, True):
        erased = erase(x, fitted(x, labels, shrinkage=shrinkage))
        members = torch.tensor(labels) == 1
        torch.testing.assert_close(erased[members].mean(0), erased[~members].mean(0), rtol=1e-8, atol=1e-8)
    assert not caplog.text
    for shrinkage in (False, True):
        sm.fit_eraser({3: x, 4: x, 5: x}, labels, shrinkage=shrinkage)
    assert caplog.text.count("8 examples in 30 dimensions") == 1  # once, not for each layer


def test_classes_that_already_agree_leave_everything_as_it_is() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, -4.0]]).repeat(2, 1)
    assert torch.equal(erase(x.double(), fitted(x, [0, 0, 1, 1])), x.double())


# -- on a model -------------------------------------------------------------------------------------------------

TEXTS = [f"it is {w}" for w in ("good", "fine", "nice", "warm", "kind")] + [
    f"it was {w}" for w in ("bad", "sad", "grim", "cold")
]
LABELS = ["good"] * 5 + ["bad"] * 4


@pytest.fixture(scope="module")
def model() -> sm.SteeringModel:
    return sm.SteeringModel(tiny("llama"), tiny_tokenizer())


@pytest.mark.parametrize("site", ["resid_post", "z"])
def test_it_erases_where_it_was_fitted(model: sm.SteeringModel, site: str, tmp_path: Path) -> None:
    acts = sm.activations(model, TEXTS, layers=1, site=site)
    plan = sm.Plan(sm.Erase(sm.fit_eraser(acts, LABELS, shrinkage=True)))
    assert plan[0].eraser.origin == acts.origin is not None  # type: ignore[attr-defined]
    erased = sm.activations(model, TEXTS, layers=1, site=site, steer=plan)[1].flatten(1)
    torch.testing.assert_close(erased[:5].mean(0), erased[5:].mean(0), rtol=1e-4, atol=1e-4)
    assert float((acts[1].flatten(1)[:5].mean(0) - acts[1].flatten(1)[5:].mean(0)).norm()) > 0.1
    assert sm.Plan.load(plan.save(tmp_path / "erase.safetensors")) == plan
    with pytest.raises(InterventionError, match=f"fitted at {site}"):
        sm.Erase(plan[0].eraser, site="mlp_out")  # type: ignore[attr-defined]


def test_layers_fitted_one_after_the_other_are_clean_together(model: sm.SteeringModel) -> None:
    plan = sm.Plan()
    for layer in (0, 1, 2):
        acts = sm.activations(model, TEXTS, layers=layer, steer=plan)
        plan = plan + sm.Erase(sm.fit_eraser(acts, LABELS, shrinkage=True), positions="last")
    erased = sm.activations(model, TEXTS, steer=plan)
    for layer in erased:
        torch.testing.assert_close(erased[layer][:5].mean(0), erased[layer][5:].mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1] * N, "at least two classes"),
        ([0, 1], "2 labels need"),
        ([[0, 1]] * N, "labels must be"),
        ([None] * N, "labels must be"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        sm.fit_eraser({0: data()[0]}, labels)


def test_an_eraser_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="call update"):
        EraserFitter().eraser()
