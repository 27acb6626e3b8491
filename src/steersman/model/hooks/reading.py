"""Reading activations at sites while the model runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..architecture import Architecture, Tap
from .taps import Handler, attach


@contextmanager
def read_sites(
    architecture: Architecture, places: Iterable[tuple[str, int]], columns: int
) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Collect the activations at ``(component, layer)`` places of the forward passes this thread makes inside.

    The mapping fills as the model runs: ``[rows, columns, width]``, a copy, steered if the pass is (a later pass
    overwrites an earlier one). Heads come flat; ``columns`` is the padded length of the batch.
    """
    found: dict[tuple[str, int], Tensor] = {}
    handlers: dict[tuple[nn.Module, str], list[tuple[Tap, Handler]]] = {}
    me = threading.get_ident()

    def reader(place: tuple[str, int]) -> Handler:
        def handler(tensor: Tensor, tap: Tap) -> None:
            if threading.get_ident() == me:
                shaped = tensor.reshape(-1, columns, tensor.shape[-1])
                found[place] = shaped * tap.scale if tap.scale != 1 else shaped.clone()

        return handler

    for component, layer in places:
        tap = architecture.tap(component, layer)
        handlers.setdefault((tap.module, tap.side), []).append((tap, reader((component, layer))))
    handles = attach(handlers)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
