"""Which parameters write the residual stream: the matrices, biases and tables behind each site."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UnsupportedError
from ...model.architecture import Architecture
from ...model.architecture.architecture import submodule
from .placement import Site
from .seen import Seen

#: What the output matrix of an expert, or of a shared expert, is called.
_DOWN = ("down_proj", "w2", "c_proj", "output_linear", "fc2")


@dataclass(frozen=True)
class Matrix:
    """One linear map whose output is written, and its bias.

    Attributes:
        weight, bias: names of the parameters; that of the bias also where there is none yet.
        biased: whether it has a bias.
        inputs_first: stored ``[in, out]`` rather than ``[out, in]``; of experts, ``[experts, in, out]``.
        stacked: the matrices of several experts in one parameter, with a leading axis.
    """

    weight: str
    bias: str
    biased: bool
    inputs_first: bool = False
    stacked: bool = False


@dataclass(frozen=True)
class Gain:
    """A norm after the write: only what commutes with its gain is exact.

    Attributes:
        weight, bias: names of the parameters; None where the norm has no bias.
        plus_one: it multiplies by ``1 + weight``, as Gemma's norms do.
    """

    weight: str
    bias: str | None
    plus_one: bool


@dataclass(frozen=True)
class Writer:
    """All that one site's value is made of: ``value = scale * (sum of matrices)``, perhaps through a norm.

    Attributes:
        site: ``attn_out`` or ``mlp_out`` of a layer.
        matrices: those summed up, a mixture's experts among them.
        carriers: those whose bias is added exactly once to every token.
        scale: what the block multiplies it by.
        gain: the norm after it, if any.
    """

    site: Site
    matrices: tuple[Matrix, ...]
    carriers: tuple[Matrix, ...]
    scale: float = 1.0
    gain: Gain | None = None


@dataclass(frozen=True)
class Tables:
    """What enters block 0: ``scale * embedding[token] + position_scale * position[place]``.

    Attributes:
        embedding, position: names of the parameters; None for no table of positions.
        unembedding: the name of the output matrix, which may be the embedding itself.
        tied: whether it is.
        computed: positions are added that no table holds.
        norm: the norm between the tables and block 0, whose gain alone can take a map up, or None.
    """

    embedding: str
    position: str | None
    unembedding: str
    tied: bool
    scale: float
    position_scale: float
    computed: bool
    norm: Gain | None = None


@dataclass
class Writers:
    """The writers of a model, found when asked for."""

    architecture: Architecture
    seen: Seen
    _names: dict[int, str] = field(default_factory=dict[int, str])

    def __post_init__(self) -> None:
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            self._names.setdefault(id(parameter), name)

    @cached_property
    def model(self) -> nn.Module:
        """The causal language model."""
        return self.architecture.hf

    def name(self, parameter: Any) -> str:
        """The name of a parameter in the model."""
        return self._names[id(parameter)]

    def module_name(self, module: nn.Module) -> str:
        """The dotted path of a module."""
        return next(name for name, found in self.model.named_modules() if found is module)

    # -- attention and MLP --------------------------------------------------------------------------------------

    def reader(self, site: Site) -> Matrix:
        """The matrix that reads ``z`` or ``mlp_post`` of a layer."""
        component, layer = site
        own = self.architecture
        found = own.attention_projection(layer) if component == "z" else own.mlp_projection(layer)
        return self._matrix(found)

    def writer(self, site: Site) -> Writer:
        """What ``attn_out`` or ``mlp_out`` of a layer is made of.

        Raises:
            UnsupportedError: its parameters cannot be told.
        """
        component, layer = site
        own, tap = self.architecture, self.architecture.tap(component, layer)
        if component == "attn_out":
            matrices, carriers = self._attention(layer)
        else:
            matrices, carriers = self._mlp(layer)
        projections = {m.weight.rpartition(".")[0] for m in matrices}
        inside = own.attention(layer) if component == "attn_out" else own.mlp(layer)
        through = tap.module is inside or self.module_name(tap.module) in projections
        gain = None if through else self._gain(tap.module)
        return Writer(site, matrices, carriers, tap.scale, gain)

    def _attention(self, layer: int) -> tuple[tuple[Matrix, ...], tuple[Matrix, ...]]:
        own = self.architecture
        if ("z", layer) in own.taps:
            found = self._matrix(own.attention_projection(layer))
        else:  # a recurrence in place of attention
            projection = submodule(own.attention(layer), "out_proj")
            if projection is None:
                raise UnsupportedError(
                    f"{own.shape.name}: what layer {layer} has in place of attention has no out_proj, so its weights "
                    "cannot be told; keep the plan as an edit"
                )
            found = self._matrix(projection)
        return (found,), (found,)

    def _mlp(self, layer: int) -> tuple[tuple[Matrix, ...], tuple[Matrix, ...]]:
        own = self.architecture
        if ("mlp_post", layer) in own.taps:
            found = self._matrix(own.mlp_projection(layer))
            return (found,), (found,)
        matrices: list[Matrix] = []
        carriers: list[Matrix] = []
        for matrix, shared in self._experts(own.mlp(layer)):
            matrices.append(matrix)
            if shared or (matrix.biased and matrix.stacked and self.seen.weights_sum_to_one(own.mlp(layer))):
                carriers.append(matrix)
        if not matrices:
            raise UnsupportedError(
                f"{own.shape.name}: the output matrices of the experts of layer {layer} cannot be told; keep the plan "
                "as an edit: model.edit(plan).save_pretrained(...)"
            )
        return tuple(matrices), tuple(carriers)

    def _experts(self, mlp: nn.Module) -> Iterator[tuple[Matrix, bool]]:
        """Each output matrix of a mixture, and whether it serves every token with weight one."""
        for path, module in mlp.named_modules():
            leaf = path.rpartition(".")[2]
            if leaf in _DOWN and isinstance(getattr(module, "weight", None), Tensor):
                top = path.partition(".")[0]
                gated = any(hasattr(mlp, f"{top}{ending}") for ending in ("_gate", "_router"))
                yield self._matrix(module), top.startswith("shared") and not gated
            for name in _DOWN:
                stacked = getattr(module, name, None)
                if isinstance(stacked, nn.Parameter) and stacked.dim() == 3:
                    yield self._stack(module, name, stacked), False

    def _stack(self, module: nn.Module, name: str, weight: nn.Parameter) -> Matrix:
        bias = getattr(module, f"{name}_bias", None)
        own = self.name(weight)
        transposed = bool(getattr(module, "is_transposed", weight.shape[2] == self.architecture.shape.d_model))
        return Matrix(own, f"{own}_bias", isinstance(bias, Tensor), transposed, stacked=True)

    def _matrix(self, module: nn.Module) -> Matrix:
        weight = self.name(module.weight)
        bias = getattr(module, "bias", None)
        conv = type(module).__name__ == "Conv1D"  # GPT-2's: y = x W + b
        return Matrix(weight, weight.removesuffix("weight") + "bias", isinstance(bias, Tensor), conv)

    # -- norms --------------------------------------------------------------------------------------------------

    def _gain(self, norm: nn.Module) -> Gain:
        weight = getattr(norm, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.shape != (self.architecture.shape.d_model,):
            raise UnsupportedError(
                f"{self.architecture.shape.name}: what is written passes through a {type(norm).__name__}, which no "
                "weight can be folded into; keep the plan as an edit: model.edit(plan).save_pretrained(...)"
            )
        bias = getattr(norm, "bias", None)
        name = self.name(bias) if isinstance(bias, nn.Parameter) else None
        return Gain(self.name(weight), name, _adds_one(norm, weight))

    # -- embeddings ---------------------------------------------------------------------------------------------

    def tables(self) -> Tables:
        """What enters block 0.

        Raises:
            UnsupportedError: more than tables enters it, such as positions that are computed.
        """
        own = self.architecture
        embedding = cast(Any, own.embedding).weight
        position = getattr(own.position_embedding, "weight", None)
        unembedding = cast(Any, own.unembedding).weight
        norm = self._embedding_norm()
        scale, position_scale = self.seen.embedding_scales() if norm is None else (1.0, 1.0)
        return Tables(
            embedding=self.name(embedding),
            position=self.name(position) if isinstance(position, nn.Parameter) else None,
            unembedding=f"{self.module_name(own.unembedding)}.weight",
            tied=self._tied(embedding, unembedding),
            scale=scale,
            position_scale=position_scale,
            computed=own.position_embedding is not None and not isinstance(position, nn.Parameter),
            norm=self._gain(norm) if norm is not None else None,
        )

    def _tied(self, embedding: Any, unembedding: Any) -> bool:
        """Whether the output matrix is the embedding, also where both are offloaded and each has a stand-in."""
        if unembedding is embedding:
            return True
        known = cast("dict[str, str]", getattr(self.model, "all_tied_weights_keys", None) or {})
        return embedding.is_meta and known.get(self.name(unembedding)) == self.name(embedding)

    def _embedding_norm(self) -> nn.Module | None:
        """A norm between the embeddings and block 0, as BLOOM has."""
        own = self.architecture
        named = [(name, child) for name, child in own.decoder.named_children() if "norm" in name.lower()]
        return next((child for name, child in named if child is not own.final_norm and "embed" in name.lower()), None)


def _adds_one(norm: nn.Module, weight: Tensor) -> bool:
    """Whether a norm multiplies by ``1 + weight``: with zero weights it lets something through."""
    bare = copy.copy(norm)
    bare.__dict__.pop("forward", None)  # of an offloaded norm: what would fetch its weights first
    zeros = {name: nn.Parameter(torch.zeros(p.shape), False) for name, p in norm.named_parameters(recurse=False)}
    bare.__dict__["_parameters"] = zeros
    with torch.no_grad():
        out = bare.forward(torch.linspace(-1, 1, weight.shape[0])[None])
    return bool(out.abs().max() > 0)
