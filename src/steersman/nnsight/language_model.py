"""A language model to trace, in nnsight's old notation and in today's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nnsight.modeling.transformers import Generator
from torch import nn

import nnsight

from ..errors import ArchitectureError, TraceError, UnsupportedError
from ..model.architecture import Architecture, find_architecture
from ..model.architecture.structure import guesses
from ..model.editing import second_tree
from ..model.loading import demo_folder
from ..plan import PlanLike
from .applying import PlanEdit
from .compiling import compiled
from .envoys import ModuleEnvoy
from .layout import layout_of
from .steering import Compiled
from .traced_model import TracedModel

if TYPE_CHECKING:
    from ..model import SteeringModel


class LanguageModel(TracedModel):
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

    def __init__(self, source: Any, *args: Any, **options: Any) -> None:
        from ..model import SteeringModel

        plan = None
        if isinstance(source, SteeringModel):
            self._label, plan = source.shape.name, source.plan
            options.setdefault("tokenizer", source.tokenizer)
            source = _tree_of(source)
        elif isinstance(source, (str, Path)):
            self._label = str(source)
            if self._label == "demo":
                options.setdefault("dtype", "float32")
            source = str(demo_folder()) if self._label == "demo" else self._label
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
            self._edits.append(PlanEdit(self.compiled(plan)))

    def __reduce__(self) -> Any:
        """As its running half, which is all that a server needs: it has the weights."""
        return object.__new__, (TracedModel,), self.__getstate__()

    def compiled(self, plan: PlanLike) -> Compiled:
        """A plan made ready for this model, for :func:`~steersman.nnsight.apply`; checked now."""
        return compiled(plan, self.layout)

    def _remote_backend(self, remote: Any, *args: Any) -> Any:
        name = self.repo_id
        if remote != "local" and (not name or Path(name).exists()):
            raise TraceError(
                f"{self._label!r} is on this machine only, and remote=True runs a model that the server has: open it "
                'by its hub id, LanguageModel("org/name"), or rehearse with remote="local"'
            )
        return nnsight.LanguageModel._remote_backend(self, remote, *args)

    # -- loading ------------------------------------------------------------------------------------------------

    def _wrap(self, module: nn.Module, *args: Any, **options: Any) -> nn.Module:
        return self._located(cast(nn.Module, nnsight.LanguageModel._wrap(self, module, *args, **options)))

    def _load(self, repo_id: str, *args: Any, **options: Any) -> nn.Module:
        return self._located(cast(nn.Module, nnsight.LanguageModel._load(self, repo_id, *args, **options)))

    def _load_meta(self, repo_id: str, *args: Any, **options: Any) -> nn.Module:
        module = cast(nn.Module, nnsight.LanguageModel._load_meta(self, repo_id, *args, **options))
        try:
            self._locate(find_architecture(module, name=self._label, prove=False))
        except ArchitectureError:
            if self.task != "text-generation":
                raise
            first = next(guesses(module))  # of no known family: believed once its weights are there to prove it
            self._blocks_path = ".".join(part for part in (first.decoder, first.blocks) if part)
        return module

    def _located(self, module: nn.Module) -> nn.Module:
        self._locate(find_architecture(module, name=self._label))
        return module

    def _locate(self, architecture: Architecture) -> None:
        self._layout = layout_of(architecture)
        self._label = architecture.shape.name
        self._blocks_path = self._layout.blocks


def _tree_of(model: SteeringModel) -> nn.Module:
    """The modules to trace: a second tree over the same weights, so that the user's own stays as it is."""
    try:
        return second_tree(model.architecture)
    except UnsupportedError:
        return model.architecture.hf
