"""What the routes of one server share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from fastapi import Request

from ..model import SteeringModel
from .errors import ApiError
from .jobs import Jobs
from .metrics import Metrics
from .orders import Orders
from .pairs import PairStore
from .scheduler import Scheduler
from .settings import Settings
from .steering import Resolver
from .stream import Piece, Stream
from .vectors import Presets, Vectors
from .work import kinds

Found = TypeVar("Found")
#: Analyses that may wait for the one under way.
WAITING = 32


class State:
    """A model, its engine's thread, and the folder."""

    def __init__(self, model: SteeringModel, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.started = int(time.time())
        self.metrics = Metrics()
        self.vectors = Vectors(settings.folder, model.shape)
        self.presets = Presets(settings.folder / "presets")
        self.resolver = Resolver(model, self.vectors, self.presets, settings.name, settings.limits)
        self.orders = Orders(model, self.resolver, settings.limits)
        self.scheduler = Scheduler(model, settings.limits, self.metrics, self._post)
        self.pairs = PairStore(settings.folder / "pairs")
        self.jobs = Jobs(settings.folder / "jobs", kinds(self), settings.limits.jobs, self.metrics)
        self._analyst = ThreadPoolExecutor(1, "steersman-analysis")
        self._analyses = 0
        #: the examples read last: digest of the vector, activations of either side
        self.read_last: tuple[str, Any, Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._warm()

    def _warm(self) -> None:
        """Encode once: a tokenizer changes its settings on first use, which two threads must not do at once."""
        self.model.tokens.encode("warm")

    def begin(self) -> None:
        """Start the engine; called in the loop that answers."""
        self._loop = asyncio.get_running_loop()
        self.scheduler.start()
        self.jobs.start()

    def end(self) -> None:
        """Stop everything."""
        self._analyst.shutdown(wait=False, cancel_futures=True)
        self.jobs.stop()
        self.scheduler.stop()

    async def analyse(self, work: Callable[[], Found]) -> Found:
        """Do something with the model that is no generation, in a thread of its own, one at a time.

        Raises:
            ApiError: 429 when too many wait, 504 when it takes too long.
        """
        if self._analyses >= WAITING:
            raise ApiError(429, "queue_full", "too many analyses are waiting; try again later",
                           headers={"Retry-After": "5"})  # fmt: skip
        self._analyses += 1
        doing = asyncio.get_running_loop().run_in_executor(self._analyst, work)
        doing.add_done_callback(self._analysed)
        try:
            async with asyncio.timeout(self.settings.limits.timeout):
                return await doing
        except TimeoutError:
            raise ApiError(
                504, "timeout", f"the analysis took more than {self.settings.limits.timeout:g} seconds"
            ) from None

    def _analysed(self, doing: Any) -> None:
        self._analyses -= 1

    def _post(self, news: Sequence[tuple[Stream, Piece]]) -> None:
        if not news or self._loop is None or self._loop.is_closed():
            return
        try:
            self._loop.call_soon_threadsafe(_deliver, list(news))
        except RuntimeError:  # the loop ended meanwhile: nobody listens
            return


def _deliver(news: list[tuple[Stream, Piece]]) -> None:
    for stream, piece in news:
        stream.deliver(piece)


def state_of(request: Any) -> State:
    """The state of the server that a request came to."""
    return cast(State, cast(Request, request).app.state.steersman)
