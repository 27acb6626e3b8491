"""The module tree as a trace sees it, in the old notation and in today's.

Methods here name their base class instead of calling ``super()``: sent to a remote server they are rebuilt from their
source alone, where ``super()`` knows no class.
"""

from __future__ import annotations

from typing import Any, cast

from nnsight.intervention.eproperty import eproperty
from nnsight.intervention.interleaver import Mediator
from nnsight.intervention.util import first_input, replace_first_input
from torch import Tensor, nn

from nnsight import Envoy

from ..errors import MismatchError, TraceError
from .names import Site
from .served import fitted, plain, served, served_block, served_input
from .values import Place, in_worker


class Handoff(eproperty):
    """A value that the running model hands over; outside a running trace, an error that says how to write one."""

    def __init__(self, key: Any = None, description: str | None = None) -> None:
        eproperty.__init__(self, key, description)  # the key, or the method that is decorated

    def __get__(self, obj: Any, owner: Any = None) -> Any:
        if obj is None:
            return self
        if not in_worker():
            location = self._location(obj)
            raise TraceError(
                f"{location} was asked for while no model runs. A trace without a prompt runs nothing by itself: give "
                'it one, model.trace("..."), or read inside `with tracer.invoke("..."):`; and a value wanted after a '
                "trace is saved in it with .save()"
            )
        return eproperty.__get__(self, obj, owner)

    def __set__(self, obj: Any, value: Any) -> None:
        if not in_worker():
            self.__get__(obj)
        eproperty.__set__(self, obj, value)


class ModuleEnvoy(Envoy):
    """Any module of the tree. ``.input`` answers as the first argument and, indexed by 0 or 1, as the old pair."""

    def _place(self, key: str) -> Place:
        root = cast(Any, self.root)
        names = vars(root)
        blocks = names.get("_blocks_path")
        name = names.get("_label") or type(root._module).__name__
        return Place(f"{self.path}.{key}", name, f"{root.path}.{blocks}" if blocks else "")

    def _resolve_envoy_class(self, module: nn.Module, path: str) -> type[Envoy]:
        chosen = Envoy._resolve_envoy_class(self, module, path)
        if chosen is not Envoy:
            return chosen  # the user's own, given as envoys=
        root = cast(Any, self.root)
        if path == f"{root.path}.{vars(root).get('_blocks_path')}":
            return BlocksEnvoy
        return BlockEnvoy if isinstance(self, BlocksEnvoy) else ModuleEnvoy

    @Handoff
    def output(self, value: Any) -> Any:  # pyright: ignore[reportRedeclaration]
        """What the module returned."""
        return served(value, self._place("output"))

    @output.postprocess  # pyright: ignore[reportAttributeAccessIssue, reportUntypedFunctionDecorator]
    def output(self, value: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What to put in the place of what the module returned."""
        found: Any = Mediator.value(f"{self.path}.output")
        return replaced(value, found, self._place("output"))

    @Handoff
    def input(self, value: Any) -> Any:  # pyright: ignore[reportRedeclaration]
        """The module's first argument; ``input[0]`` are all given by position, ``input[1]`` those given by name."""
        args, kwargs = value
        return served_input(args, kwargs, self._place("input"))

    @input.postprocess  # pyright: ignore[reportAttributeAccessIssue, reportUntypedFunctionDecorator]
    def input(self, value: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """All arguments, with another first one."""
        args, kwargs = cast(Any, Mediator.value(f"{self.path}.input"))  # pyright: ignore[reportUnnecessaryCast]
        first = first_input(args, kwargs)
        new = fitted(value, first, self._place("input")) if isinstance(first, Tensor) else plain(value)
        return replace_first_input(args, kwargs, new)

    @Handoff(key="input")
    def inputs(self, value: Any) -> Any:
        """All arguments: those given by position, and those by name."""
        args, kwargs = value
        place = self._place("input")
        return tuple(served(item, place) for item in args), {k: served(item, place) for k, item in kwargs.items()}

    @inputs.postprocess
    def inputs(self, value: Any) -> Any:
        """All arguments, as plain tensors."""
        args, kwargs = value
        return plain(tuple(args)), plain(dict(kwargs))

    def skip(self, replacement: Any) -> None:
        """Do not run the module; ``replacement`` is its output."""
        Envoy.skip(self, plain(replacement))


class BlocksEnvoy(ModuleEnvoy):
    """The list of decoder blocks."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int) and not -len(self) <= key < len(self):
            place = self._place("output")
            raise MismatchError(
                f"layer {key} was asked for, but {place.model} has {len(self)} layers: {self.path}[0] to "
                f"[{len(self) - 1}]"
            )
        return Envoy.__getitem__(self, key)


class BlockEnvoy(ModuleEnvoy):
    """A decoder block, whose output is the hidden state, also as the first item of a tuple."""

    @Handoff
    def output(self, value: Any) -> Any:  # pyright: ignore[reportRedeclaration]
        """The hidden state ``[batch, seq, d_model]``: ``output[0]``, or ``output`` itself."""
        return served_block(value, self._place("output"))

    @output.postprocess  # pyright: ignore[reportAttributeAccessIssue, reportUntypedFunctionDecorator]
    def output(self, value: Any) -> Any:
        """What to put in the place of what the module returned."""
        found: Any = Mediator.value(f"{self.path}.output")
        return replaced(value, found, self._place("output"))

    resid_pre = Site("resid_pre")
    resid_mid = Site("resid_mid")
    resid_post = Site("resid_post")
    attn_out = Site("attn_out")
    mlp_out = Site("mlp_out")
    z = Site("z")
    mlp_post = Site("mlp_post")
    #: ``z`` by heads: ``[batch, seq, n_heads, d_head]``
    heads = Site("z", heads=True)

    def __getattr__(self, name: str) -> Any:
        if name in ("attention", "mlp"):  # where the module itself has no child of that name
            root = cast(Any, self.root)
            paths = root.layout.attention if name == "attention" else root.layout.mlp
            return root.get(paths[int(self.path.rpartition(".")[2])])
        return Envoy.__getattr__(self, name)


def replaced(value: Any, found: Any, place: Place) -> Any:
    """``value`` in the form of ``found``, what the module returned: alone, or first of a tuple."""
    if isinstance(found, Tensor):
        items: Any = value if isinstance(value, tuple) and len(cast("tuple[Any, ...]", value)) else (value,)
        return fitted(items[0], found, place)
    if isinstance(found, tuple) and isinstance(value, Tensor) and isinstance(found[0], Tensor):
        return (fitted(value, found[0], place), *cast("tuple[Any, ...]", found[1:]))
    return plain(value)
