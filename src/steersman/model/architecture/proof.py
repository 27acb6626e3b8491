"""The proof, at load, that the parts which were found are the right ones.

Two forward passes over a few tokens. The first reads every site of every layer as it is. The second *replaces* every
site by noise of its own, all of the same size, and reads what the model makes of it. In both, in every layer:

    resid_mid  = resid_pre + attn_out                      where the block has a middle
    resid_post = resid_mid + mlp_out                       else resid_pre + attn_out + mlp_out
    resid_pre of the next block, or the input of the final norm = resid_post

In the second pass the left side is what the block computed and the right side is what was written, so the equations
hold only if each tap reads *and writes* what it claims to, the edit in place at ``resid_mid`` included; and as the
noise has one size everywhere, no large residual stream can hide a wrong contribution, and no dead layer can pass for
a right one. In that pass too:

    ``z`` is written the same at each token of a row, so attn_out has to be the same there: it depends on nothing else
    ``mlp_post`` is written the same in each row, so mlp_out has to be the same there
    two rows agree but for their last token, so the ``z`` computed before it have to agree: the attention is causal

Nothing of the model is changed: hooks are removed, training flags and random state put back, also after an error.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...errors import ArchitectureError
from ...sites import FORWARD_ORDER
from .architecture import Architecture, Site
from .taps import Tap

ROWS, TOKENS = 2, 6

#: The additions of a block round its result at most eight times (two sums, and two products each for reading, writing
#: and computing a scaled contribution), each by at most half an epsilon of the sum of magnitudes.
ROUNDINGS = 4.0
#: Equal rows of a matrix product may fall to different kernels, and so differ by some roundings of its inputs and
#: outputs: at most this many epsilons of their size, and in float32 no more than reduced-precision products explain.
#: What is wrong differs by a good part of its size.
ROUNDED_ROWS = 16.0
SAME_ROWS = 2e-3


def prove(arch: Architecture) -> None:
    """Raise :class:`ArchitectureError` saying which equation fails, at which layer and by how much, if any does."""
    with _undisturbed(arch.hf):
        for noise in (None, _Noise()):
            seen = _Pass(arch, noise)
            seen.run()
            seen.check()


@dataclass
class _Noise:
    """What the second pass writes. Its own generator: the caller's random state is not touched."""

    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def like(self, component: str, value: Tensor) -> Tensor:
        width = value.shape[-1]
        if component == "z":  # the same at each token of a row
            drawn = torch.randn(ROWS, 1, width, generator=self.generator).expand(ROWS, TOKENS, width)
        elif component == "mlp_post":  # the same in each row
            drawn = torch.randn(1, TOKENS, width, generator=self.generator).expand(ROWS, TOKENS, width)
        elif component == "resid_pre":  # rows that differ in their last token alone
            drawn = torch.randn(1, TOKENS, width, generator=self.generator).repeat(ROWS, 1, 1)
            drawn[1:, -1] = torch.randn(ROWS - 1, width, generator=self.generator)
        else:
            drawn = torch.randn(ROWS, TOKENS, width, generator=self.generator)
        return drawn.reshape(value.shape).to(value)


@dataclass
class _Pass:
    """One forward pass: what was found at each site, and what stood there afterwards."""

    arch: Architecture
    noise: _Noise | None
    found: dict[Site, Tensor] = field(default_factory=dict[Site, Tensor])
    left: dict[Site, Tensor] = field(default_factory=dict[Site, Tensor])
    decoder_calls: int = 0
    epsilon: float = torch.finfo(torch.float32).eps

    def run(self) -> None:
        with ExitStack() as hooks:
            for (component, layer), tap in self.arch.taps.items():
                hooks.enter_context(_hooked(tap, self._visit(component, layer)))
            if self.arch.final_norm is not None:
                tap = Tap(self.arch.final_norm, "input")
                hooks.enter_context(_hooked(tap, self._read("resid_pre", self.arch.shape.n_layers)))
            handle = self.arch.decoder.register_forward_pre_hook(self._count)
            hooks.callback(handle.remove)
            ids = _token_ids(self.arch)
            self.arch.hf(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)

    def _count(self, *_: object) -> None:
        self.decoder_calls += 1

    def _visit(self, component: str, layer: int) -> Callable[[Tensor], Tensor | None]:
        def act(value: Tensor) -> Tensor | None:
            site = (component, layer)
            self.found[site] = self.left[site] = self._keep(component, layer, value)
            if self.noise is None:
                return None
            written = self.noise.like(component, value)
            self.left[site] = self._keep(component, layer, written)
            return written

        return act

    def _read(self, component: str, layer: int) -> Callable[[Tensor], None]:
        def act(value: Tensor) -> None:
            self.found[component, layer] = self._keep(component, layer, value)

        return act

    def _keep(self, component: str, layer: int, value: Tensor) -> Tensor:
        """A copy, as the model may add to the tensor in place, with its batch and sequence axes apart."""
        width = self.arch.shape.width(component, min(layer, self.arch.shape.n_layers - 1))
        if value.shape[-1] != width or value.numel() != ROWS * TOKENS * width:
            raise failure(
                self.arch,
                f"{component} in layer {layer} has shape {list(value.shape)} for {ROWS} rows of {TOKENS} tokens; "
                f"its last axis should be {width}",
            )
        if value.dtype.is_floating_point:
            self.epsilon = max(self.epsilon, torch.finfo(value.dtype).eps)
        return value.detach().to("cpu", torch.float32, copy=True).reshape(ROWS, TOKENS, width)

    def check(self) -> None:
        if self.decoder_calls != 1:
            raise failure(
                self.arch,
                f"one forward pass called its decoder, {_kind(self.arch.decoder)}, {self.decoder_calls} times",
            )
        for component, layer in sorted(self.arch.taps, key=lambda site: (site[1], FORWARD_ORDER[site[0]])):
            if (component, layer) not in self.found:
                tap = self.arch.taps[component, layer]
                raise failure(self.arch, f"{component} in layer {layer}: no forward pass calls its {_kind(tap.module)}")
            if not bool(self.found[component, layer].isfinite().all()):
                raise failure(
                    self.arch,
                    f"{component} in layer {layer} is not finite; load the model in bfloat16 or float32, "
                    "if it is in float16, and check its weights",
                )
        for layer in range(self.arch.shape.n_layers):
            self._check_sums(layer)
            if self.noise is not None:
                self._check_sources(layer)

    def _check_sums(self, layer: int) -> None:
        found, left = self.found, self.left
        contributions = [name for name in ("attn_out", "mlp_out") if (name, layer) in left]
        if ("resid_mid", layer) in left:
            self._equal("resid_mid", layer, found["resid_mid", layer], ["resid_pre", "attn_out"])
            self._equal("resid_post", layer, found["resid_post", layer], ["resid_mid", "mlp_out"])
        elif contributions:
            self._equal("resid_post", layer, found["resid_post", layer], ["resid_pre", *contributions])
        following = found.get(("resid_pre", layer + 1))
        if following is not None:
            last = layer + 1 == self.arch.shape.n_layers
            reader = "the input of the final norm" if last else f"resid_pre of layer {layer + 1}"
            self._equal(reader, layer, following, ["resid_post"])

    def _equal(self, name: str, layer: int, got: Tensor, components: list[str]) -> None:
        terms = [self.left[component, layer] for component in components]
        magnitude = torch.stack(terms).abs().sum(0)
        error = got - torch.stack(terms).sum(0)
        if bool((error.abs() <= ROUNDINGS * self.epsilon * magnitude).all()):
            return
        # Said relative to the smallest term, so that a large residual stream does not make an error look small.
        smallest = min(_size(term) for term in terms) or torch.finfo(torch.float32).tiny
        off, allowed = _size(error) / smallest, ROUNDINGS * self.epsilon * _size(magnitude) / smallest
        which = "" if self.noise is None else ", with every site replaced by noise"
        raise failure(
            self.arch,
            f"{name} != {' + '.join(components)} in layer {layer}{which}: they differ by {off:.2g} of the size of the "
            f"smallest term; rounding explains {allowed:.1g}",
        )

    def _check_sources(self, layer: int) -> None:
        """That ``z`` and ``mlp_post`` are all that the contributions depend on, and that the past sees no future."""
        for source, target, axis in (("z", "attn_out", 1), ("mlp_post", "mlp_out", 0)):
            if (source, layer) in self.left and (target, layer) in self.found:
                out = self.found[target, layer]
                same = out.narrow(axis, 0, 1).expand_as(out)
                self._same(out, same, f"{target} depends on more than {source}", layer)
        mixed = self.found.get(("z", layer), self.found.get(("attn_out", layer)))
        if mixed is not None:
            self._same(mixed[1:, :-1], mixed[:1, :-1], "attention reads later tokens: not a causal decoder", layer)

    def _same(self, one: Tensor, other: Tensor, otherwise: str, layer: int) -> None:
        off, size = _size(one - other), _size(one)
        if off > max(SAME_ROWS, ROUNDED_ROWS * self.epsilon) * size:
            raise failure(self.arch, f"{otherwise} (layer {layer}: by {off / size:.2g} of its size)")


def failure(arch: Architecture, what: str) -> ArchitectureError:
    """The error of a failed proof, in the name of the model and of the family it was taken for."""
    return ArchitectureError(
        f"{arch.shape.name}: {_kind(arch.hf)} was taken for family {arch.family!r}, but {what}. "
        "So its activations would be misread; hooks of other libraries on the model can also be the cause"
    )


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _size(values: Tensor) -> float:
    return float(values.square().sum().sqrt())


@contextmanager
def _hooked(tap: Tap, act: Callable[[Tensor], Tensor | None]) -> Generator[None]:
    handle = tap.hook(act)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _undisturbed(model: nn.Module) -> Generator[None]:
    """No gradients, no dropout, and afterwards the training flags and the random state of before."""
    flags = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)
    fork: Callable[..., AbstractContextManager[None]] = getattr(torch.random, "fork_rng")  # noqa: B009, untyped
    with fork(devices=devices), torch.no_grad():
        try:
            for module, _ in flags:
                module.training = False  # not train(): some adapters merge their weights there
            yield
        finally:
            for module, training in flags:
                module.training = training


def _token_ids(arch: Architecture) -> Tensor:
    """Rows of ids that any vocabulary has, on the device where the model starts."""
    vocabulary = getattr(arch.embedding, "num_embeddings", ROWS * TOKENS)
    ids = (torch.arange(ROWS * TOKENS) % vocabulary).reshape(ROWS, TOKENS)
    real = (p.device for p in arch.hf.parameters() if p.device.type != "meta")
    return ids.to(next(real, torch.device("cpu")))
