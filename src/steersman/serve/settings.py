"""How a server is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError

MIB = 1024 * 1024
#: Names under which a server that listens here only may be addressed.
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Limits:
    """What requests may take.

    Attributes:
        body, upload: bytes of a request, and of an uploaded vector.
        batch: rows that are generated together.
        queue: rows that may wait; more are refused with 429.
        new_tokens: of one row.
        rows: of one request: prompts times choices, twice that with a baseline.
        interventions: of one plan.
        strength: the largest absolute strength.
        prompt_tokens: padded tokens of the prompts that are run at once; a longer prompt is run alone.
        jobs: that may wait.
        timeout: seconds from a request to the end of its answer.
        interval: seconds between two chunks of a stream, at least; tokens that are faster travel together.
        body_seconds, header_seconds: that a client may take to send a request.
        connections: open at once.
    """

    body: int = 2 * MIB
    upload: int = 64 * MIB
    batch: int = 32
    queue: int = 256
    new_tokens: int = 4096
    rows: int = 64
    interventions: int = 16
    strength: float = 1000.0
    prompt_tokens: int = 8192
    jobs: int = 64
    timeout: float = 120.0
    interval: float = 0.025
    body_seconds: float = 30.0
    header_seconds: float = 10.0
    connections: int = 1024


@dataclass(frozen=True)
class Settings:
    """Where a server listens, whom it answers, and where it keeps things.

    Attributes:
        folder: of vectors, presets and jobs.
        host, port: where it listens.
        api_key: whoever has it may generate and read; None lets everybody who reaches the server.
        admin_key: whoever has it may also change vectors and presets and start jobs. Without it, nobody may over a
            server with an ``api_key``, except the page.
        hosts: names under which the server may be addressed, beside ``host``.
        ui: serve the page.
        name: of the model, in requests.
        limits: see :class:`Limits`.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    admin_key: str | None = None
    hosts: tuple[str, ...] = ()
    ui: bool = False
    name: str = "model"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.api_key:
            raise DataError(
                f"a server on {self.host} can be reached from other machines, and has no key; set an API key, or "
                "listen on 127.0.0.1"
            )
        for name in ("api_key", "admin_key"):
            value = getattr(self, name)
            if value is not None and (len(value) < 8 or not value.isascii() or not value.isprintable()):
                raise DataError(f"the {name.replace('_', ' ')} must be at least 8 printable ASCII characters")

    @property
    def addressed(self) -> tuple[str, ...]:
        """Every name that a request's Host header may have, without the port."""
        anywhere = ("0.0.0.0", "::")
        own = () if self.host in anywhere else (self.host,)
        return (*LOOPBACK, *own, *self.hosts)
