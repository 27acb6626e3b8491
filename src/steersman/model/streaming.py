"""Text as it is generated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Queue
from typing import Any

from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from .generation import Generation
from .tokens import Tokens

#: Tokens decoded together with new ones, for what their text depends on.
_OVERLAP = 8


class _Stop(StoppingCriteria):
    """Ends a generation whose reader has gone."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return input_ids.new_full((input_ids.shape[0],), self.event.is_set(), dtype=bool)


class _Pieces(BaseStreamer):
    """The text of one row as it grows, decoded together with the end of its prompt.

    Decoded on their own, the first token would lose its space with some tokenizers, and a character that spans tokens
    would come out broken. What is not yet a whole character is held back.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.queue: Queue[str | None] = Queue()
        self._tokens = tokens
        self._before: list[int] | None = None  # tokens whose text is out
        self._new: list[int] = []

    def put(self, value: Any) -> None:
        """Called with the prompt, then with each token."""
        ids: list[int] = value.flatten().tolist()
        if self._before is None:
            self._before = ids[-_OVERLAP:]
            return
        self._new += ids
        text = self._tokens.decode_after(self._before, self._new)
        if text and not text.endswith("\ufffd"):
            self._send(text)

    def end(self) -> None:
        """Called once, when the generation is over or has failed."""
        if self._before is not None and self._new:
            self._send(self._tokens.decode_after(self._before, self._new))
        self.queue.put(None)

    def _send(self, text: str) -> None:
        assert self._before is not None
        self.queue.put(text)
        self._before, self._new = [*self._before, *self._new][-_OVERLAP:], []

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
