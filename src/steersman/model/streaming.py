"""Text as it is generated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Queue
from typing import Any

from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from .generation import Generation
from .growing import Growing, UntilStop
from .tokens import Tokens


class _Stop(StoppingCriteria):
    """Ends a generation whose reader has gone."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return input_ids.new_full((input_ids.shape[0],), self.event.is_set(), dtype=bool)


class _Pieces(BaseStreamer):
    """The text of one row as it grows."""

    def __init__(self, tokens: Tokens) -> None:
        self.queue: Queue[str | None] = Queue()
        self._tokens = tokens
        self._text: Growing | None = None

    def put(self, value: Any) -> None:
        """Called with the prompt, then with each token."""
        ids: list[int] = value.flatten().tolist()
        if self._text is None:
            self._text = Growing(self._tokens, ids)
        elif text := self._text.add(ids):
            self.queue.put(text)

    def end(self) -> None:
        """Called once, when the generation is over or has failed."""
        if self._text is not None and (text := self._text.rest()):
            self.queue.put(text)
        self.queue.put(None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.queue.get, None)


def pieces(run: Callable[[Any, Any], None], tokens: Tokens, own: Generation) -> Iterator[str]:
    """The text of ``run(streamer, stopping_criteria)``, which generates in a thread of its own.

    An error in that thread is raised here. Closing the iterator ends the generation and waits for it.
    """
    streamer = _Pieces(tokens)
    stop = _Stop()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run(streamer, [*(own.options.get("stopping_criteria") or ()), stop])
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


def _until_stop(streamer: Iterable[str], stops: list[str]) -> Iterator[str]:
    text = UntilStop(stops)
    for piece in streamer:
        if ready := text.add(piece):
            yield ready
        if text.stopped:
            return
    if held := text.rest():
        yield held
