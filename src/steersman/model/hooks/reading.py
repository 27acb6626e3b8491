"""Reading activations at sites while the model runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

from torch import Tensor, nn

from ..architecture import Architecture


@contextmanager
def read_sites(
    architecture: Architecture, places: Iterable[tuple[str, int]], columns: int
) -> Generator[dict[tuple[str, int], Tensor]]:
    """Collect the activations at ``(component, layer)`` places of the forward passes this thread makes inside.

    The mapping fills as the model runs: ``[rows, columns, width]``, a copy, steered if the pass is (a later pass
    overwrites an earlier one). Heads come flat; ``columns`` is the padded length of the batch.
    """
    found: dict[tuple[str, int], Tensor] = {}
    me = threading.get_ident()

    def reader(place: tuple[str, int]) -> Callable[[Tensor], None]:
        def read(value: Tensor) -> None:
            if threading.get_ident() == me:
                found[place] = value.reshape(-1, columns, value.shape[-1]).clone()

        return read

    handles = [architecture.tap(*place).hook(reader(place)) for place in places]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class _StoppedError(Exception):
    """Ends a forward pass early; never leaves :func:`stop_after`."""


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
