"""Several threads, one model: calls run side by side, contexts hold for the model, streams end when told."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tests.model.running import PROMPTS, hook_count, inputs, steering_model, trace, vector
from transformers import TextIteratorStreamer

import steersman as sm
from steersman.errors import BusyError, MismatchError, PromptError


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads that change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def side_by_side(works: list[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(work) for work in works]]


@pytest.mark.usefixtures("hurried")
def test_calls_with_different_plans_run_side_by_side_as_if_alone() -> None:
    model = steering_model("gpt2")
    gate = sm.When(vector(model, 5), 1, above=-2.0)
    plans: list[Any] = [
        None,
        sm.Add(vector(model), layers=1),
        sm.Ablate(vector(model, 1)),
        sm.Add(vector(model, 2), layers=0, when=gate),
    ]
    alone = [trace(model, PROMPTS, plan, new=8).logits for plan in plans]
    for _ in range(3):
        together = side_by_side([lambda plan=plan: trace(model, PROMPTS, plan, new=8).logits for plan in plans])
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert hook_count(model.hf) == 0


def test_a_context_and_a_call_in_another_thread_add_up() -> None:
    model = steering_model("gpt2")
    a, b = sm.Add(vector(model), layers=1), sm.Add(vector(model, 1), layers=2)
    expected = model.generate(PROMPTS, steer=sm.Plan([a, b]), max_new_tokens=5)
    with model.steer(a):
        (found,) = side_by_side([lambda: model.generate(PROMPTS, steer=b, max_new_tokens=5)])
    assert found == expected


def test_a_generation_thread_started_inside_a_context_is_steered() -> None:
    model = steering_model("gpt2")
    plan = sm.Add(vector(model), layers=1)
    expected = model.generate(PROMPTS[0], steer=plan, max_new_tokens=8)
    assert expected != model.generate(PROMPTS[0], max_new_tokens=8)
    streamer = TextIteratorStreamer(model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    with model.steer(plan):
        settings = {"max_new_tokens": 8, "pad_token_id": 1, "streamer": streamer}
        thread = threading.Thread(target=model.hf.generate, kwargs={**inputs(model, PROMPTS[:1]), **settings})
        thread.start()
        assert "".join(streamer) == expected
        thread.join()


def test_a_second_thread_that_enters_a_context_is_refused_and_may_come_back() -> None:
    model = steering_model("gpt2")

    def enter() -> str:
        with model.steer(sm.Add(vector(model, 1), layers=2)):
            return model.generate(PROMPTS[0], max_new_tokens=2)

    with model.steer(sm.Add(vector(model), layers=1)):
        with pytest.raises(BusyError, match="is being steered by another thread; pass steer= to generate"):
            side_by_side([enter])
        with model.steer(sm.Add(vector(model), layers=2)):
            pass
    assert side_by_side([enter]) == [enter()]
    assert hook_count(model.hf) == 0


@pytest.mark.usefixtures("hurried")
def test_edited_models_may_be_steered_in_a_thread_each() -> None:
    model = steering_model("gpt2")
    edits = [model.edit(sm.Add(vector(model, n), layers=1)) for n in range(3)]

    def run(edited: sm.SteeringModel) -> list[str]:
        with edited.steer(sm.Add(vector(model, 9), layers=2)):
            ids = edited.hf.generate(**inputs(model, PROMPTS), max_new_tokens=6, pad_token_id=1)
            return [*edited.generate(PROMPTS, max_new_tokens=6), str(ids.tolist())]

    alone = [run(edited) for edited in edits]
    assert side_by_side([lambda edited=edited: run(edited) for edited in edits]) == alone
    assert len({str(texts) for texts in alone}) == 3


# -- streams ---------------------------------------------------------------------------------------------------------


def streaming_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "steersman-stream"]


@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "seed": 3, "temperature": 1.5}, {"stop": ["wasY"]}])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_stream_is_the_generation_in_pieces(family: str, settings: dict[str, Any]) -> None:
    model = steering_model(family)
    plan = sm.Add(vector(model), 0.3, layers=1)
    pieces = list(model.stream(PROMPTS[0], steer=plan, max_new_tokens=16, **settings))
    assert "".join(pieces) == model.generate(PROMPTS[0], steer=plan, max_new_tokens=16, **settings)
    assert not streaming_threads()


def test_a_stop_text_is_found_across_pieces_and_never_shown() -> None:
    model = steering_model("llama")
    whole = model.generate(PROMPTS[0], max_new_tokens=16)
    for start, end in ((2, 5), (0, 3), (6, 12)):
        stop = whole[start:end]
        expected = whole[: whole.find(stop)]
        assert model.generate(PROMPTS[0], max_new_tokens=16, stop=stop) == expected
        assert "".join(model.stream(PROMPTS[0], max_new_tokens=16, stop=[stop, "never there"])) == expected
    assert not streaming_threads()


def test_closing_a_stream_ends_its_thread_and_takes_the_hooks_off() -> None:
    model = steering_model("gpt2")
    stream = model.stream(PROMPTS[0], steer=sm.Add(vector(model), layers=1), max_new_tokens=200)
    next(stream)
    assert streaming_threads()
    stream.close()
    assert not streaming_threads()
    assert hook_count(model.hf) == 0


def test_what_is_wrong_with_a_stream_is_said_before_its_first_piece_and_later_errors_reach_the_reader() -> None:
    model = steering_model("gpt2")
    with pytest.raises(MismatchError, match="it must be"):
        model.stream(PROMPTS[0], steer=sm.Add(torch.ones(5), layers=1))
    with pytest.raises(PromptError, match="takes one prompt"):
        model.stream(PROMPTS)
    with pytest.raises(PromptError, match="beams"):
        model.stream(PROMPTS[0], num_beams=2)

    def fail(h: torch.Tensor, where: Any) -> torch.Tensor:
        if where.positions[0] > 28:
            raise ZeroDivisionError("inside the model")
        return h

    stream = model.stream(PROMPTS[0], steer=sm.Custom(fail, layers=1, site="resid_post", positions="generation"))
    with pytest.raises(ZeroDivisionError, match="inside the model"):
        list(stream)
    assert not streaming_threads()
    assert hook_count(model.hf) == 0


def test_a_stream_started_in_a_context_stays_steered_after_it_was_left() -> None:
    model = steering_model("gpt2")
    plan = sm.Add(vector(model), layers=1)
    with model.steer(plan):
        stream = model.stream(PROMPTS[0], max_new_tokens=6)
    assert "".join(stream) == model.generate(PROMPTS[0], steer=plan, max_new_tokens=6)
