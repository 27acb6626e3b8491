"""The parts of one model: its blocks, its embeddings, and where in the module tree each site lives."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn

from ...errors import ArchitectureError
from ...shape import ModelShape
from .families import EXPERTS, LINEAR, NORMED, PARALLEL, Family
from .fingerprint import fingerprint
from .taps import Tap

Site = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Architecture:
    """What the hook engine needs to know of a model. Build it with :func:`find_architecture`.

    Attributes:
        hf: the causal LM as the user gave it: perhaps wrapped by PEFT, quantised, or dispatched over devices.
        family: the ``model_type`` whose layout it follows, or ``"unknown"`` for one found by its structure.
        shape: its dimensions, its fingerprint and the sites it lacks.
        decoder: the module that owns the blocks and receives ``input_ids`` or ``inputs_embeds``, ``attention_mask``,
            ``position_ids`` and ``past_key_values``.
        blocks: the decoder blocks, in order.
        embedding, unembedding: the token embedding and the output head.
        position_embedding, final_norm: None where the model has none.
        layout: the family's entry that the parts were found by.
    """

    hf: nn.Module
    family: str
    shape: ModelShape
    decoder: nn.Module
    blocks: list[nn.Module]
    embedding: nn.Module
    position_embedding: nn.Module | None
    final_norm: nn.Module | None
    unembedding: nn.Module
    layout: Family
    taps: dict[Site, Tap] = field(repr=False)

    @property
    def max_positions(self) -> int | None:
        """The longest sequence of a model whose positions are a table; None where they are computed."""
        config: Any = self.hf.config
        if self.position_embedding is None and config.model_type not in ("gptj", "codegen"):
            return None
        return getattr(config, "max_position_embeddings", None)

    @property
    def keeps_logits(self) -> bool:
        """Whether the model can leave out the logits of earlier tokens (PEFT's wrapper passes the wish on)."""
        return "logits_to_keep" in inspect.signature(self.hf.forward).parameters or hasattr(self.hf, "peft_config")

    def tap(self, component: str, layer: int) -> Tap:
        """Where a site lives; :class:`SiteUnavailableError` with the reason if the model has no such site."""
        layer = self.shape.layer(layer, f"the site {component!r}")
        self.shape.require(component, layer)
        return self.taps[component, layer]

    def attention(self, layer: int) -> nn.Module:
        """The attention of a block (in the recurrent blocks of a hybrid, what takes its place)."""
        block = self.blocks[self.shape.layer(layer)]
        found = submodule(block, self.layout.attention)
        return found if found is not None else part(block, self.layout.recurrence or self.layout.attention)

    def mlp(self, layer: int) -> nn.Module:
        """The MLP of a block; where the block itself holds the MLP's layers (OPT), the last of them."""
        return part(self.blocks[self.shape.layer(layer)], self.layout.mlp)

    def attention_projection(self, layer: int) -> nn.Module:
        """The output projection of attention, whose input is ``z``."""
        return self.tap("z", layer).module

    def mlp_projection(self, layer: int) -> nn.Module:
        """The output projection of the MLP, whose input is ``mlp_post``."""
        return self.tap("mlp_post", layer).module


def build(hf: nn.Module, lm: nn.Module, config: object, family: str, layout: Family, name: str) -> Architecture:
    """Find the parts of a model along a family's paths, without running it.

    Args:
        hf: the model as given.
        lm: the causal LM inside it, any PEFT wrapper taken off.
        config: the configuration of its text decoder.
    """
    decoder = find_decoder(lm, layout)
    blocks = list(cast(nn.ModuleList, part(decoder, layout.blocks)))
    found: dict[Site, Tap | str] = {}
    for layer, block in enumerate(blocks):
        found |= {(component, layer): tap for component, tap in _block(block, config, layout).items()}
    taps = {site: tap for site, tap in found.items() if isinstance(tap, Tap)}
    final_norm, position = layout.final_norm, layout.position_embedding
    return Architecture(
        hf=hf,
        family=family,
        shape=_shape(taps, {site: why for site, why in found.items() if isinstance(why, str)}, config, blocks, name),
        decoder=decoder,
        blocks=blocks,
        embedding=_called(lm, "get_input_embeddings"),
        position_embedding=submodule(decoder, position) if position else None,
        final_norm=submodule(decoder, final_norm) if final_norm else None,
        unembedding=_called(lm, "get_output_embeddings"),
        layout=layout,
        taps=taps,
    )


def find_decoder(lm: nn.Module, layout: Family) -> nn.Module:
    """The module that owns the blocks, also where it sits deeper, beside the vision tower of a multimodal model."""
    paths = (layout.decoder, "model.language_model", "model.text_model", "language_model.model")
    for path in paths:
        decoder = submodule(lm, path)
        if decoder is not None and isinstance(submodule(decoder, layout.blocks), nn.ModuleList):
            return decoder
    raise ArchitectureError(f"no list of blocks {layout.blocks!r} under any of {', '.join(paths)}")


def _block(block: nn.Module, config: object, layout: Family) -> dict[str, Tap | str]:
    """The taps of one block, or the reason why a site does not exist."""
    scale = number(block, layout.scale) if layout.scale else 1.0
    found: dict[str, Tap | str] = {"resid_pre": Tap(block, "input"), "resid_post": Tap(block, "output")}

    recurrence = submodule(block, layout.recurrence) if layout.recurrence else None
    if recurrence is not None:
        found |= {"z": LINEAR, "attn_out": Tap(recurrence, "output", scale)}
    else:
        found["z"] = Tap(part(block, layout.attention_projection), "input")
        found["attn_out"] = Tap(part(block, layout.attention_out or layout.attention), "output", scale)

    mlp = part(block, layout.mlp)
    experts = submodule(mlp, "experts") is not None
    found["mlp_post"] = EXPERTS if experts else Tap(part(block, layout.mlp_projection), "input")
    found["mlp_out"] = Tap(part(block, layout.mlp_out or layout.mlp), "output", scale)

    if layout.middle is None or _parallel(config, layout):
        found["resid_mid"] = PARALLEL
    else:
        found["resid_mid"] = Tap(part(block, layout.middle), "input", in_place=True)
    if layout.normed is not None and getattr(config, layout.normed[0], None) is layout.normed[1]:
        found |= dict.fromkeys(("attn_out", "resid_mid", "mlp_out"), NORMED)
    return found


def _parallel(config: object, layout: Family) -> bool:
    if isinstance(layout.parallel, bool):
        return layout.parallel
    return any(bool(getattr(config, flag, False)) for flag in layout.parallel)


def _shape(
    taps: dict[Site, Tap], unavailable: dict[Site, str], config: object, blocks: list[nn.Module], name: str
) -> ModelShape:
    d_model, n_heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
    widths = {width_in(taps["z", layer].module) for layer in range(len(blocks)) if ("z", layer) in taps}
    if len(widths) != 1 or min(widths) % n_heads:
        raise ArchitectureError(
            f"attention's output projections read {sorted(widths)} values, which is not one multiple of {n_heads} heads"
        )
    neurons = (taps.get(("mlp_post", layer)) for layer in range(len(blocks)))
    return ModelShape(
        name=name,
        model_type=str(getattr(config, "model_type", "")),
        fingerprint=fingerprint(config),
        n_layers=len(blocks),
        d_model=d_model,
        n_heads=n_heads,
        d_head=min(widths) // n_heads,
        d_mlp=tuple(None if tap is None else width_in(tap.module) for tap in neurons),
        unavailable=unavailable,
    )


def submodule(root: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path ("" is the root), through wrappers that pass attributes on; None if absent."""
    found: object = root
    for step in path.split(".") if path else ():
        found = getattr(found, step, None)
    return found if isinstance(found, nn.Module) else None


def part(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path; :class:`ArchitectureError` if there is none."""
    found = submodule(root, path)
    if found is None:
        raise ArchitectureError(f"{type(root).__name__} has no module {path!r}")
    return found


def named_modules(root: nn.Module) -> dict[str, nn.Module]:
    """Every module below ``root``, and itself under ``""``, by its dotted path."""
    return dict(cast(Iterable[tuple[str, nn.Module]], root.named_modules()))


def width_in(linear: nn.Module) -> int:
    """How many values a linear map reads. Asks for no weight, whose shape says nothing once it is quantised."""
    for attribute in ("in_features", "nx"):  # nn.Linear and its quantised and LoRA forms; GPT-2's Conv1D
        found = getattr(linear, attribute, None)
        if isinstance(found, int):
            return found
    wrapped = getattr(linear, "base_layer", None)
    if isinstance(wrapped, nn.Module):
        return width_in(wrapped)
    raise ArchitectureError(f"a {type(linear).__name__} does not say how many values it reads (no in_features)")


def integer(config: object, key: str) -> int:
    """A number that the configuration has to have."""
    found = getattr(config, key, None)
    if not isinstance(found, int):
        raise ArchitectureError(f"the configuration has no number {key!r}, but {found!r}")
    return found


def number(block: nn.Module, attribute: str) -> float:
    """A factor that a block holds as a plain number."""
    found = getattr(block, attribute, None)
    if not isinstance(found, (int, float)):
        raise ArchitectureError(f"{type(block).__name__} has no number {attribute!r}, but {found!r}")
    return float(found)


def _called(lm: nn.Module, getter: str) -> nn.Module:
    found = getattr(lm, getter)()
    if not isinstance(found, nn.Module):
        raise ArchitectureError(f"{type(lm).__name__}.{getter}() gives {found!r}; a causal language model is needed")
    return found
