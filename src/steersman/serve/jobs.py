"""Long work: one job at a time, in files, so that it outlives its server."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..files.atomic import replacing
from .errors import ApiError, is_expected, missing, of_library
from .metrics import Metrics
from .worker import Worker

log = logging.getLogger(__name__)

STATUS = ("queued", "running", "succeeded", "failed", "cancelled")
#: A job at which the server ended so often is not tried again: it may be what ends it.
ATTEMPTS = 3
JOB_FILE = "job.json"
_ID = re.compile(r"job-[0-9a-f]{11,16}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Job:
    """A job as it stands.

    Attributes:
        id, kind: what it is called, and what it does.
        request: what was asked for.
        status: one of :data:`STATUS`.
        created, started, finished: seconds since 1970.
        attempts: how often it was begun; more than once if its server ended meanwhile.
        progress: ``{"what", "done", "of"}``, or None.
        result: what it found, in short.
        error: why it failed.
    """

    id: str
    kind: str
    request: Mapping[str, Any]
    status: str = "queued"
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    attempts: int = 0
    progress: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in ("succeeded", "failed", "cancelled")

    def document(self, *, brief: bool = False) -> dict[str, Any]:
        """As JSON-able values; in brief without request and result."""
        found = {"object": "job", **asdict(self)}
        return {k: v for k, v in found.items() if not brief or k not in ("request", "result")}


class CancelledError(Exception):
    """Ends the work of a job that nobody wants any longer, or whose server is ending."""


@dataclass(frozen=True, eq=False)
class Context:
    """What the work of a job is given.

    Attributes:
        request: what was asked for.
        folder: of the job, for what it keeps.
        progress: to be called with (what, done, of), often: it is where a cancelled job ends.
    """

    request: Mapping[str, Any]
    folder: Path
    progress: Callable[[str, int, int], None]


#: The work of a kind of job: from its context to its result, JSON-able.
Work = Callable[[Context], Mapping[str, Any]]


@dataclass(eq=False)
class _Known:
    """A job and who listens to it."""

    job: Job
    cancelled: bool = False
    listeners: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = field(default_factory=list[Any])


class Jobs(Worker):
    """The jobs of a server. Its methods may be called from any thread; starting it takes up what an earlier one left.

    Args:
        folder: one folder for each job.
        kinds: what there is to do, by name.
        limit: jobs that may wait.
        metrics: to be kept.
    """

    def __init__(self, folder: Path, kinds: Mapping[str, Work], limit: int, metrics: Metrics) -> None:
        super().__init__("steersman-jobs")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._kinds, self._limit, self._metrics = folder, kinds, limit, metrics
        self._jobs: dict[str, _Known] = {job.id: _Known(job) for job in _read(folder)}
        self._queue = deque(known.job.id for known in self._jobs.values() if not known.job.ended)

    def stop(self, timeout: float = 10.0) -> None:
        """End at the next sign of progress; the job under way is taken up again by the next server."""
        super().stop(timeout)
        for known in list(self._jobs.values()):
            if known.job.status == "running":  # it gave no sign in time, and ends with the process
                self._become(known, status="queued", attempts=known.job.attempts - 1)

    # -- asking -----------------------------------------------------------------------------------------------------

    def submit(self, kind: str, request: Mapping[str, Any]) -> Job:
        """Put a job in the queue.

        Raises:
            ApiError: 429 when the queue is full.
        """
        with self._changed:
            if len(self._queue) >= self._limit:
                raise ApiError(429, "queue_full", f"{len(self._queue)} jobs are waiting; try again later",
                               headers={"Retry-After": "60"})  # fmt: skip
            now = time.time()
            job = Job(f"job-{int(now * 1000):011x}-{secrets.token_hex(4)}", kind, request, created=now)
            (self._folder / job.id).mkdir()
            self._jobs[job.id] = _Known(job)
            self._write(job)
            self._queue.append(job.id)
            self._changed.notify()
            return job

    def get(self, name: str) -> Job:
        """A job; ApiError 404 if there is none of that name."""
        with self._changed:
            return self._known(name).job

    def all(self) -> list[Job]:
        """Every job, the latest first."""
        with self._changed:
            return sorted((known.job for known in self._jobs.values()), key=lambda job: job.id, reverse=True)

    def folder(self, name: str) -> Path:
        """Where a job keeps things."""
        return self._folder / self.get(name).id

    def finished(self, name: str, kind: str) -> Job:
        """A job of a kind that has succeeded; ApiError 404 or 409 otherwise."""
        job = self.get(name)
        if job.kind != kind:
            raise ApiError(400, "invalid_value", f"{name} is a job of kind {job.kind}, not {kind}")
        if job.status != "succeeded":
            raise ApiError(409, "job_not_finished", f"{name} is {job.status}; wait until it has succeeded")
        return job

    def cancel(self, name: str) -> Job | None:
        """Cancel a job; of one that has ended, forget it and its files. Returns what is left of it."""
        with self._changed:
            known = self._known(name)
            if known.job.ended:
                del self._jobs[name]
                shutil.rmtree(self._folder / name, ignore_errors=True)
                return None
            known.cancelled = True
            if known.job.status == "queued":
                self._queue.remove(name)
                self._become(known, status="cancelled", finished=time.time())
            return known.job

    def listen(self, name: str) -> asyncio.Event:
        """An event of the running loop that is set whenever a job changes."""
        with self._changed:
            event = asyncio.Event()
            self._known(name).listeners.append((asyncio.get_running_loop(), event))
            return event

    def unlisten(self, name: str, event: asyncio.Event) -> None:
        """Listen no longer."""
        with self._changed:
            known = self._jobs.get(name)
            if known is not None:
                known.listeners = [item for item in known.listeners if item[1] is not event]

    def _known(self, name: str) -> _Known:
        if name not in self._jobs:
            raise missing("job", name, sorted(self._jobs, reverse=True))
        return self._jobs[name]

    # -- the thread of jobs -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                known = self._jobs[self._queue.popleft()]
                attempts = known.job.attempts + 1
                self._become(known, status="running", started=time.time(), attempts=attempts)
            self._do(known)

    def _do(self, known: _Known) -> None:
        job, now = known.job, time.time
        if job.attempts > ATTEMPTS:
            told = ApiError(500, "given_up", f"the server ended {ATTEMPTS} times while it was at this job")
            self._become(known, status="failed", finished=now(), error=told.body()["error"])
            return

        def progress(what: str, done: int, of: int) -> None:
            if known.cancelled or self._stopping:
                raise CancelledError
            self._become(known, write=False, progress={"what": what, "done": done, "of": of})

        try:
            work = self._kinds[job.kind]
            result = work(Context(job.request, self._folder / job.id, progress))
        except CancelledError:
            if known.cancelled:
                self._become(known, status="cancelled", finished=now())
            else:  # the server ends; it is no attempt that failed
                self._become(known, status="queued", attempts=job.attempts - 1)
        except Exception as error:
            if not is_expected(error):
                log.exception("job %s failed", job.id)
            told = error if isinstance(error, ApiError) else of_library(error)
            self._become(known, status="failed", finished=now(), error=told.body()["error"])
        else:
            self._become(known, status="succeeded", finished=now(), result=result)

    def _become(self, known: _Known, *, write: bool = True, **changes: Any) -> None:
        with self._changed:
            known.job = replace(known.job, **changes)
            if write:
                self._write(known.job)
            for loop, event in known.listeners:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)
            if not write:
                return
            counts: dict[str, int] = dict.fromkeys(STATUS, 0)
            for other in self._jobs.values():
                counts[other.job.status] += 1
        for status, count in counts.items():
            self._metrics.jobs.labels(status).set(count)

    def _write(self, job: Job) -> None:
        with replacing(self._folder / job.id / JOB_FILE) as temporary:
            temporary.write_text(json.dumps(asdict(job), default=str), encoding="utf-8")


def _read(folder: Path) -> list[Job]:
    """The jobs that an earlier server left, in the order they came; what cannot be read is passed over."""
    found: list[Job] = []
    for path in sorted(folder.glob(f"job-*/{JOB_FILE}")):
        try:
            job = Job(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s is damaged and passed over: %s", path, error)
            continue
        if _ID.fullmatch(job.id) and job.id == path.parent.name and job.status in STATUS:
            found.append(job if job.ended else replace(job, status="queued", progress=None))
    return found
