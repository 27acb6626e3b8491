"""Ablating components: set them to zero, to a mean, or to a row of a reference set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InterventionError, MismatchError
from ..sites import Sites
from ..values import LayerValues, Values, check_values, rows_of
from .base import Intervention, ModelShape, Positions, Strength, When, columns_of
from .maps import Drawing, Map, Setting


@dataclass(frozen=True, eq=False)
class _Component(Intervention):
    """What the three have in common: their sites come from ``where``."""

    where: Sites
    _: KW_ONLY
    strength: Strength = 1.0
    positions: Positions | Any = None
    when: When | None = None

    plain = ("where",)
    layers = None
    site = None

    def __post_init__(self) -> None:
        if not isinstance(self.where, Sites):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InterventionError(
                f"{self.label} needs to know where: heads(10, 5), neurons(3, [7]), attention(2), mlp(2), block(2) or "
                f"site(...), got {self.where!r}"
            )
        super().__post_init__()

    def parameters(self) -> dict[str, Any]:
        found = super().parameters()
        del found["where"]
        layers = "all" if self.where.layers is None else list(self.where.layers)
        if self.where.units is None:
            return {**found, "site": self.where.component, "layers": layers}
        pairs = [[layer, unit] for layer in (self.where.layers or ["all"]) for unit in self.where.units]
        return {**found, "heads" if self.where.component == "z" else "neurons": pairs}

    def _chosen(self, shape: ModelShape) -> Iterable[tuple[int, Tensor | None, int, int]]:
        """(layer, chosen columns or None, how many, the site's width) for each layer."""
        for layer, units in shape.expand(self.where, self.label):
            width = shape.width(self.where.component, layer)
            columns = columns_of(units, self._unit(shape))
            yield layer, columns, width if columns is None else len(columns), width

    def _unit(self, shape: ModelShape) -> int:
        return shape.d_head if self.where.component == "z" else 1

    def _settings(
        self, shape: ModelShape, values: Values, what: str
    ) -> Iterable[tuple[int, Tensor, Tensor | None, int]]:
        """(layer, rows ``[n, chosen]``, columns or None, the site's width) for each layer."""
        _check_read_at(values, self.where, shape, what)
        for layer, columns, chosen, width in self._chosen(shape):
            rows = rows_of(values, layer, width, chosen, self._unit(shape), what)
            whole = columns is None or rows.shape[1] != width
            yield layer, rows if whole else rows[:, columns], columns, width


def _check_read_at(values: Values, sites: Sites, shape: ModelShape, what: str) -> None:
    if not isinstance(values, LayerValues):
        return
    if values.site not in (None, sites.component):
        raise MismatchError(f"{what} were read at {values.site}, but {sites.component} is to be set; read them there")
    if values.origin and values.origin.fingerprint != shape.fingerprint:
        raise MismatchError(f"{what} were read from {values.origin.model}, but this is {shape.name}")


@dataclass(frozen=True, eq=False)
class Zero(_Component):
    """Zero ablation: ``component -> 0``. ``Zero(heads(10, 5))`` silences one attention head.

    Args:
        where: :func:`heads`, :func:`neurons`, :func:`attention`, :func:`mlp`, :func:`block` or :func:`site`.
        strength: 1 silences, 0.5 halves.
        positions, when: as everywhere; all tokens unless told otherwise.
    """

    operation = "zero"
    tensors = ()

    def maps(self, shape: ModelShape) -> Iterable[tuple[str, int, Map, float]]:
        """A setting to zero in each layer."""
        for layer, columns, chosen, width in self._chosen(shape):
            yield self.where.component, layer, Setting(torch.zeros(1, chosen), width, columns), 1.0


@dataclass(frozen=True, eq=False)
class Mean(_Component):
    """Mean ablation: ``component -> its mean over a reference corpus``, less disruptive than zero.

    Args:
        where: as for :class:`Zero`.
        means: from :func:`steersman.mean_activations`; or a mapping layer -> tensor; or one tensor. A tensor is
            ``[width]`` (one mean) or ``[seq, width]`` (one per position of the sequence); ``z`` may be
            ``[n_heads, d_head]``.
        strength, positions, when: as everywhere; all tokens unless told otherwise.
    """

    means: Values | Any = None

    operation = "mean"
    tensors = ("means",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.means is None:
            raise InterventionError("Mean() needs means; see mean_activations")
        self._set(means=check_values(self.means, "the means of Mean()"))

    def maps(self, shape: ModelShape) -> Iterable[tuple[str, int, Map, float]]:
        """A setting to the mean in each layer, by position if there are several."""
        for layer, rows, columns, width in self._settings(shape, self.means, "the means of Mean()"):
            yield self.where.component, layer, Setting(rows, width, columns, by="position"), 1.0


@dataclass(frozen=True, eq=False)
class Resample(_Component):
    """Resample ablation: ``component -> its value on another input``, one row of a reference set per prompt.

    Which row is drawn from the seed and the prompt's tokens, so that a prompt meets the same row alone and in a batch,
    and all layers and sites of one intervention meet the same one.

    Args:
        where: as for :class:`Zero`.
        reference: a mapping layer -> ``[n, width]``, or one such tensor.
        seed: of the draw.
        strength, positions, when: as everywhere; all tokens unless told otherwise.
    """

    reference: Values | Any = None
    seed: int = 0

    operation = "resample"
    tensors = ("reference",)
    plain = ("where", "seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference is None:
            raise InterventionError("Resample() needs a reference set, [n, width] per layer")
        self._set(reference=check_values(self.reference, "the reference of Resample()"))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InterventionError(f"Resample(seed=...) must be an integer, got {self.seed!r}")

    def maps(self, shape: ModelShape) -> Iterable[tuple[str, int, Map, float]]:
        """A drawing from the reference in each layer."""
        for layer, rows, columns, _ in self._settings(shape, self.reference, "the reference of Resample()"):
            yield self.where.component, layer, Drawing(rows, columns, _Draw(self.seed, len(rows))), 1.0


@dataclass(frozen=True)
class _Draw:
    seed: int
    count: int

    def __call__(self, prompt: tuple[int, ...] | None) -> int:
        if self.count == 1:
            return 0
        if prompt is None:
            raise InterventionError("Resample() draws by the prompt's token ids, and the model was fed embeddings")
        text = ",".join(str(token) for token in (self.seed, *prompt))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % self.count
