"""A model in a trace, as it is at home and on a server: what is told apart from how it was loaded."""

from __future__ import annotations

from typing import Any, cast

from nnsight.intervention.interleaver import OutOfOrderError

import nnsight

from ..errors import TraceError, UnsupportedError
from .envoys import ModuleEnvoy
from .layout import Layout
from .steering import Compiled
from .tracers import Edit, Scan, Session, Trace
from .unsaved import forget_notes


class TracedModel(ModuleEnvoy, nnsight.LanguageModel):
    """The running half of :class:`~steersman.nnsight.LanguageModel`, which a remote trace takes along."""

    _layout: Layout | None = None
    _label: str | None = None
    _blocks_path: str | None = None

    @property
    def layout(self) -> Layout:
        """Where its parts are; loads the weights of a model of no known family, whose parts must be proved."""
        if self._layout is None:
            self.dispatch()
        assert self._layout is not None
        return self._layout

    @property
    def blocks(self) -> Any:
        """The decoder blocks: ``model.blocks[3].attention``, ``.mlp``, ``.heads``, ``.resid_mid`` ..."""
        if self._blocks_path is None:
            self.dispatch()
        return self.get(cast(str, self._blocks_path))

    def compiled(self, plan: Any) -> Compiled:
        """A plan made ready for this model; only where it was loaded."""
        raise TraceError(
            f"{type(plan).__name__} was made in the block of a remote trace; make it above the block, where it is "
            "checked against the model before anything is sent"
        )

    # -- running ------------------------------------------------------------------------------------------------

    def trace(self, *inputs: Any, **options: Any) -> Any:
        """Open a trace; without a prompt, it is filled by ``with tracer.invoke(prompt):`` blocks."""
        options.setdefault("tracer_cls", Trace)
        return nnsight.LanguageModel.trace(self, *inputs, **options)

    def scan(self, *inputs: Any, fn: Any = None, backend: Any = None, **options: Any) -> Any:
        """Open a trace of shapes alone; it needs no weights."""
        return Scan(self, self._call if fn is None else fn, *inputs, backend=backend, **options)

    def session(self, **options: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Open a session: traces inside share values without saving them."""
        if options.get("tracer_cls") is None:
            options["tracer_cls"] = Session
        session = nnsight.LanguageModel.session(self, **options)
        session.model = self
        return session

    def edit(self, *, inplace: bool = False, backend: Any = None) -> Any:
        """Store the block's interventions: ``with model.edit() as edited:`` or ``as (tracer, edited)``."""
        return Edit(self, inplace=inplace, backend=backend)

    def interleave(self, fn: Any, *args: Any, **options: Any) -> Any:
        """Run the model beside the blocks of a trace."""
        for mediator in self.interleaver.mediators:
            forget_notes(mediator.lcls)
        try:
            return nnsight.LanguageModel.interleave(self, fn, *args, **options)
        except OutOfOrderError as error:
            raise self._out_of_order(error).with_traceback(error.__traceback__) from None

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the module plainly; refused for an edited model, whose edits act in traces only."""
        if self._edits and not self.interleaver.interleaving:
            raise UnsupportedError(
                f"{self._label} is called plainly, where its edits do not act: they live in traces. Use "
                "edited.trace(...) or edited.generate(...); for plain calls make the edit with SteeringModel.edit(plan)"
            )
        interleaver: Any = self.interleaver
        interleaver.knowingly = True  # the unedited model was asked for by name
        try:
            return nnsight.LanguageModel.__call__(self, *args, **options)
        finally:
            interleaver.knowingly = False

    def _out_of_order(self, error: OutOfOrderError) -> TraceError:
        place = self._place("output")._replace(location=str(error).split("'")[1].rpartition(".i")[0])
        return TraceError(
            f"{place} was asked for after the model had run past it, or does not run in this call. A block must ask "
            "for layers in the order in which the model runs them; ask for it earlier in the block, or in a `with "
            "tracer.invoke():` of its own. apply(plan, model) takes layers in any order"
        )
