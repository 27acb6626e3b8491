"""Text as it is generated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from .generation import Generation


class _Stop(StoppingCriteria):
    """Ends a generation whose reader has gone."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return input_ids.new_full((input_ids.shape[0],), self.event.is_set(), dtype=bool)


def pieces(run: Callable[[Any, Any], None], tokenizer: Any, own: Generation) -> Iterator[str]:
    """The text of ``run(streamer, stopping_criteria)``, which generates in a thread of its own.

    An error in that thread is raised here. Closing the iterator ends the generation and waits for it.
    """
    streamer: Any = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    stop = _Stop()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run(streamer, StoppingCriteriaList([stop]))
        except BaseException as error:
            failures.append(error)
            streamer.end()

    thread = threading.Thread(target=work, name="steersman-stream", daemon=True)
    thread.start()
    try:
        yield from _until_stop(streamer, own.stops)
        stop.event.set()
        thread.join()
        if failures:
            raise failures[0]
    finally:
        stop.event.set()
        thread.join()


def _until_stop(streamer: Iterator[str], stops: list[str]) -> Iterator[str]:
    """Pieces of text up to the first stop string, which may span pieces: what could begin one is held back."""
    held = ""
    longest = max((len(stop) for stop in stops), default=0)
    for piece in streamer:
        held += piece
        ends = [at for at in (held.find(stop) for stop in stops) if at >= 0]
        if ends:
            yield held[: min(ends)]
            return
        ready = len(held) - max(longest - 1, 0)
        if ready > 0:
            yield held[:ready]
            held = held[ready:]
    if held:
        yield held
