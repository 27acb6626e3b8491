"""The arithmetic of interventions: maps of the touched tokens ``[n, width]``, pure and in float32.

Nearly every operation is one thing, a rank-k affine map ``h -> h + A (B^T h + c)``; :class:`AffineMap` is that normal
form and composes. The few that are not (rotation, a one-sided clamp, setting values that differ from token to token)
are maps of their own that share its call and say so by ``affine`` being None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor

from ..errors import MismatchError


@dataclass(frozen=True)
class Tokens:
    """Which tokens a map is applied to; one entry per touched token.

    Attributes:
        layer, component: the site.
        rows: index of the row in the batch.
        positions: absolute position in the row's sequence, padding not counted.
        ranks: how many selected positions of the row come before it.
        prompts: for each row of the batch, its prompt's token ids (None when the model was fed embeddings).
    """

    layer: int
    component: str
    rows: Sequence[int]
    positions: Sequence[int]
    ranks: Sequence[int]
    prompts: Sequence[tuple[int, ...] | None]


class Map(Protocol):
    """``op(h)`` for float32 tokens ``[n, width]``."""

    @property
    def affine(self) -> AffineMap | None:
        """The same map in normal form, or None if it is not affine."""
        ...

    def __call__(self, h: Tensor, tokens: Tokens | None = None) -> Tensor:
        """The tokens after the operation; ``tokens`` says which they are, for maps that look at it."""
        ...


@dataclass(frozen=True)
class AffineMap:
    """``h -> h + A (B^T h + c)``.

    Attributes:
        write: A, ``[width, k]``.
        read: B, ``[width, k]``, or None for zero: a plain addition.
        shift: c, ``[k]``.
    """

    write: Tensor
    read: Tensor | None
    shift: Tensor

    @classmethod
    def addition(cls, vector: Tensor) -> AffineMap:
        """``h + v``."""
        return cls(vector[:, None], None, vector.new_ones(1))

    @classmethod
    def setting(cls, direction: Tensor, value: float) -> AffineMap:
        """Sets the projection on a unit direction ``[width]`` to ``value``."""
        return cls(direction[:, None], -direction[:, None], direction.new_full((1,), value))

    @classmethod
    def projecting_out(cls, basis: Tensor) -> AffineMap:
        """``h - R R^T h`` for an orthonormal basis ``[width, k]``."""
        return cls(-basis, basis, basis.new_zeros(basis.shape[1]))

    @property
    def affine(self) -> AffineMap:
        """Itself."""
        return self

    @property
    def rank(self) -> int:
        """k, the number of directions written."""
        return self.write.shape[1]

    @cached_property
    def offset(self) -> Tensor:
        """``A c``, what is added whatever the input: ``[width]``."""
        return self.write @ self.shift

    def change(self, h: Tensor) -> Tensor:
        """``A (B^T h + c)``, broadcastable to h."""
        if self.read is None:
            return self.offset
        return (h @ self.read + self.shift) @ self.write.T

    def __call__(self, h: Tensor, tokens: Tokens | None = None) -> Tensor:
        """h plus its change; for a batch of tokens in two fused multiplications."""
        if self.read is None or h.dim() != 2:
            return h + self.change(h)
        return torch.addmm(h, torch.addmm(self.shift, h, self.read), self.write.T)

    def scaled(self, strength: float) -> AffineMap:
        """``h + s (op(h) - h)``."""
        return AffineMap(self.write * strength, self.read, self.shift)

    def then(self, other: AffineMap) -> AffineMap:
        """``other`` after this one, as one map of rank ``k1 + k2``.

        With h1 = h + A1 (B1^T h + c1), the second reads B2^T h1 + c2
        = (B2 + B1 A1^T B2)^T h + (c2 + B2^T A1 c1).
        """
        if other.read is None:
            second_read, second_shift = None, other.shift
        else:
            mixed = self.write.T @ other.read
            second_read = other.read if self.read is None else other.read + self.read @ mixed
            second_shift = other.shift + self.shift @ mixed
        reads = (self.read, second_read)
        read = None
        if any(part is not None for part in reads):
            zero = (torch.zeros_like(self.write), torch.zeros_like(other.write))
            read = torch.cat([z if part is None else part for part, z in zip(reads, zero, strict=True)], dim=1)
        return AffineMap(torch.cat([self.write, other.write], dim=1), read, torch.cat([self.shift, second_shift]))

    def matrices(self) -> tuple[Tensor, Tensor]:
        """``(M, b)`` with op(h) = M h + b: ``[width, width]`` and ``[width]``."""
        eye = torch.eye(self.write.shape[0], dtype=self.write.dtype, device=self.write.device)
        return (eye if self.read is None else eye + self.write @ self.read.T), self.offset


@dataclass(frozen=True)
class OneSidedClamp:
    """Sets the projection on a unit direction to ``value`` where it is below (``raises``) or above it."""

    direction: Tensor
    value: float
    raises: bool

    affine = None

    def __call__(self, h: Tensor, tokens: Tokens | None = None) -> Tensor:
        """``h + min or max(0, value - r^T h) r``."""
        missing = self.value - h @ self.direction
        missing = missing.clamp_min(0) if self.raises else missing.clamp_max(0)
        return h + missing[:, None] * self.direction


@dataclass(frozen=True)
class TurnTowards:
    """Turns h, in the plane of h and the unit direction v, until its angle to v is ``angle``; its norm is kept.

    ``op(h) = |h| (cos(angle) v + sin(angle) u)``, u the unit part of h orthogonal to v. A token parallel to v has no
    such plane and is left as it is.
    """

    direction: Tensor
    angle: float

    affine = None

    def __call__(self, h: Tensor, tokens: Tokens | None = None) -> Tensor:
        """The equation above, token by token."""
        across = h - (h @ self.direction)[:, None] * self.direction
        length, size = across.norm(dim=-1, keepdim=True), h.norm(dim=-1, keepdim=True)
        flat = length <= 1e-6 * size
        across = across / torch.where(flat, torch.ones_like(length), length)
        turned = size * (math.cos(self.angle) * self.direction + math.sin(self.angle) * across)
        return torch.where(flat, h, turned)


@dataclass(frozen=True)
class TurnInPlane:
    """Sets the angle of h within a fixed plane (b1, b2), counted from b1 towards b2; the norm is kept.

    ``op(h) = h - Q h + |Q h| (cos(angle) b1 + sin(angle) b2)`` with Q the projection on the plane.
    """

    first: Tensor
    second: Tensor
    angle: float

    affine = None

    def __call__(self, h: Tensor, tokens: Tokens | None = None) -> Tensor:
        """The equation above, token by token."""
        x, y = h @ self.first, h @ self.second
        size = torch.linalg.vector_norm(torch.stack([x, y]), dim=0)
        x = size * math.cos(self.angle) - x
        y = size * math.sin(self.angle) - y
        return h + x[:, None] * self.first + y[:, None] * self.second


@dataclass(frozen=True)
class Setting:
    """Sets some values of each token (whole, or the columns of some heads or neurons), whatever they were.

    Attributes:
        values: ``[1, w]``, the same for every token, or ``[n, w]``, one row per selected position.
        width: the number of values a token has at the site.
        columns: ``[w]`` indices into the site's width, or None for all of it.
        by: how a token finds its row when there are several: ``"rank"`` within the selected positions, or
            ``"position"`` in the sequence.
    """

    values: Tensor
    width: int
    columns: Tensor | None = None
    by: Literal["rank", "position"] = "rank"

    @property
    def affine(self) -> AffineMap | None:
        """``h - E E^T h + E value``: affine when every token is set to the same values."""
        if len(self.values) > 1:
            return None
        chosen = torch.eye(self.width, dtype=self.values.dtype, device=self.values.device)
        chosen = chosen if self.columns is None else chosen[:, self.columns]
        return AffineMap(chosen, -chosen, self.values[0])

    def __call__(self, h: Tensor, tokens: Tokens | None = None) -> Tensor:
        """The tokens with the chosen values in place."""
        values = self.values
        if len(values) > 1:
            assert tokens is not None
            at = tokens.ranks if self.by == "rank" else tokens.positions
            if max(at) >= len(values):
                raise MismatchError(f"{len(values)} rows of values were given, but token {max(at)} is to be set, too")
            values = values[torch.as_tensor(list(at), device=h.device)]
        values = values.to(h.dtype).expand(len(h), -1)
        return values.clone() if self.columns is None else h.index_copy(1, self.columns, values)


@dataclass(frozen=True)
class Drawing:
    """Sets each row's tokens to one row of a reference set, drawn from the seed and the row's own prompt.

    The draw does not look at the batch, so a prompt meets the same reference row alone and in company.
    """

    reference: Tensor
    columns: Tensor | None
    draw: Callable[[tuple[int, ...] | None], int] = field(compare=False)

    affine = None

    def __call__(self, h: Tensor, tokens: Tokens | None = None) -> Tensor:
        """The tokens with their row's draw in place."""
        assert tokens is not None
        drawn = {row: self.draw(tokens.prompts[row]) for row in set(tokens.rows)}
        values = self.reference[torch.as_tensor([drawn[row] for row in tokens.rows], device=h.device)].to(h.dtype)
        return values if self.columns is None else h.index_copy(1, self.columns, values)


@dataclass(frozen=True)
class Calling:
    """A user's own ``fn(h, tokens)``."""

    function: Callable[[Tensor, Tokens], Tensor]

    affine = None

    def __call__(self, h: Tensor, tokens: Tokens | None = None) -> Tensor:
        """What the function returns."""
        assert tokens is not None
        return self.function(h, tokens)


M = TypeVar("M", bound=Map)


def moved(operation: M, device: torch.device, dtype: torch.dtype) -> M:
    """The same map with its tensors on another device, its real numbers in another precision."""
    mine = cast(Any, operation)
    tensors = {f.name: getattr(mine, f.name) for f in fields(mine)}
    return replace(mine, **{
        name: t.to(device, dtype if t.is_floating_point() else t.dtype)
        for name, t in tensors.items()
        if isinstance(t, Tensor)
    })  # fmt: skip
