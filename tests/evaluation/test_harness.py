"""The evaluation harness runs its tasks on a steered model, and unsteered gets what its own model gives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the harness and datasets read these once
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import lm_eval
import pytest
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tests.evaluation.by_hand import adding, log_probability, logits

import steersman as sm
from steersman import demo
from steersman.errors import MismatchError, UnsupportedError
from steersman.evaluation.harness import SteeredLM

FOLDER = Path(__file__).parent / "harness"
LONG = " ".join(["The movie was great and the weather is nice."] * 40)
PAIRS = [
    ("The capital of France is", " Paris"), ("The capital of France is", " Berlin"), ("The day was ", " very nice"),
    ("", "The movie was great."), ("I think the movie was", " wonderful and amazing"), (LONG, " The end"),
]  # fmt: skip


def asked(kind: str, *arguments: Any) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]


@pytest.fixture(scope="module")
def theirs(embedded) -> HFLM:
    return HFLM(pretrained=embedded.hf, tokenizer=embedded.tokenizer, batch_size=4)


@pytest.mark.parametrize("batch", ["auto", 1, 3])
def test_unsteered_likelihoods_are_those_of_the_harness_own_model(embedded, theirs, batch) -> None:
    requests = asked("loglikelihood", *PAIRS)
    mine = SteeredLM(embedded, batch_size=batch).loglikelihood(requests)
    wanted = theirs.loglikelihood(requests, disable_tqdm=True)
    assert [value for value, _ in mine] == pytest.approx([value for value, _ in wanted], abs=1e-3)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in wanted]


def test_unsteered_texts_in_windows_are_too(embedded, theirs) -> None:
    requests = asked("loglikelihood_rolling", ("The movie was great.",), (LONG,))
    mine = SteeredLM(embedded).loglikelihood_rolling(requests)
    assert mine == pytest.approx(theirs.loglikelihood_rolling(requests, disable_tqdm=True), rel=1e-5)


@pytest.mark.parametrize("batch", ["auto", 1, 2])
def test_unsteered_generations_are_too(embedded, theirs, batch) -> None:
    requests = asked(
        "generate_until", ("The capital of France is", {"until": ["."], "max_gen_toks": 8}),
        ("The day was", {"until": ["\n"], "max_gen_toks": 12}),
        ("I think the movie was", {"until": ["."], "max_gen_toks": 8}),
        (LONG, {"until": ["zzz"], "max_gen_toks": 5}),
    )  # fmt: skip
    mine = SteeredLM(embedded, batch_size=batch).generate_until(requests)
    assert mine == theirs.generate_until(requests, disable_tqdm=True)


def test_steered_likelihoods_are_what_hooks_by_hand_give(gpt2) -> None:
    vector = torch.randn(gpt2.d_model, generator=torch.Generator().manual_seed(2)) * 2
    pairs = [("The weather is", " great and"), ("The weather is", " great of"), ("Paris", " bad")]
    found = SteeredLM(gpt2, sm.Add(vector, layers=1)).loglikelihood(asked("loglikelihood", *pairs))
    for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
        start, rest = gpt2.tokens.encode(context), gpt2.tokens.continuation(continuation)
        rows = logits(gpt2.hf, "gpt2", [*start, *rest], 1, adding(vector, len(start) - 1))
        assert value == pytest.approx(log_probability(rows, len(start), rest), abs=1e-4)
        assert greedy == (rows[len(start) - 1 : -1].argmax(-1).tolist() == rest)


def test_steered_generations_are_those_of_the_library_also_sampled(embedded, happy) -> None:
    plan = sm.Add(happy, 2.0, layers=8)
    prompts = ["I think the movie was", "The day was"]
    model = SteeredLM(embedded, plan, seed=7)
    plain = {"until": ["."], "max_gen_toks": 6}
    found = model.generate_until(asked("generate_until", *((prompt, plain) for prompt in prompts)))
    assert found == [embedded.generate(p, steer=plan, max_new_tokens=6, stop=".") for p in prompts]
    drawn = {"until": ["."], "max_gen_toks": 6, "do_sample": True, "temperature": 1.5, "top_p": 0.9}
    requests = asked("generate_until", *((prompt, drawn) for prompt in prompts))
    first = model.generate_until(requests)
    assert first == model.generate_until(requests)
    assert first == SteeredLM(embedded, plan, seed=7, batch_size=1).generate_until(requests)


def tasks(tmp_path: Path, *names: str) -> list[dict[str, Any]]:
    """The task files of this folder, told where their data is."""
    found = []
    for name in names:
        task = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        found.append(task | {"dataset_kwargs": {"data_files": str(FOLDER / "words.jsonl"), "cache_dir": str(tmp_path)}})
    return found


def run(model: Any, tmp_path: Path, *names: str, **options: Any) -> dict[str, dict[str, float]]:
    manager = TaskManager(include_defaults=False)  # the harness' own tasks are thousands of files to look through
    found = lm_eval.simple_evaluate(
        model=model, tasks=tasks(tmp_path, *names), task_manager=manager, bootstrap_iters=0, **options
    )
    return found["results"]


def test_tasks_run_steered_and_unsteered(embedded, happy, theirs, tmp_path) -> None:
    names = ("words", "mood", "text")
    base, own = run(SteeredLM(embedded), tmp_path, *names), run(theirs, tmp_path, *names)
    for task, figures in own.items():
        for name, value in figures.items():
            if isinstance(value, float):
                assert base[task][name] == pytest.approx(value, rel=1e-4), (task, name)
    up = run(SteeredLM(embedded, sm.Add(happy, 2.0, layers=8)), tmp_path, *names)
    down = run(SteeredLM(embedded, sm.Add(happy, -2.0, layers=8)), tmp_path, "words")
    assert up["words_choice"]["acc,none"] == base["words_choice"]["acc,none"] == 1
    assert down["words_choice"]["acc,none"] == 0  # what no unsteered model gives
    assert up["text_rolling"]["bits_per_byte,none"] != base["text_rolling"]["bits_per_byte,none"]


def test_it_is_registered_and_takes_a_string_of_arguments(happy, tmp_path) -> None:
    assert get_model("steersman") is SteeredLM
    path = sm.Plan(sm.Add(happy, -2.0, layers=8)).save(tmp_path / "plan.safetensors")
    found = run("steersman", tmp_path, "words", model_args=f"pretrained=demo,plan={path}", batch_size=4)
    assert found["words_choice"]["acc,none"] == 0  # unsteered it is right about all


def test_what_cannot_be_is_refused(embedded, gpt2) -> None:
    with pytest.raises(MismatchError):
        SteeredLM(gpt2, sm.Add(torch.ones(7), layers=1))
    with pytest.raises(UnsupportedError, match="max_gen_toks"):
        SteeredLM(embedded).generate_until(asked("generate_until", ("The day", {"max_gen_toks": 300})))
    info = SteeredLM(embedded, sm.Add(demo.vector("happy", embedded), layers=8)).get_model_info()
    assert info["plan"]
    assert info["name"] == "demo"
