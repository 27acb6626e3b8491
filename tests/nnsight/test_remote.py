"""Traces that are sent away: to a server without this package, and through nnsight's own simulation of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.modeling import huggingface
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend
from tests.model.running import assert_close

import steersman as sm
from steersman.errors import MismatchError, NotSavedError, TraceError
from steersman.nnsight import LanguageModel, apply

SERVER = Path(__file__).with_name("remote_server.py")
PROMPTS = ["I think the movie was", "Today the weather"]
STEERING = sm.demo_model()
HAPPY = sm.demo.vector("happy", STEERING)
V = HAPPY[8]


class Post(Backend):
    """Writes what would be sent."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, tracer: Any) -> None:
        self.path.write_bytes(RequestModel.serialize(tracer))


class Answered(RemoteBackend):
    """nnsight's own way of taking an answer, which lies here already."""

    def __init__(self, path: Path) -> None:
        RemoteBackend.__init__(self, "key", host="http://nowhere", env={})
        self.path, self.compress = path, False

    def request(self, request: Any, tracer: Any = None) -> Any:
        return self.finalize(self.path.read_bytes())


def old_notation(model: Any, backend: Any) -> Any:
    with model.trace(PROMPTS, **backend):
        model.transformer.h[8].output[0][:, -1, :] += 2 * V
        logits = model.lm_head.output.save()
        before = model.transformer.h[9].attn.c_proj
    return logits, before


def a_plan(model: Any, backend: Any) -> Any:
    plan = sm.Plan([sm.Add(HAPPY, 2.0, layers=10), sm.Ablate(HAPPY[3])])
    with model.trace(PROMPTS, **backend):
        apply(plan, model)
        logits = model.lm_head.output.save()
    return (logits,)


def generated(model: Any, backend: Any) -> Any:
    happy = HAPPY
    with model.generate(PROMPTS[0], max_new_tokens=6, **backend) as tracer:
        with tracer.all():
            model.transformer.h[8].output[0][:, -1, :] += 2 * happy[8]
        ids = model.generator.output.save()
    return (ids,)


def generated_by_a_plan(model: Any, backend: Any) -> Any:
    several = [sm.Add(HAPPY, sm.schedule([2.0, 1.0]), layers=8), sm.Clamp(HAPPY, 3.0, side="above", layers=[8, 10])]
    with model.generate(PROMPTS, max_new_tokens=6, **backend) as tracer:
        apply(several, model)
        ids = tracer.result.save()
    return (ids,)


def rows_of_an_invoke(model: Any, backend: Any) -> Any:
    plan = sm.Add(HAPPY, 2.0, layers=8, positions=sm.after("think"))
    with model.trace(**backend) as tracer:
        with tracer.invoke(PROMPTS[0]):
            apply(plan, model)
            model.blocks[9].heads[:, :, 1] = 0
            first = model.lm_head.output.save()
        with tracer.invoke(PROMPTS[1]):
            second = model.lm_head.output.save()
    return first, second


def a_condition(model: Any, backend: Any) -> Any:
    found = [sm.capture(STEERING, prompt)[6][-1] @ (HAPPY[6] / HAPPY[6].norm()) for prompt in PROMPTS]
    when = sm.When(HAPPY, layer=6, above=float(sum(found)) / 2, measure="projection")
    plan = sm.Add(HAPPY, 2.0, layers=8, when=when)
    with model.trace(PROMPTS, **backend):
        apply(plan, model)
        logits = model.lm_head.output.save()
    return (logits,)


def an_edit(model: Any, backend: Any) -> Any:
    plan = sm.Add(HAPPY, -2.0, layers=8)
    with model.edit() as edited:
        model.transformer.h[10].output[0][:, -1, :] += V
    with edited.edit() as twice:
        apply(plan, edited)
    with twice.generate(PROMPTS[0], max_new_tokens=6, **backend) as tracer:
        ids = tracer.result.save()
    return (ids,)


def an_edited_steering_model(model: Any, backend: Any) -> Any:
    own = LanguageModel(STEERING.edit(sm.Zero(sm.heads(4, 1))))
    with own.trace(PROMPTS[0], **backend):
        logits = own.lm_head.output.save()
    return (logits,)


def a_session(model: Any, backend: Any) -> Any:
    with model.session(**backend):
        with model.trace(PROMPTS[0]):
            kept = model.transformer.h[5].output[0][:, -1, :]
        with model.trace(PROMPTS[1]):
            model.transformer.h[5].output[0][:, -1, :] = kept
            logits = model.lm_head.output.save()
    return (logits,)


CASES: list[Callable[[Any, Any], Any]] = [
    old_notation, a_plan, generated, generated_by_a_plan, rows_of_an_invoke, a_condition, an_edit,
    an_edited_steering_model, a_session,
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel("demo")


@pytest.fixture(scope="module")
def answers(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each case's request, and what the server answered."""
    folder = tmp_path_factory.mktemp("requests")
    STEERING.save_pretrained(folder / "model")
    for case in CASES:
        case(model, {"backend": Post(folder / f"{case.__name__}.request")})
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, SERVER, folder / "model", folder], check=True, env=environment, cwd=folder)
    return folder


def same(found: Any, wanted: Any) -> None:
    for one, other in zip(found, wanted, strict=True):
        if isinstance(other, torch.Tensor):
            assert type(one.value) is torch.Tensor
            assert_close(one.detach().value, other.detach().value)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_server_without_this_package_answers_as_a_trace_here(case: Any, model: LanguageModel, answers: Path) -> None:
    answer = answers / f"{case.__name__}.answer"
    assert "error" not in torch.load(answer)
    same(case(model, {"backend": Answered(answer)}), case(model, {}))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_nnsights_simulation_of_a_server_agrees(case: Any, model: LanguageModel) -> None:
    same(case(model, {"remote": "local"}), case(model, {}))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_steered_is_not_unsteered(case: Any, model: LanguageModel) -> None:
    """What is compared above has an effect at all."""
    found = case(model, {})[0]
    if found.dtype == torch.long:
        with model.generate(PROMPTS[: len(found)], max_new_tokens=6) as tracer:
            plain = tracer.result.save()
        assert found.tolist() != plain.tolist()
        return
    with model.trace(PROMPTS[: len(found)] if case is not a_session else PROMPTS[1]):
        plain = model.lm_head.output.save()
    assert found.shape != plain.shape or (found - plain).abs().max() > 0.1


def test_what_is_sent_is_the_size_of_vectors_and_not_of_the_model(answers: Path, model: LanguageModel) -> None:
    weights = sum(weight.numel() * weight.element_size() for weight in model._module.parameters())
    sizes = {case.__name__: (answers / f"{case.__name__}.request").stat().st_size for case in CASES}
    assert max(sizes.values()) < 350_000 < weights / 20
    for count in (1, 13):
        plan = sm.Add(torch.randn(128), layers=list(range(count)))
        with model.trace("I", backend=Post(answers / f"{count}.size")):
            apply(plan, model)
            model.lm_head.output.save()
    grown = (answers / "13.size").stat().st_size - (answers / "1.size").stat().st_size
    assert grown < 12 * 4 * 128 * 3


def test_what_was_not_saved_says_so_after_a_remote_trace(model: LanguageModel, answers: Path) -> None:
    _, forgotten = old_notation(model, {"backend": Answered(answers / "old_notation.answer")})
    with pytest.raises(NotSavedError, match=r"'before'.*\.save\(\)"):
        forgotten.weight


def test_a_plan_that_does_not_fit_is_refused_before_anything_is_sent(model: LanguageModel, tmp_path: Path) -> None:
    plan = sm.Add(torch.ones(5), layers=8)
    with pytest.raises(MismatchError, match="d_model"), model.trace("a", backend=Post(tmp_path / "never")):
        apply(plan, model)
    assert not (tmp_path / "never").exists()


def test_what_cannot_travel_is_refused_with_what_to_do(model: LanguageModel, tmp_path: Path) -> None:
    backend = Post(tmp_path / "never")
    with pytest.raises(TraceError, match="'sm'.*above the block"), model.trace("a", backend=backend):
        apply(sm.Add(V, layers=8), model)
    other = STEERING
    with pytest.raises(TraceError, match="'other', a SteeringModel"), model.trace("a", backend=backend):
        found = other.d_model
    with pytest.raises(TraceError, match="'demo' .*hub id"), model.trace("a", remote=True):
        model.lm_head.output.save()
    assert not (tmp_path / "never").exists()


def test_writing_a_trace_leaves_pickling_as_it_was(model: LanguageModel, tmp_path: Path) -> None:
    import copyreg
    import pickle

    before = dict(copyreg.dispatch_table)
    a_plan(model, {"backend": Post(tmp_path / "one")})
    assert copyreg.dispatch_table == before
    plan = sm.Add(HAPPY, layers=8)
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_a_hub_model_is_asked_for_by_the_name_that_servers_know(monkeypatch: pytest.MonkeyPatch) -> None:
    own = LanguageModel(STEERING)
    monkeypatch.setattr(own, "repo_id", "org/name")
    monkeypatch.setitem(huggingface._ID_CACHE, "org/name", "org/name")
    kind, _, suffix = own.to_model_key().partition(":")
    assert kind == "nnsight.modeling.transformers.TransformersModel"
    assert json.loads(suffix) == {"repo_id": "org/name", "revision": None, "task": "text-generation"}
