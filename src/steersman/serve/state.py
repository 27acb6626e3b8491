"""What the routes of one server share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

from fastapi import Request

from ..model import SteeringModel
from .metrics import Metrics
from .orders import Orders
from .scheduler import Scheduler
from .settings import Settings
from .steering import Resolver
from .stream import Piece, Stream
from .vectors import Presets, Vectors


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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._warm()

    def _warm(self) -> None:
        """Encode once: a tokenizer changes its settings on first use, which two threads must not do at once."""
        self.model.tokens.encode("warm")

    def begin(self) -> None:
        """Start the engine; called in the loop that answers."""
        self._loop = asyncio.get_running_loop()
        self.scheduler.start()

    def end(self) -> None:
        """Stop everything."""
        self.scheduler.stop()

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
