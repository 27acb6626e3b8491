"""Interrupted work, taken up again where it stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import __version__
from ..errors import FileFormatError
from ..files import container
from ..model import SteeringModel
from .reading import Item
from .work import Work

log = logging.getLogger(__name__)

#: Seconds between two savings.
EVERY = 30.0
KIND = "work in progress"


class Stored(Protocol):
    """A gather that can be put into a file."""

    def state(self) -> dict[str, Tensor]:
        """All of it, as tensors."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Back from :meth:`state`."""
        ...


@contextmanager
def resumed(
    path: str | Path | None, digest: str, gather: Stored, items: Sequence[Item]
) -> Generator[tuple[list[Item], Callable[[Sequence[int]], None]]]:
    """The items that are left to do, and a function to call with the numbers of those that were gathered.

    What was gathered is saved now and then, and when the work ends early for whatever reason; a later call with the
    same digest goes on from there. When the work is complete, the file is removed.

    Args:
        path: of the file; None for none.
        digest: of the work; a file of other work is not used, but overwritten.
        gather: what is filled.
        items: all items.
    """
    if path is None:
        yield list(items), lambda numbers: None
        return
    file = Path(path)
    finished = _load(file, digest, gather)
    if finished:
        log.warning("going on from %s: %d of %d texts are done", file, len(finished), len(items))
    last = time.monotonic()

    def save() -> None:
        state = gather.state() | {"done": torch.tensor(sorted(finished), dtype=torch.float64)}
        container.write(file, KIND, state, {"digest": digest, "steersman": __version__})

    def done(numbers: Sequence[int]) -> None:
        nonlocal last
        finished.update(numbers)
        if time.monotonic() - last > EVERY:
            save()
            last = time.monotonic()

    try:
        yield [item for item in items if item.number not in finished], done
    except BaseException:
        if finished:
            save()
            log.warning("stopped with %d of %d texts done; %s takes it up again", len(finished), len(items), file)
        raise
    file.unlink(missing_ok=True)


def work_digest(model: SteeringModel, items: Sequence[Item], work: Work, more: Mapping[str, Any]) -> str:
    """What decides the rows that are read, and what is made of them.

    Of the weights, a fingerprint of the architecture and a few numbers of each parameter.
    """
    facts = {
        "model": model.shape.fingerprint, "layers": list(work.layers), "site": work.site, "average": work.average,
        "norms": sorted(work.norms), "plan": model.in_force(work.steer).digest, "more": dict(more),
    }  # fmt: skip
    found = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for item in items:
        found.update(repr((item.number, list(item.ids), list(item.read))).encode())
    for name, parameter in model.architecture.hf.named_parameters():
        found.update(name.encode())
        if parameter.device.type != "meta":
            few = parameter.detach().reshape(-1)[:: max(1, parameter.numel() // 8)][:8]
            found.update(repr(few.double().tolist() if few.is_floating_point() else few.tolist()).encode())
    return found.hexdigest()


def _load(file: Path, digest: str, gather: Stored) -> set[int]:
    """Fill a gather with what a file holds; the numbers of the items in it."""
    if not file.is_file():
        return set()
    try:
        state, document = container.read(file, KIND)
    except FileFormatError as error:
        raise FileFormatError(f"{error}; it is to hold work in progress: delete it, or name another file") from None
    if document.get("digest") != digest:
        log.warning("%s holds the beginning of other work (another model, texts or settings): starting anew", file)
        return set()
    finished = {int(number) for number in state.pop("done").tolist()}
    gather.restore(state)
    return finished
