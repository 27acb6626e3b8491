"""From what leaves the last block to logits, at chosen tokens only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from .architecture.architecture import submodule
from .steering_model import SteeringModel

Step = Callable[[Tensor], Tensor]


class Tail:
    """What a model does behind its last block.

    The final norm, a projection if there is one, the unembedding, and the factor or soft cap that the configuration
    names, provided that these give the model's own logits on a probe. Otherwise the model's own forward pass is run
    over one token for each that is scored, with the given values in the place of what its last block returns: exact
    for every model, and slower.
    """

    def __init__(self, model: SteeringModel) -> None:
        self.model = model
        draw = torch.Generator().manual_seed(0)
        probe = torch.randn(3, model.d_model, generator=draw).to(model.device, model.dtype)
        with torch.inference_mode():
            expected = self.through_model(probe)
            self._steps = next((steps for steps in self._candidates() if _agree(_run(steps, probe), expected)), None)

    @property
    def direct(self) -> bool:
        """Whether the parts are known, so that the whole model need not be run."""
        return self._steps is not None

    def __call__(self, residual: Tensor) -> Tensor:
        """``[..., d_model]`` to logits ``[..., vocab]``."""
        with torch.inference_mode():
            if self._steps is not None:
                return _run(self._steps, residual)
            flat = residual.reshape(-1, residual.shape[-1])
            return self.through_model(flat).reshape(*residual.shape[:-1], -1)

    def through_model(self, residual: Tensor) -> Tensor:
        """``[n, d_model]`` to ``[n, vocab]`` by the model's own forward pass."""
        architecture, me = self.model.architecture, threading.get_ident()

        def replaced(module: Any, args: Any, output: Any) -> Any:
            if threading.get_ident() != me:
                return None
            values = residual[:, None]
            return (values, *output[1:]) if isinstance(output, tuple) else values

        handle = architecture.blocks[-1].register_forward_hook(replaced)
        try:
            with self.model.engine.suspended():
                batch = self.model.tokens.batch([[0]] * len(residual))
                return self.model.architecture.hf(**self.model.forward_arguments(batch), use_cache=False).logits[:, 0]
        finally:
            handle.remove()

    def _candidates(self) -> Iterator[list[Step]]:
        architecture = self.model.architecture
        config: Any = architecture.hf.config
        config = config.get_text_config()
        projection = submodule(architecture.decoder, "project_out")
        found: list[Any] = [architecture.final_norm, projection]
        parts = [part for part in found if part is not None]
        before: list[Step] = [lambda x: x]
        after: list[Step] = [lambda x: x]
        base = getattr(config, "dim_model_base", None)
        if base:
            before.append(lambda x: x / (config.hidden_size / base))
        for name, factor in (("logit_scale", _times), ("logits_scaling", _over), ("final_logit_softcapping", _capped)):
            value = getattr(config, name, None)
            if value:
                after.append(factor(float(value)))
        for first, last in product(reversed(before), reversed(after)):
            yield [*parts, first, architecture.unembedding, last]


def _times(factor: float) -> Step:
    return lambda x: x * factor


def _over(factor: float) -> Step:
    return lambda x: x / factor


def _capped(bound: float) -> Step:
    return lambda x: torch.tanh(x / bound) * bound


def _run(steps: list[Step], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def _agree(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    bound = 1e-5 if expected.dtype in (torch.float32, torch.float64) else 2e-2
    return bool(((found - expected).abs() <= bound * expected.abs().clamp_min(1)).all())
