"""A language model to trace, in nnsight's old notation and in today's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nnsight.intervention.interleaver import OutOfOrderError
from nnsight.modeling.transformers import Generator
from torch import nn

import nnsight

from ..errors import ArchitectureError, TraceError, UnsupportedError
from ..model.architecture import Architecture, find_architecture
from ..model.architecture.structure import guesses
from ..model.editing import second_tree
from ..model.loading import demo_folder
from .envoys import ModuleEnvoy
from .layout import Layout, layout_of
from .tracers import Edit, Scan, Session, Trace
from .unsaved import forget_notes

if TYPE_CHECKING:
    from ..model import SteeringModel


class LanguageModel(ModuleEnvoy, nnsight.LanguageModel):
    """nnsight's ``LanguageModel``, on which code in its old notation runs too, and which knows Steersman's sites.

    - A block's ``output[0]`` is the hidden state ``[batch, seq, d_model]``; ``output[:, -1, :]`` works as well.
    - A module's ``input[0][0]`` is its first argument; so is ``input``.
    - What ``.save()`` returns is a tensor for every purpose, and has the ``.value`` of old.
    - ``with tracer.all():`` acts at every generation step, and the statements after it are run.
    - ``with model.edit() as edited:`` gives the edited model, whose edit acts at every generated token.
    - ``model.blocks[l]``, ``.attention``, ``.mlp``, ``.heads`` and the sites have the same names in every architecture.

    Args:
        source: a hub id, a folder, ``"demo"`` for the embedded model, a :class:`~steersman.SteeringModel` (the same
            weights; its edits are edits here), or a Hugging Face model together with ``tokenizer=``.
        options: as of ``nnsight.LanguageModel``: ``device_map``, ``dtype``, ``dispatch``, ``rename``, ... With
            ``dispatch=False`` weights are loaded at the first trace.

    Raises:
        ArchitectureError: no decoder whose parts are understood.
    """

    _layout: Layout | None = None
    _name: str | None = None
    _blocks_path: str | None = None

    def __init__(self, source: Any, *args: Any, **options: Any) -> None:
        from ..model import SteeringModel

        plan = None
        if isinstance(source, SteeringModel):
            self._name, plan = source.shape.name, source.plan
            options.setdefault("tokenizer", source.tokenizer)
            source = _tree_of(source)
        elif isinstance(source, (str, Path)):
            self._name = str(source)
            if self._name == "demo":
                options.setdefault("dtype", "float32")
            source = str(demo_folder()) if self._name == "demo" else self._name
            if options.get("tokenizer") is None and not options.get("dispatch", False):
                from transformers import AutoTokenizer

                shared = {key: options[key] for key in ("revision", "trust_remote_code") if key in options}
                options["tokenizer"] = AutoTokenizer.from_pretrained(source, **shared)
        tokenizer = options.get("tokenizer")
        if tokenizer is not None and not isinstance(tokenizer, str):
            options["tokenizer"] = copy.deepcopy(tokenizer)  # nnsight gives it a pad token and a padding side
        nnsight.LanguageModel.__init__(self, source, *args, **options)
        self._children.remove(self.generator)
        self.generator: Any = ModuleEnvoy(
            Generator(), path=f"{self.path}.generator", interleaver=self.interleaver, parent=self
        )
        self._children.append(self.generator)
        if plan:
            from .applying import edited_by

            self._edits.append(edited_by(plan, self))

    # -- loading ------------------------------------------------------------------------------------------------

    def _wrap(self, module: nn.Module, *args: Any, **options: Any) -> nn.Module:
        return self._located(cast(nn.Module, nnsight.LanguageModel._wrap(self, module, *args, **options)))

    def _load(self, repo_id: str, *args: Any, **options: Any) -> nn.Module:
        return self._located(cast(nn.Module, nnsight.LanguageModel._load(self, repo_id, *args, **options)))

    def _load_meta(self, repo_id: str, *args: Any, **options: Any) -> nn.Module:
        module = cast(nn.Module, nnsight.LanguageModel._load_meta(self, repo_id, *args, **options))
        try:
            self._locate(find_architecture(module, name=self._name, prove=False))
        except ArchitectureError:
            if self.task != "text-generation":
                raise
            first = next(guesses(module))  # of no known family: believed once its weights are there to prove it
            self._blocks_path = ".".join(part for part in (first.decoder, first.blocks) if part)
        return module

    def _located(self, module: nn.Module) -> nn.Module:
        self._locate(find_architecture(module, name=self._name))
        return module

    def _locate(self, architecture: Architecture) -> None:
        self._layout = layout_of(architecture)
        self._name = architecture.shape.name  # pyright: ignore[reportIncompatibleMethodOverride]
        self._blocks_path = self._layout.blocks

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
        return nnsight.LanguageModel.session(self, **options)

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
                f"{self._name} is called plainly, where its edits do not act: they live in traces. Use "
                "edited.trace(...) or edited.generate(...); for plain calls make the edit with SteeringModel.edit(plan)"
            )
        return nnsight.LanguageModel.__call__(self, *args, **options)

    def _out_of_order(self, error: OutOfOrderError) -> TraceError:
        place = self._place("output")._replace(location=str(error).split("'")[1].rpartition(".i")[0])
        return TraceError(
            f"{place} was asked for after the model had run past it, or does not run in this call. A block must ask "
            "for layers in the order in which the model runs them; ask for it earlier in the block, or in a `with "
            "tracer.invoke():` of its own. apply(plan, model) takes layers in any order"
        )


def _tree_of(model: SteeringModel) -> nn.Module:
    """The modules to trace: a second tree over the same weights, so that the user's own stays as it is."""
    try:
        return second_tree(model.architecture)
    except UnsupportedError:
        return model.architecture.hf
