"""Reading activations at sites while the model runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

from torch import Tensor, nn

from ..architecture import Architecture

Place = tuple[str, int]


@contextmanager
def read_sites(architecture: Architecture, places: Iterable[Place], columns: int) -> Generator[dict[Place, Tensor]]:
    """Collect the activations at ``(component, layer)`` places of the forward passes this thread makes inside.

    The mapping fills as the model runs: ``[rows, columns, width]``, a copy, steered if the pass is (a later pass
    overwrites an earlier one). Heads come flat; ``columns`` is the padded length of the batch.
    """
    found: dict[Place, Tensor] = {}

    def read(place: Place, value: Tensor) -> None:
        found[place] = value.reshape(-1, columns, value.shape[-1]).clone()

    with watch_sites(architecture, places, read):
        yield found


@contextmanager
def watch_sites(
    architecture: Architecture, places: Iterable[Place], see: Callable[[Place, Tensor], None]
) -> Generator[None]:
    """Call ``see(place, value)`` at each place of the forward passes that this thread makes inside.

    The value is the model's own tensor, its batch and sequence axes perhaps flattened into one: look, copy what is to
    be kept, change nothing.
    """
    me = threading.get_ident()

    def watcher(place: Place) -> Callable[[Tensor], None]:
        def watch(value: Tensor) -> None:
            if threading.get_ident() == me:
                see(place, value)

        return watch

    handles = [architecture.tap(*place).hook(watcher(place)) for place in places]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _StoppedError(Exception):
    """Ends a forward pass early; never leaves :func:`stop_after` or :func:`stop_at`."""


@contextmanager
def stop_after(architecture: Architecture, layer: int) -> Generator[None]:
    """Forward passes that this thread makes inside end when block ``layer`` has run; they return nothing."""
    me = threading.get_ident()

    def stop(module: nn.Module, args: object, output: object) -> None:
        if threading.get_ident() == me:
            raise _StoppedError

    handle = architecture.blocks[layer].register_forward_hook(stop)
    try:
        yield
    except _StoppedError:
        pass
    finally:
        handle.remove()


@contextmanager
def stop_at(architecture: Architecture, place: Place) -> Generator[None]:
    """Forward passes that this thread makes inside end at a place, once the hooks put there before have seen it."""

    def stop(place: Place, value: Tensor) -> None:
        raise _StoppedError

    try:
        with watch_sites(architecture, [place], stop):
            yield
    except _StoppedError:
        pass
