"""A tap: the place in the module tree where one site can be read and edited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...errors import ArchitectureError


@dataclass(frozen=True)
class Tap:
    """Where one site of one layer lives.

    Attributes:
        module: the module to hook.
        side: whether the site is the module's first input (pre-hook) or its output (hook). An output may be a tensor
            or a tuple that begins with it; an input may have been passed by position or by name.
        scale: the site's value is ``scale`` times the tensor found there, and an edit writes ``value / scale``.
        in_place: the tensor is the residual stream itself, which the block goes on using. An edit has to change that
            tensor; replacing the module's input would leave the stream as it was.

    The tensor may have its batch and sequence axes flattened into one (OPT's MLP), and after the hook the model may
    add to it in place (Falcon): keep a copy of what should be kept.
    """

    module: nn.Module
    side: Literal["input", "output"]
    scale: float = 1.0
    in_place: bool = False

    def attach(self, act: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call ``act`` with the tensor at the tap in every forward pass; what it returns, if anything, takes its place.

        The tensor is as the model passes it: not yet times ``scale``.
        """
        if self.side == "input":
            return self.module.register_forward_pre_hook(_Input(self, act), with_kwargs=True)
        return self.module.register_forward_hook(_Output(self, act))

    def hook(self, act: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """As :meth:`attach`, with the site's value, ``scale`` times the tensor."""

        def scaled(found: Tensor) -> Tensor | None:
            edited = act(found * self.scale)
            return None if edited is None else edited / self.scale

        return self.attach(act if self.scale == 1.0 else scaled)

    def place(self, found: Tensor, act: Callable[[Tensor], Tensor | None]) -> Tensor | None:
        """What has to take the place of ``found``, the tensor at the tap, if anything."""
        edited = act(found)
        if edited is None:
            return None
        if not self.in_place:
            return edited.contiguous()  # GPT-2's projections view their input
        found.copy_(edited)
        return None


@dataclass(frozen=True)
class _Input:
    tap: Tap
    act: Callable[[Tensor], Tensor | None]

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if kwargs is None:  # torch leaves them out while another thread registers or removes this very hook
            return None
        if args:
            edited = self.tap.place(_tensor(args[0], module), self.act)
            return None if edited is None else ((edited, *args[1:]), kwargs)
        name = next((key for key, value in kwargs.items() if isinstance(value, Tensor)), None)
        edited = self.tap.place(_tensor(None if name is None else kwargs[name], module), self.act)
        return None if edited is None or name is None else (args, kwargs | {name: edited})


@dataclass(frozen=True)
class _Output:
    tap: Tap
    act: Callable[[Tensor], Tensor | None]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: object) -> object:
        if not isinstance(output, tuple):
            return self.tap.place(_tensor(output, module), self.act)
        items = cast(tuple[object, ...], output)
        edited = self.tap.place(_tensor(items[0] if items else None, module), self.act)
        return None if edited is None else (edited, *items[1:])


def _tensor(found: object, module: nn.Module) -> Tensor:
    if not isinstance(found, Tensor):
        raise ArchitectureError(
            f"expected a tensor at a {type(module).__name__}, found {type(found).__name__}; "
            "this model passes its activations in a way that is not understood"
        )
    return found
