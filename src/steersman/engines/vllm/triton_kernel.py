"""The Triton kernel: one program a token, which returns at once if the token is not steered.

It is always launched and reads everything it does from tensors, so it can be recorded in a CUDA graph and replayed for
other requests.
"""

from __future__ import annotations

from typing import Any

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from .tables import FLOATS, INTS


@triton.jit  # pyright: ignore[reportUntypedFunctionDecorator]
def _kernel(  # pyright: ignore
    hidden: Any, residual: Any, bank: Any, entries: Any, factors: Any, tokens: Any, gates: Any,
    hidden_stride: Any, residual_stride: Any, entries_stride: Any, factors_stride: Any,
    width: tl.constexpr, block: tl.constexpr, has_residual: tl.constexpr, ints: tl.constexpr, floats: tl.constexpr,  # pyright: ignore[reportUnknownParameterType]
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(tokens + token).to(tl.int64)
    if slot == 0:
        return
    count = tl.load(entries + slot * entries_stride)
    if count == 0:
        return
    columns = tl.arange(0, block)
    inside = columns < width
    found = tl.load(hidden + token * hidden_stride + columns, mask=inside, other=0.0).to(tl.float32)
    h = found
    if has_residual:
        h += tl.load(residual + token * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
    change = tl.zeros([block], dtype=tl.float32)
    start = h
    for k in range(count):
        entry = entries + slot * entries_stride + 1 + ints * k
        factor = factors + slot * factors_stride + floats * k
        write = tl.load(entry).to(tl.int64)
        read = tl.load(entry + 1).to(tl.int64)
        begins = tl.load(entry + 2)
        start = tl.where(begins != 0, h + change, start)
        shift = tl.load(factor + 2)
        low = tl.load(factor + 3)
        high = tl.load(factor + 4)
        found_there = shift * 0.0
        if read != 0:
            found_there += tl.sum(start * tl.load(bank + read * width + columns, mask=inside, other=0.0), axis=0)
        decides = tl.load(entry + 4)
        if decides != 0:
            length = tl.where(high > 0.0, tl.maximum(tl.sqrt(tl.sum(start * start, axis=0)), 1.1754944e-38), 1.0)
            tl.store(gates + decides, tl.where((found_there / length - shift) * low > 0.0, 1.0, 0.0))
        shut = 1.0 - tl.load(gates + tl.load(entry + 3))
        amount = tl.minimum(tl.maximum(found_there + shift, low), high) * tl.load(factor + 1) * (1.0 - shut)
        gain = tl.load(factor)
        gain += shut * (1.0 - gain)
        change = gain * change + (gain - 1.0) * h
        if write != 0:
            change += amount * tl.load(bank + write * width + columns, mask=inside, other=0.0)
    tl.store(hidden + token * hidden_stride + columns, (found + change).to(hidden.dtype.element_ty), mask=inside)


def launch(
    hidden: Tensor,
    residual: Tensor | None,
    bank: Tensor,
    entries: Tensor,
    factors: Tensor,
    tokens: Tensor,
    gates: Tensor,
) -> None:
    """Steer one place, in place; arguments as of :func:`steersman.engines.vllm.kernel.steer`."""
    width = hidden.shape[-1]
    block: int = triton.next_power_of_2(width)
    beside = hidden if residual is None else residual
    _kernel[(min(hidden.shape[0], tokens.shape[0]),)](  # pyright: ignore[reportIndexIssue]
        hidden, beside, bank, entries, factors, tokens, gates,
        hidden.stride(0), beside.stride(0), entries.stride(0), factors.stride(0),
        width=width, block=block, has_residual=residual is not None, ints=INTS, floats=FLOATS,
        num_warps=min(max(block // 256, 1), 8),
    )  # fmt: skip
