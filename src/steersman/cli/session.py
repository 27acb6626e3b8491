"""One run of a command: its shared settings, its two consoles, its model, and the record it leaves."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .console import error_console, result_console

if TYPE_CHECKING:
    from rich.console import Console

    from ..model import SteeringModel

_NOISY = ("transformers", "torch", "torchao", "huggingface_hub", "accelerate", "httpx", "peft")


@dataclass
class Run:
    """What a command works with.

    Attributes:
        command: its name, such as ``generate`` or ``vectors ls``.
        settings: every parameter as resolved from flags, variables, the configuration file and defaults.
        steering, sampling: the groups of options of commands that have them.
        out, err: consoles on stdout and stderr.
        inputs: files that were read, for the record.
    """

    command: str
    settings: dict[str, Any]
    steering: dict[str, Any]
    sampling: dict[str, Any]
    json_: bool = False
    dry_run: bool = False
    quiet: bool = False
    verbose: bool = False
    seed: int = 0
    device: str | None = None
    dtype: str | None = None
    offline: bool = False
    config: Path | None = None
    inputs: list[Path] = field(default_factory=list[Path])
    started: float = field(default_factory=time.time)
    model: SteeringModel | None = None

    def __post_init__(self) -> None:
        self.out: Console = result_console()
        self.err: Console = error_console()
        self._clock = time.perf_counter()

    def __enter__(self) -> Run:
        self._levels = {name: logging.getLogger(name).level for name in _NOISY}
        self._log = _Notes(self)
        logging.getLogger("steersman").addHandler(self._log)
        if self.offline:
            go_offline()
        if not self.verbose:
            os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
            for name in _NOISY:
                logging.getLogger(name).setLevel(logging.ERROR)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("steersman").removeHandler(self._log)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self._clock

    # -- speaking -------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """A line of the result, as it stands."""
        self.out.print(text, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line on stderr, unless quiet."""
        if not self.quiet:
            self.err.print(text, style="dim", markup=False, soft_wrap=True)

    @contextmanager
    def working(self, text: str) -> Generator[Callable[[str], None]]:
        """Show on a terminal's stderr that something is going on; call what it gives to say what comes next."""
        if self.quiet or not self.err.file.isatty():
            yield lambda text: None
            return
        with self.err.status(text, spinner="dots") as status:
            yield status.update

    def emit(self, schema: str, document: Mapping[str, Any]) -> None:
        """Print the one JSON document of ``--json``."""
        self.out.file.write(as_json(schema, document) + "\n")

    # -- acting ---------------------------------------------------------------------------------------------------

    def load(self, name: str) -> SteeringModel:
        """The model, on the device and in the precision asked for; the one that is loaded already, if there is one."""
        from .models import load

        if self.model is not None and self.model.shape.name == name:
            return self.model
        with self.working(f"loading {name}"):
            self.model = load(name, device=self.device, dtype=self.dtype, progress=not self.quiet)
        return self.model

    def record(self, *outputs: Path, details: Mapping[str, Any] | None = None) -> Path:
        """Write ``run.json`` beside the outputs; returns its path."""
        from .record import write

        return write(self, outputs, details or {})


class _Notes(logging.Handler):
    """The library's own warnings, as notes."""

    def __init__(self, run: Run) -> None:
        super().__init__(logging.WARNING)
        self.run = run

    def emit(self, record: logging.LogRecord) -> None:
        self.run.note(f"note: {record.getMessage()}")


def go_offline() -> None:
    """Tell Hugging Face's libraries, which read this once, to leave the network alone."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[name] = "1"


def records(frame: Any) -> list[dict[str, Any]]:
    """The rows of a pandas frame as values; what is missing becomes null."""
    values = frame.astype(object)
    return values.where(values.notna(), None).to_dict("records")


def as_json(schema: str, document: Mapping[str, Any]) -> str:
    """A document with its schema first; numbers that are not finite become null."""
    return json.dumps(
        {"schema": schema, **cast("dict[str, Any]", _finite(document))}, indent=2, ensure_ascii=False, default=str
    )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("list[Any]", value)]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
