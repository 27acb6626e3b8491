"""Extraction on Ray workers: a real local cluster, the same vector, and workers that die."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import tiny, tiny_tokenizer

import steersman as sm
from steersman.errors import UnsupportedError
from steersman.extraction.activations import run_work
from steersman.extraction.gathering import RowGather
from steersman.extraction.ray_runner import RayRunner
from steersman.extraction.reading import Read, prepare
from steersman.extraction.work import Work

ray = pytest.importorskip("ray")

WORDS = ["good", "fine", "nice", "bad", "poor", "sad", "a river", "two of them", "nothing at all", "so"]
TEXTS = [f"{a} and {b}" for a in WORDS for b in WORDS]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Generator[None]:
    ray.init(num_cpus=3, include_dashboard=False, configure_logging=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model() -> sm.SteeringModel:
    return sm.SteeringModel(tiny("llama"), tiny_tokenizer())


@pytest.fixture(scope="module")
def pairs() -> sm.ContrastPairs:
    return sm.ContrastPairs([f"it is {t}" for t in TEXTS[:50]], [f"it was {t}" for t in TEXTS[50:]], name="tense")


@pytest.mark.parametrize(("method", "workers"), [("mean_difference", 1), ("pca", 2), ("lda", 3)])
def test_the_vector_is_the_same_for_any_number_of_workers(
    model: sm.SteeringModel, pairs: sm.ContrastPairs, method: str, workers: int
) -> None:
    here = sm.extract(model, pairs, method=method, layers=[0, 2])
    there = sm.extract(model, pairs, method=method, layers=[0, 2], runner=RayRunner(workers=workers, shard=17))
    for layer in here:
        assert float((there[layer] - here[layer]).norm()) <= 1e-5 * float(here[layer].norm())
        assert there.norms[layer] == pytest.approx(here.norms[layer], rel=1e-5)
    assert there.layer == here.layer
    assert there.quality is not None
    assert here.quality is not None
    for layer in map(str, here):
        assert there.quality["layers"][layer]["accuracy"] == here.quality["layers"][layer]["accuracy"]


def test_activations_and_means_come_back_in_order_steered_or_not(model: sm.SteeringModel, tmp_path: Path) -> None:
    plan = sm.Add(torch.randn(model.d_model), layers=0, positions="all")
    runner = RayRunner(workers=2, shard=13)
    here = sm.activations(model, TEXTS, layers=[1, 2], steer=plan)
    edited = sm.activations(model.edit(plan), TEXTS, layers=[1, 2], runner=runner)
    torch.testing.assert_close(edited[2], here[2], rtol=1e-5, atol=1e-5)
    stored = sm.activations(model, TEXTS, layers=[1, 2], steer=plan, runner=runner, out=tmp_path / "acts")
    torch.testing.assert_close(stored[2], here[2], rtol=1e-5, atol=1e-5)
    means = sm.mean_activations(model, TEXTS, by_position=True, runner=runner)
    torch.testing.assert_close(means[1], sm.mean_activations(model, TEXTS, by_position=True)[1], rtol=1e-5, atol=1e-5)


class Mortal(RowGather):
    """The worker that fills it dies in the middle, once for each marker that is not there yet."""

    marker = ""

    def empty(self, numbers: Sequence[int]) -> Mortal:
        found = Mortal(())
        plain = super().empty(numbers)
        found.slots, found.size, found.marker = plain.slots, plain.size, self.marker
        return found

    def add(self, numbers: Sequence[int], rows: Mapping[int, Any]) -> None:
        super().add(numbers, rows)
        if 0 in numbers:
            try:
                Path(self.marker).touch(exist_ok=False)
            except FileExistsError:
                return
            os._exit(1)


def test_a_worker_that_dies_is_replaced_and_nothing_is_counted_twice(model: sm.SteeringModel, tmp_path: Path) -> None:
    items = prepare(model, TEXTS, Read.parse("last"))
    gather = Mortal(range(len(items)))
    gather.marker = str(tmp_path / "died")
    done: list[int] = []
    RayRunner(workers=2, shard=20)(model, items, Work((1,), "resid_post"), gather, done.extend)
    assert (tmp_path / "died").exists()
    assert sorted(done) == list(range(len(items)))
    expected = RowGather(range(len(items)))
    run_work(model, items, Work((1,), "resid_post"), expected, progress=False)
    torch.testing.assert_close(gather.pop(1), expected.pop(1), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_sent_is_refused(model: sm.SteeringModel) -> None:
    with model.steer(sm.Add(torch.randn(model.d_model), layers=0)), pytest.raises(UnsupportedError, match="steer="):
        sm.activations(model, TEXTS, runner="ray")
    handle = model.hf.register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedError, match="RayRunner"):
        sm.activations(model, TEXTS, runner="ray")
    handle.remove()
    with pytest.raises(UnsupportedError, match="another model"):
        sm.activations(model, TEXTS, layers=0, runner=RayRunner(workers=1, load="demo"))
