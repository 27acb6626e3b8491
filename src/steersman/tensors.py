"""Checks that every tensor and number passes on its way into a vector or an intervention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import InterventionError


def checked(value: object, what: str, dims: tuple[int, ...] | None = None) -> Tensor:
    """A private float32 copy of ``value``, with its graph if it requires gradients.

    Args:
        value: a tensor or an array of real numbers.
        what: what it is, for messages.
        dims: the numbers of dimensions allowed, None for any.

    Raises:
        InterventionError: not a tensor, on the meta device, not real, not finite, empty, or of the wrong dimension.
    """
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InterventionError(f"{what} must be a tensor of real numbers, got {type(value).__name__}") from error
    if value.layout != torch.strided:
        raise InterventionError(f"{what} must be a dense tensor, but its layout is {value.layout}; call to_dense()")
    if value.is_meta:
        raise InterventionError(f"{what} is on the meta device and has no values; load it onto a real device first")
    if not (value.is_floating_point() or value.dtype in (torch.int32, torch.int64)):
        raise InterventionError(f"{what} must hold real numbers, but its dtype is {value.dtype}")
    if value.numel() == 0:
        raise InterventionError(f"{what} is empty: its shape is {tuple(value.shape)}")
    if dims is not None and value.dim() not in dims:
        raise InterventionError(f"{what} has shape {tuple(value.shape)}; {_expected(value, dims)}")
    copy = value.to(torch.float32)
    copy = copy.clone() if copy.data_ptr() == value.data_ptr() else copy
    if not bool(torch.isfinite(copy).all()):
        raise InterventionError(f"{what} holds NaN or infinite numbers; look where it was computed")
    return copy


def _expected(value: Tensor, dims: tuple[int, ...]) -> str:
    need = " or ".join(f"{n} dimension{'s' if n > 1 else ''}" for n in dims)
    hint = "; squeeze() it or take one row" if value.dim() > max(dims) else ""
    return f"it needs {need}{hint}"


def unit(direction: Tensor, what: str) -> Tensor:
    """``direction / |direction|`` along the last dimension, refused for the zero vector."""
    largest = direction.detach().abs().amax(dim=-1, keepdim=True)
    if bool((largest == 0).any()):
        raise InterventionError(f"{what} is the zero vector and points nowhere")
    direction = direction / largest  # first, so that squares neither overflow nor vanish
    return direction / direction.norm(dim=-1, keepdim=True)


def check_number(value: object, what: str) -> float:
    """``value`` as a finite float, or an :class:`InterventionError` that names it."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool | str) or not math.isfinite(number):
        raise InterventionError(f"{what} must be a finite number, got {value!r}")
    return number
