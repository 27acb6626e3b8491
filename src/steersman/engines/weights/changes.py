"""The new value of each parameter, in closed form.

A writer computes ``y = W x + b``, and what arrives is ``s y``. With the map ``v -> v + A (B^T v + c)`` on what arrives
and ``x -> x + A' (B'^T x + c')`` on what it reads,

    W' = (I + A B^T) W (I + A' B'^T)        b' = (I + A B^T) (b + W A' c') + A c / s

which is exact, biases and experts included. Directional ablation, A = -R and B = R, makes it ``(I - R R^T) W``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...operations.maps import AffineMap

#: Numbers that are held in float64 at once while a matrix is rewritten.
_CHUNK = 4_000_000


@dataclass
class Change:
    """What becomes of one parameter.

    Attributes:
        inputs, outputs: maps of what the matrix reads and of what it writes; for a bias, ``outputs`` alone.
        added: what is added last, in the parameter's own units, whatever it was.
        carried: for a bias: the matrix and the map of its inputs whose offset it takes up.
        kind: ``"matrix"``, ``"bias"``, ``"table"`` (rows are what is written), ``"gain"``.
        inputs_first: the matrix is stored ``[in, out]``.
        plus_one: the gain multiplies by one more than it says.
        fill: a new parameter of this shape, zero before the change.
        copy_of: a new parameter that is what this one was.
    """

    kind: str
    inputs: AffineMap | None = None
    outputs: AffineMap | None = None
    added: Tensor | None = None
    carried: tuple[str, AffineMap] | None = None
    inputs_first: bool = False
    plus_one: bool = False
    fill: tuple[int, ...] | None = None
    copy_of: str | None = None
    sources: list[str] = field(default_factory=list[str])

    def apply(self, value: Tensor, matrix: Tensor | None = None) -> Tensor:
        """The new value, float32 or better, in the shape of the old.

        Args:
            value: what it is now; any leading axis is that of experts.
            matrix: for a bias that takes up an offset of what its matrix reads: that matrix.
        """
        if self.kind == "bias":
            return self._bias(value, matrix)
        if self.kind == "gain":
            return self._gain(value)
        if value.dim() == 3:
            return torch.stack([self.apply(expert) for expert in value])
        work = value if value.dtype == torch.float64 else value.float()
        if self.kind == "table":
            return _rows(work, self.outputs, self.added)
        work = work if self.inputs_first else work.T  # [in, out]: each row is what one input writes
        if self.inputs is not None and self.inputs.read is not None:
            work = _columns(work, self.inputs)
        work = _rows(work, None if self.outputs is None else linear(self.outputs), None)
        return (work if self.inputs_first else work.T).contiguous()

    def _bias(self, value: Tensor, matrix: Tensor | None) -> Tensor:
        found = value.double()
        if self.carried is not None:
            assert matrix is not None
            offset = self.carried[1].offset
            plain = matrix.T if self.inputs_first else matrix
            rows = plain.split(max(1, _CHUNK // plain.shape[1]))
            found = found + torch.cat([part.double() @ offset for part in rows])
        if self.outputs is not None and self.outputs.read is not None:
            found = found + (found @ self.outputs.read) @ self.outputs.write.T
        return found if self.added is None else found + self.added

    def _gain(self, value: Tensor) -> Tensor:
        one = 1.0 if self.plus_one else 0.0
        factor = torch.ones(value.shape, dtype=torch.float64)
        if self.outputs is not None:
            factor = diagonal(self.outputs)
        return factor * (value.double() + one) - one


def linear(operation: AffineMap) -> AffineMap:
    """A map without what it adds whatever the input."""
    return AffineMap(operation.write, operation.read, torch.zeros_like(operation.shift))


def diagonal(operation: AffineMap) -> Tensor:
    """The diagonal of ``I + A B^T``."""
    if operation.read is None:
        return torch.ones(operation.write.shape[0], dtype=operation.write.dtype)
    return 1 + (operation.write * operation.read).sum(1)


def is_diagonal(operation: AffineMap) -> bool:
    """Whether ``I + A B^T`` is diagonal: the maps that commute with the gain of a norm."""
    matrix = operation.matrices()[0]
    off = matrix - torch.diag(matrix.diagonal())
    return bool(off.abs().max() <= 1e-12)


def _rows(work: Tensor, operation: AffineMap | None, added: Tensor | None) -> Tensor:
    """``M row + b`` for each row, in float64 a few rows at a time."""
    if (operation is None or operation.read is None) and added is None:
        return work
    result = torch.empty_like(work)
    step = max(1, _CHUNK // work.shape[1])
    for start in range(0, len(work), step):
        rows = work[start : start + step].double()
        if operation is not None:
            rows = operation(rows)
        result[start : start + step] = rows if added is None else rows + added
    return result


def _columns(work: Tensor, operation: AffineMap) -> Tensor:
    """``W (I + A B^T)`` of a matrix stored ``[in, out]``: ``W^T + B (A^T W^T)``, in float64 a few columns at a time."""
    assert operation.read is not None
    result = torch.empty_like(work)
    step = max(1, _CHUNK // work.shape[0])
    for start in range(0, work.shape[1], step):
        part = work[:, start : start + step].double()
        result[:, start : start + step] = part + operation.read @ (operation.write.T @ part)
    return result


Changes = dict[str, Change]
