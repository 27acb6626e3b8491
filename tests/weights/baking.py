"""Baking tiny models and running what came out with plain transformers: shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.models import tiny, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM

import steersman as sm

IDS = [0, 53, 73, 70, 222, 88, 70, 66, 85, 73, 70, 83]
NEW = 4  # greedy tokens that a bake of the tests is verified on


def model_of(family: str, folder: Path | None = None, **overrides: Any) -> sm.SteeringModel:
    """A tiny model, loaded from a folder if one is given."""
    hf = tiny(family, **overrides)
    hf.generation_config.eos_token_id = None
    if folder is None:
        return sm.SteeringModel(hf, tiny_tokenizer())
    hf.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return sm.SteeringModel.from_pretrained(folder)


def direction(model: sm.SteeringModel, seed: int = 0) -> Tensor:
    return torch.randn(model.d_model, generator=torch.Generator().manual_seed(77 + seed))


def bake(edited: sm.SteeringModel, folder: Path, **options: Any) -> Any:
    return sm.bake(edited, folder, **({"max_new_tokens": NEW} | options))


@torch.no_grad()
def plain_logits(folder: Path, ids: list[int] | None = None, **options: Any) -> Tensor:
    """What transformers alone makes of a folder: ``[tokens, vocab]``."""
    hf = AutoModelForCausalLM.from_pretrained(folder, **({"dtype": torch.float32} | options)).eval()
    return hf(input_ids=torch.tensor([ids or IDS]), use_cache=False).logits[0]


def off(found: Tensor, expected: Tensor) -> float:
    """The largest ``|dlogit| / max(1, |logit|)``."""
    return float(((found - expected).abs() / expected.abs().clamp_min(1)).max())
