"""Running tiny models and looking at what they did: shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from tests.models import tiny, tiny_tokenizer
from torch import Tensor
from transformers import LogitsProcessor

import steersman as sm

#: Unequal lengths, so that batches are padded.
PROMPTS = ["The weather today is good", "Paris", "I think that the movie was great and"]
#: Draws of the parameters with which a family writes varied text that steering changes; 0 unless named.
SEEDS = {"gpt2": 7, "llama": 5}
LONG = "The weather in Paris is good and the weather in London is bad, I think"


@cache
def steering_model(family: str) -> sm.SteeringModel:
    """A tiny model that never ends a text by itself. Shared: leave it as you find it."""
    hf = tiny(family, seed=SEEDS.get(family, 0))
    hf.generation_config.eos_token_id = None
    return sm.SteeringModel(hf, tiny_tokenizer())


def fresh_model(family: str, **overrides: Any) -> sm.SteeringModel:
    """The same, but nobody else's."""
    hf = tiny(family, seed=SEEDS.get(family, 0), **overrides)
    hf.generation_config.eos_token_id = None
    return sm.SteeringModel(hf, tiny_tokenizer())


def vector(model: sm.SteeringModel, seed: int = 0, scale: float = 1.0, width: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(width or model.d_model, generator=generator) * scale


def hook_count(hf: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in hf.modules())


@contextmanager
def counting_passes(hf: Any) -> Iterator[list[int]]:
    """Collects the number of columns of every forward pass made inside."""
    seen: list[int] = []
    handle = hf.get_input_embeddings().register_forward_hook(lambda m, args, out: seen.append(args[0].shape[-1]))
    try:
        yield seen
    finally:
        handle.remove()


@dataclass
class Trace(LogitsProcessor):
    """What a generation saw: the logits of every step, and the ids fed to the model so far."""

    scores: list[Tensor] = field(default_factory=list)
    ids: list[Tensor] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.ids.append(input_ids.clone())
        self.scores.append(scores.clone())
        return scores

    @property
    def logits(self) -> Tensor:
        """``[rows, steps, vocab]``."""
        return torch.stack(self.scores, dim=1)

    @property
    def generated(self) -> Tensor:
        """``[rows, steps]``, greedy."""
        return self.logits.argmax(-1)


def trace(model: sm.SteeringModel, prompts: Any, steer: Any = None, *, new: int = 5, **settings: Any) -> Trace:
    """The logits and tokens of a greedy generation by the package."""
    found = Trace()
    model.generate(prompts, steer=steer, max_new_tokens=new, logits_processor=[found], **settings)
    return found


def trace_hf(hf: Any, inputs: dict[str, Tensor], *, new: int = 5, **settings: Any) -> Trace:
    """The same of a plain transformers call."""
    found = Trace()
    settings = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 1} | settings
    hf.generate(**inputs, logits_processor=[found], **settings)
    return found


def inputs(model: sm.SteeringModel, prompts: Sequence[str], side: str = "left") -> dict[str, Tensor]:
    """A padded batch for a plain call."""
    rows = [model.tokens.encode(prompt) for prompt in prompts]
    columns = max(len(row) for row in rows)
    ids, mask = torch.full((len(rows), columns), 1), torch.zeros((len(rows), columns), dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(columns - len(row), columns) if side == "left" else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def assert_close(found: Tensor, expected: Tensor, what: object = "", tolerance: float = 1e-5) -> None:
    """Equal logits: max |difference| <= 1e-5 max(1, |logit|)."""
    assert found.shape == expected.shape
    off = ((found - expected).abs() / expected.abs().clamp_min(1)).max().item()
    assert off <= tolerance, f"{what}: logits differ by {off:.3g}"


def assert_same_generation(found: Trace, expected: Trace, what: object = "", tolerance: float = 1e-5) -> None:
    """Equal logits and tokens; from a near tie on (two logits within 1e-4), a row may go its own way."""
    for row in range(len(expected.generated)):
        for step in range(expected.logits.shape[1]):
            assert_close(found.logits[row, step], expected.logits[row, step], (what, row, step), tolerance)
            if found.generated[row, step] != expected.generated[row, step]:
                first, second = expected.logits[row, step].topk(2).values.tolist()
                assert first - second < 1e-4, f"{what}: row {row} chose another token at step {step}"
                break
