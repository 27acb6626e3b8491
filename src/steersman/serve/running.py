"""Listening: uvicorn, with a limit on how slowly a request may begin."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..model import SteeringModel
from .app import create_app
from .settings import Settings

#: Bytes of the head of a request.
HEAD = 32 * 1024


class PromptProtocol(H11Protocol):
    """HTTP whose clients have to send the head of a request within a time; uvicorn waits for ever."""

    seconds = 10.0
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """It says something: the clock runs from the first byte of a head to its end."""
        if self._due is None and not self._answering:
            self._arm()
        super().data_received(data)
        if self._answering:
            self._disarm()

    @property
    def _answering(self) -> bool:
        cycle: Any = self.cycle  # none before the first request
        return cycle is not None and not cycle.response_complete

    def _arm(self) -> None:
        self._due = self.loop.call_later(self.seconds, self._late)

    def _disarm(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _late(self) -> None:
        self._due = None
        if not self._answering and not self.transport.is_closing():
            self.transport.close()

    def on_response_complete(self) -> None:
        """An answer is out; uvicorn's own timer closes connections that stay idle."""
        self._disarm()
        super().on_response_complete()


def server(app: FastAPI, settings: Settings, **options: Any) -> uvicorn.Server:
    """A server that is not running yet. Its options are uvicorn's."""
    protocol = type("_Protocol", (PromptProtocol,), {"seconds": settings.limits.header_seconds})
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, http=protocol, ws="none", lifespan="on", log_level="warning",
        access_log=False, limit_concurrency=settings.limits.connections, backlog=512, timeout_keep_alive=15,
        timeout_graceful_shutdown=5, server_header=False, date_header=False, h11_max_incomplete_event_size=HEAD,
        **options,
    )  # fmt: skip
    return uvicorn.Server(config)


def bound(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say, so that it is known to before anything is printed.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sends at once, without waiting for acknowledgements, only on what it is told to be TCP
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((settings.host, settings.port))
        found.listen(512)
    except OSError:
        found.close()
        raise
    return found


def settle() -> None:
    """Keep the garbage collector from going through all that is loaded, which stops every stream for a while."""
    gc.collect()
    gc.freeze()


def run(app: FastAPI, settings: Settings, listening: socket.socket | None = None) -> None:
    """Serve until interrupted; the process is the server's."""
    settle()
    server(app, settings).run(sockets=[listening or bound(settings)])


@contextmanager
def background(model: SteeringModel, settings: Settings) -> Generator[str]:
    """Serve a model in a thread while the context is open, as in a notebook; gives the URL. Port 0 finds a free one.

    Args:
        model: the model. Its generation belongs to the server meanwhile; calls with ``steer=`` may run beside it.
        settings: see :class:`Settings`.
    """
    listening = bound(settings)
    own = replace(settings, port=listening.getsockname()[1])
    with in_thread(server(create_app(model, own), own), listening):
        yield f"http://{own.host}:{own.port}"


@contextmanager
def in_thread(made: uvicorn.Server, listening: socket.socket) -> Generator[None]:
    """Run a server in a thread while the context is open.

    Raises:
        RuntimeError: it ended before it had begun.
    """
    thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]}, name="steersman-server", daemon=True)
    thread.start()
    try:
        while not made.started:
            if not thread.is_alive():
                raise RuntimeError("the server ended before it had begun; its log says why")
            time.sleep(0.01)
        yield
    finally:
        made.should_exit = True
        thread.join(30)
