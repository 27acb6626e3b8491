"""The places of a model where vLLM can be made to steer, and how a plan's sites map onto them.

A place is one point of the forward pass: ``resid_pre`` of block 0, and ``attn_out``, ``resid_mid``, ``mlp_out`` and
``resid_post`` of every block. ``resid_pre`` of a later block is the same point as ``resid_post`` of the block before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ArchitectureError
from ...model.architecture.architecture import integer
from ...model.architecture.families import FAMILIES, NORMED, PARALLEL, Family
from ...model.architecture.fingerprint import fingerprint
from ...shape import ModelShape
from ...sites import FORWARD_ORDER

#: (component, layer)
Place = tuple[str, int]

#: The components of a block that a place can be; ``resid_pre`` only of block 0.
STEERED = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")

SPLIT = (
    "vLLM splits heads and neurons over devices and fuses what surrounds them; name a site of the residual stream "
    "(resid_pre, resid_mid, resid_post) or what is added to it (attn_out, mlp_out), or use the hook engine"
)
UNTRIED = (
    "where vLLM keeps it has not been verified for this family of models; resid_pre and resid_post can be steered in "
    "all, and the hook engine steers this, too"
)

#: Families whose vLLM modules bear the names that transformers gives them, verified against the hook engine. The
#: others are steered between their blocks only.
VERIFIED = ("llama", "gpt2")


def place_of(component: str, layer: int) -> tuple[Place, int]:
    """The place of a site, and its order among the sites that share it."""
    if component == "resid_pre" and layer > 0:
        return ("resid_post", layer - 1), 1
    return (component, layer), 0


def forward_order(place: Place) -> tuple[int, int]:
    """A key that sorts places as a forward pass meets them."""
    return place[1], FORWARD_ORDER[place[0]]


def layout_of(config: Any) -> Family | None:
    """Where a family keeps the parts inside a block, or None if that was not verified in vLLM."""
    model_type = str(getattr(config, "model_type", ""))
    return FAMILIES[model_type] if model_type in VERIFIED else None


def shape_from(config: Any, name: str, allowed: tuple[str, ...] = STEERED) -> ModelShape:
    """What a plan is checked against, from the text configuration of a model alone.

    Args:
        config: the Hugging Face configuration of the text decoder.
        name: what messages call the model.
        allowed: the components that the engine was asked to steer.

    Raises:
        ArchitectureError: the configuration lacks a number that plans need.
    """
    layers, width = integer(config, "num_hidden_layers"), integer(config, "hidden_size")
    heads = integer(config, "num_attention_heads")
    missing = _missing(config, allowed)
    head = getattr(config, "head_dim", None)
    return ModelShape(
        name=name,
        model_type=str(getattr(config, "model_type", "")),
        fingerprint=fingerprint(config),
        n_layers=layers,
        d_model=width,
        n_heads=heads,
        d_head=head if isinstance(head, int) else width // heads,
        d_mlp=(None,) * layers,
        unavailable={(component, layer): why for component, why in missing.items() for layer in range(layers)},
    )


def _missing(config: Any, allowed: tuple[str, ...]) -> Mapping[str, str]:
    layout = layout_of(config)
    found = {"z": SPLIT, "mlp_post": SPLIT}
    for component in ("attn_out", "resid_mid", "mlp_out"):
        if layout is None:
            found[component] = UNTRIED
        elif layout.normed and getattr(config, layout.normed[0], None) is layout.normed[1]:
            found[component] = NORMED
        elif component not in allowed:
            found[component] = f"this engine was started for the sites {', '.join(allowed)} only"
    if layout is not None and (layout.middle is None or _parallel(config, layout)):
        found["resid_mid"] = PARALLEL
    return found


def _parallel(config: Any, layout: Family) -> bool:
    if isinstance(layout.parallel, bool):
        return layout.parallel
    return any(bool(getattr(config, flag, False)) for flag in layout.parallel)


def places(shape: ModelShape) -> list[Place]:
    """Every place of a model, in forward order."""
    found: list[Place] = [("resid_pre", 0)]
    for layer in range(shape.n_layers):
        found += [
            (component, layer)
            for component in ("attn_out", "resid_mid", "mlp_out", "resid_post")
            if (component, layer) not in shape.unavailable
        ]
    return found


__all__ = ["STEERED", "ArchitectureError", "Place", "forward_order", "layout_of", "place_of", "places", "shape_from"]
