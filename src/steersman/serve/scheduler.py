"""The thread that owns the model: rows wait, share a batch, and leave it when they end or nobody wants them.

With caches that hold a key and a value for each token, rows join the batch at any step. Caches with sliding windows or
recurrent states cannot be put together; there, rows that wait join when the batch under way has ended.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from torch import Tensor

from ..model import SteeringModel
from ..model.decoding import Decoding
from .errors import ApiError, is_expected, of_library
from .metrics import Metrics
from .settings import Limits
from .stream import Piece, Stream
from .worker import Worker

log = logging.getLogger(__name__)

#: Seconds that the first row to arrive waits for others, so that they share its batch.
GATHER = 0.002
#: Called in the engine's thread with what streams have to say.
Post = Callable[[Sequence[tuple[Stream, Piece]]], None]


class Scheduler(Worker):
    """Runs streams. ``submit`` and ``cancel`` may be called from any thread.

    It ends after the step under way; what is under way or waiting then fails.

    Args:
        model: the model; its generation is this thread's alone.
        limits: how many rows at once, and how many may wait.
        metrics: to be kept.
        post: where pieces go.
    """

    def __init__(self, model: SteeringModel, limits: Limits, metrics: Metrics, post: Post) -> None:
        super().__init__("steersman-engine")
        self._model, self._limits, self._metrics, self._post = model, limits, metrics, post
        self._waiting: deque[Stream] = deque()
        self._live: list[Stream] = []
        self._seconds = 1.0  # that a row has taken lately
        self._begun: dict[Stream, float] = {}
        self._spoken = 0.0  # when the rows under way last told their readers

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive() and not self._stopping

    def submit(self, streams: Sequence[Stream]) -> None:
        """Put rows in the queue, all or none.

        Raises:
            ApiError: 429 when the queue is full; 503 when the server is ending.
        """
        with self._changed:
            if not self.alive:
                raise ApiError(503, "shutting_down", "the server is ending", headers={"Retry-After": "10"})
            if len(self._waiting) + len(streams) > self._limits.queue:
                self._metrics.refused.inc()
                raise ApiError(
                    429, "queue_full",
                    f"{len(self._waiting)} rows are waiting, and no more than {self._limits.queue} may; try again "
                    "later", headers={"Retry-After": str(self._patience())},
                )  # fmt: skip
            self._waiting.extend(streams)
            self._metrics.waiting.set(len(self._waiting))
            self._changed.notify()

    def cancel(self, streams: Sequence[Stream]) -> None:
        """Let go of rows that nobody wants any longer."""
        for stream in streams:
            stream.cancelled = True
        with self._changed:
            self._changed.notify()

    def _patience(self) -> int:
        """Seconds after which there may be room."""
        turns = math.ceil((len(self._waiting) + len(self._live)) / self._limits.batch)
        return min(max(math.ceil(self._seconds * turns), 1), 60)

    # -- the engine's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        decoding = Decoding(self._model)
        while self._wait(decoding):
            try:
                self._leave(decoding)
                fresh = self._admitted(decoding)
                if fresh:
                    self._join(decoding, fresh)
                if self._live:
                    self._step(decoding)
            except Exception as error:
                self._fail(decoding, error)
        decoding.clear()
        ending = ApiError(503, "shutting_down", "the server is ending")
        with self._changed:
            left, self._live = [*self._live, *self._waiting], []
            self._waiting.clear()
        self._post([(stream, Piece(error=ending)) for stream in left])

    def _wait(self, decoding: Decoding) -> bool:
        """Until there is something to do; False when it is to end."""
        with self._changed:
            idle = not self._live and not self._waiting
            while not (self._stopping or self._live or self._waiting):
                self._changed.wait()
            if idle and not self._stopping:
                self._changed.wait(GATHER)
            return not self._stopping

    def _leave(self, decoding: Decoding) -> None:
        """Let go of what was cancelled or has run out of time, waiting or not."""
        now = time.monotonic()
        with self._changed:
            late = [s for s in (*self._live, *self._waiting) if s.order.deadline <= now and not s.cancelled]
            kept = [s for s in self._waiting if not s.cancelled and s.order.deadline > now]
            if len(kept) < len(self._waiting):
                self._waiting = deque(kept)
                self._metrics.waiting.set(len(kept))
        gone = {s for s in self._live if s.cancelled} | set(late)
        if gone:
            self._keep(decoding, [place for place, s in enumerate(self._live) if s not in gone])
        if late:
            error = ApiError(504, "timeout", f"there was no answer within {self._limits.timeout:g} seconds")
            self._post([(stream, Piece(error=error)) for stream in late])

    def _keep(self, decoding: Decoding, places: list[int]) -> None:
        decoding.keep(places)
        self._live = [self._live[place] for place in places]
        self._metrics.running.set(len(self._live))

    def _admitted(self, decoding: Decoding) -> list[Stream]:
        """Rows that join now: as many as there is room for, in the order they came."""
        if not decoding.joinable:
            return []
        found: list[Stream] = []
        longest = 0
        with self._changed:
            while self._waiting and len(self._live) + len(found) < self._limits.batch:
                longest = max(longest, len(self._waiting[0].order.prompt))
                if found and longest * (len(found) + 1) > self._limits.prompt_tokens:
                    break
                found.append(self._waiting.popleft())
            self._metrics.waiting.set(len(self._waiting))
        return found

    def _join(self, decoding: Decoding, fresh: list[Stream]) -> None:
        now = time.monotonic()
        try:
            logits = decoding.join([s.order.prompt for s in fresh], [s.order.plan for s in fresh])
        except Exception as error:  # those that were there go on
            told = _told(error)
            self._post([(stream, Piece(error=told)) for stream in fresh])
            return
        self._begun |= dict.fromkeys(fresh, now)
        before = len(self._live)
        self._live = [*self._live, *fresh]
        self._metrics.batch(len(fresh), sum(len(s.order.prompt) for s in fresh))
        self._metrics.running.set(len(self._live))
        self._advance(decoding, list(range(before, len(self._live))), logits, speak=True)

    def _step(self, decoding: Decoding) -> None:
        logits = decoding.step([stream.tokens[-1] for stream in self._live])
        # All speak together, and not too often: every word is work for the thread that answers, with which this one
        # shares the interpreter.
        now = time.monotonic()
        speak = now - self._spoken >= self._limits.interval
        if speak:
            self._spoken = now
        self._advance(decoding, list(range(len(self._live))), logits, speak)

    def _advance(self, decoding: Decoding, places: list[int], logits: Tensor, speak: bool) -> None:
        """Give each of these rows its next token, and tell their readers if they are to speak, or begin or end."""
        likeliest: list[int] = logits.argmax(-1).tolist()
        news: list[tuple[Stream, Piece]] = []
        ended: set[int] = set()
        for number, place in enumerate(places):
            stream = self._live[place]
            piece = stream.advance(likeliest[number], None if stream.plain else logits[number], speak)
            if piece is None:
                continue
            if piece.finish:
                ended.add(place)
                piece = Piece(piece.text, piece.tokens, piece.finish, dict(decoding.rows[place].gates))
                taken = time.monotonic() - self._begun.pop(stream, time.monotonic())
                self._seconds += 0.1 * (taken - self._seconds)
            news.append((stream, piece))
        self._metrics.produced.inc(len(places))
        self._post(news)
        if ended:
            self._keep(decoding, [place for place in range(len(self._live)) if place not in ended])

    def _fail(self, decoding: Decoding, error: Exception) -> None:
        """All rows of the batch fail; those that wait have another try in a new one."""
        lost, self._live = self._live, []
        decoding.clear()
        self._metrics.running.set(0)
        told = _told(error)
        self._post([(stream, Piece(error=told)) for stream in lost])


def _told(error: Exception) -> ApiError:
    if not is_expected(error):
        log.exception("a batch failed")
    _free()
    return of_library(error)


def _free() -> None:
    """Give back what the device's allocator holds on to, after it ran out."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
