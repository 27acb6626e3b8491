"""From a placed plan and the writers of a model to the changes of its parameters, or the reason why there are none."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ...errors import UnsupportedError
from ...operations.maps import AffineMap
from .changes import Change, Changes, is_diagonal, linear
from .options import bias_options
from .placement import EMBEDDINGS, Placement, Site
from .writers import Matrix, Tables, Writer, Writers

_REMEDY = (
    "bake it as an adapter, which brings biases of its own (adapter=True), or keep the plan as an edit: "
    "model.edit(plan).save_pretrained(...)"
)
_NORMED = "; keep the plan as an edit: model.edit(plan).save_pretrained(...)"


@dataclass
class Rewrite:
    """How a model becomes another one.

    Attributes:
        changes: by name, of parameters that it has and of new ones.
        settings: options of its configuration.
        untied: whether its output matrix becomes one of its own.
    """

    changes: Changes = field(default_factory=Changes)
    settings: dict[str, bool] = field(default_factory=dict[str, bool])
    untied: bool = False


def rewrite(placed: Placement, writers: Writers, *, adapter: bool = False) -> Rewrite:
    """The changes that carry a placed plan out.

    Args:
        adapter: for an adapter, which brings what biases it needs and leaves the output matrix alone.

    Raises:
        UnsupportedError: a norm stands after a write, or the architecture has no place for a bias; says where, and
            what can be done.
    """
    return _Rewriter(placed, writers, adapter).run()


class _Rewriter:
    def __init__(self, placed: Placement, writers: Writers, adapter: bool) -> None:
        self.placed = placed
        self.adapter = adapter
        self.writers = writers
        self.name = writers.architecture.shape.name
        self.result = Rewrite()
        self.matrices: dict[str, Matrix] = {}
        #: biases that are wanted and not there, with what to say if they cannot be had
        self.missing: dict[str, str] = {}

    def run(self) -> Rewrite:
        for site, operation in self.placed.maps.items():
            if site[0] in ("z", "mlp_post"):
                self._reads(site, operation)
        for site, operation in self.placed.maps.items():
            if site == EMBEDDINGS:
                self._enters(operation)
            elif site[0] in ("attn_out", "mlp_out"):
                self._writes(site, operation)
        for offset in self.placed.offsets:
            self._adds(offset.carriers, offset.value, offset.source)
        if not self.adapter:
            self._find_missing()
        return self.result

    # -- what is read and written -------------------------------------------------------------------------------

    def _reads(self, site: Site, operation: AffineMap) -> None:
        matrix, sources = self.writers.reader(site), self.placed.sources[site]
        if operation.read is not None:
            self._matrix(matrix, sources).inputs = operation
        if bool((operation.offset != 0).any()):
            self._bias(matrix, site, sources).carried = (matrix.weight, operation)

    def _writes(self, site: Site, operation: AffineMap) -> None:
        writer, sources = self.writers.writer(site), self.placed.sources[site]
        if writer.gain is not None:
            self._through_norm(writer, operation, sources)
            return
        if operation.read is not None:
            for matrix in writer.matrices:
                self._matrix(matrix, sources).outputs = operation
                if matrix.biased or matrix.bias in self.result.changes:
                    self._bias(matrix, site, sources).outputs = operation
        if bool((operation.offset != 0).any()):
            self._carry(writer, operation.offset, sources)

    def _adds(self, carriers: tuple[Site, ...], value: Tensor, source: str) -> None:
        """An addition to the stream: by the first carrier that has a bias, else the first that can be given one."""
        found = [self.writers.writer(site) for site in carriers]
        ready = [writer for writer in found if any(matrix.biased for matrix in writer.carriers)]
        self._carry((ready or found)[0], value, [source])

    def _carry(self, writer: Writer, value: Tensor, sources: list[str]) -> None:
        component, layer = writer.site
        if writer.gain is not None:
            if writer.gain.bias is None:
                raise UnsupportedError(
                    f"{', '.join(sources)} cannot be baked: {self.name} norms {component} of layer {layer} after it is "
                    f"computed, and that norm ({writer.gain.weight}) has no bias{_NORMED}"
                )
            change = self.result.changes.setdefault(writer.gain.bias, Change("bias"))
            self._sum(change, value, sources)
            return
        if not writer.carriers:
            raise UnsupportedError(
                f"{', '.join(sources)} cannot be baked: what layer {layer} of {self.name} adds ({component}) comes "
                "from experts whose weights do not sum to one or that have no biases, and no shared expert; keep the "
                "plan as an edit: model.edit(plan).save_pretrained(...)"
            )
        matrix = next((m for m in writer.carriers if m.biased), writer.carriers[0])
        self._sum(self._bias(matrix, writer.site, sources), value / writer.scale, sources)

    def _through_norm(self, writer: Writer, operation: AffineMap, sources: list[str]) -> None:
        component, layer = writer.site
        assert writer.gain is not None
        if not is_diagonal(operation):
            raise UnsupportedError(
                f"{', '.join(dict.fromkeys(sources))} cannot be baked: {self.name} norms {component} of layer {layer} "
                f"after it is computed ({writer.gain.weight}), and no weights before or in that norm project a "
                f"direction out of what leaves it{_NORMED}"
            )
        gain = Change("gain", outputs=operation, plus_one=writer.gain.plus_one, sources=sources)
        self.result.changes[writer.gain.weight] = gain
        if writer.gain.bias is not None:
            self.result.changes[writer.gain.bias] = Change("bias", outputs=operation, sources=sources)
        if bool((operation.offset != 0).any()):
            self._carry(writer, operation.offset, sources)

    # -- embeddings ---------------------------------------------------------------------------------------------

    def _enters(self, operation: AffineMap) -> None:
        tables, sources = self.writers.tables(), self.placed.sources[EMBEDDINGS]
        if tables.norm is not None:
            self._through_norm(Writer(EMBEDDINGS, (), (), 1.0, tables.norm), operation, sources)
            return
        if operation.read is not None:
            if tables.computed:
                raise UnsupportedError(
                    f"{', '.join(dict.fromkeys(sources))} cannot be baked: {self.name} computes its positions, and no "
                    "weights hold them; keep the plan as an edit: model.edit(plan).save_pretrained(...)"
                )
            for name in filter(None, (tables.embedding, tables.position)):
                self._table(name, tables, sources).outputs = linear(operation)
        if bool((operation.offset != 0).any()):
            last = tables.position or tables.embedding
            scale = tables.position_scale if tables.position else tables.scale
            self._sum(self._table(last, tables, sources), operation.offset / scale, sources)

    def _table(self, name: str, tables: Tables, sources: list[str]) -> Change:
        if name == tables.embedding and tables.tied and not self.result.untied and not self.adapter:
            self.result.untied = True
            self.result.changes[tables.unembedding] = Change("copy", copy_of=tables.embedding)
        change = self.result.changes.setdefault(name, Change("table"))
        change.sources = list(dict.fromkeys([*change.sources, *sources]))
        return change

    # -- parameters ---------------------------------------------------------------------------------------------

    def _matrix(self, matrix: Matrix, sources: list[str]) -> Change:
        change = self.result.changes.setdefault(matrix.weight, Change("matrix", inputs_first=matrix.inputs_first))
        change.sources = list(dict.fromkeys([*change.sources, *sources]))
        return change

    def _bias(self, matrix: Matrix, site: Site, sources: list[str]) -> Change:
        if not matrix.biased:
            self.missing.setdefault(
                matrix.bias,
                f"{', '.join(dict.fromkeys(sources))} cannot be baked: it adds to {site[0]} of layer {site[1]}, and "
                f"{matrix.weight.rpartition('.')[0]} of {self.name} has no bias, nor an option that gives it one",
            )
        change = self.result.changes.setdefault(matrix.bias, Change("bias", inputs_first=matrix.inputs_first))
        change.sources = list(dict.fromkeys([*change.sources, *sources]))
        return change

    def _sum(self, change: Change, value: Tensor, sources: list[str]) -> None:
        change.added = value if change.added is None else change.added + value
        change.sources = list(dict.fromkeys([*change.sources, *sources]))

    def _find_missing(self) -> None:
        found = bias_options(self.writers.model, self.missing, self.missing, _REMEDY)
        self.result.settings = dict(found.settings)
        for name, shape in found.added.items():
            self.result.changes.setdefault(name, Change("bias")).fill = shape
