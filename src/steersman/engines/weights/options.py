"""Biases that an architecture has a place for, but a model has not: the options of its configuration that give them.

Llama's ``mlp_bias`` and ``attention_bias`` are such options: with them the same architecture is an ordinary checkpoint
with biases, zero where nothing asks for them. Which option gives which bias is not looked up but tried, on a model
without weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...errors import UnsupportedError


@dataclass(frozen=True)
class BiasOptions:
    """Options to set, and the biases that come with them.

    Attributes:
        settings: option of the (text) configuration -> its new value.
        added: name -> shape of every new parameter.
    """

    settings: dict[str, bool]
    added: dict[str, tuple[int, ...]]


def bias_options(model: nn.Module, missing: Iterable[str], refusals: Mapping[str, str], remedy: str) -> BiasOptions:
    """The options that give a model the biases it lacks, and change nothing else.

    Args:
        model: the causal language model; its weights are not touched.
        missing: names of the biases wanted.
        refusals: for each, what to say if it cannot be had.
        remedy: what can be done instead.

    Raises:
        UnsupportedError: the architecture has no place for one of them.
    """
    settings: dict[str, bool] = {}
    added: dict[str, tuple[int, ...]] = {}
    offered = _offers(model) if missing else {}
    for name in missing:
        if name in added:
            continue
        option = next((option for option, biases in offered.items() if name in biases), None)
        if option is None:
            raise UnsupportedError(f"{refusals[name]}; {remedy}")
        settings[option] = True
        added |= offered[option]
    return BiasOptions(settings, added)


def _offers(model: nn.Module) -> dict[str, dict[str, tuple[int, ...]]]:
    """For each option that is off and only adds biases to linear maps: those."""
    config: Any = model.config
    text = _text(config)
    flags = [key for key, value in text.to_dict().items() if "bias" in key and value is False]
    # an option that older configurations leave out
    flags += [key for key in ("mlp_bias", "attention_bias") if getattr(text, key, None) is False and key not in flags]
    before = _shapes(model)
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for flag in flags:
        changed = copy.deepcopy(config)
        setattr(_text(changed), flag, True)
        try:
            with torch.device("meta"):
                twin = type(model)(changed)
        except Exception:  # an option that this architecture cannot be built with is none
            continue
        after = _shapes(twin)
        new = {name: shape for name, shape in after.items() if name not in before}
        same = all(after.get(name) == shape for name, shape in before.items())
        if same and new and all(_bias_of_linear(twin, name) for name in new):
            found[flag] = new
    return found


def _bias_of_linear(model: nn.Module, name: str) -> bool:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    return leaf == "bias" and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}


def _text(config: Any) -> Any:
    return config.get_text_config(decoder=True)
