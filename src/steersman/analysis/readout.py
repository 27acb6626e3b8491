"""The linear path from the residual stream to the logits: the gain of the final norm, then the unembedding."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..model import SteeringModel

#: Rows of the unembedding that are turned into float32 at once.
ROWS = 16384
#: How loud the norm is asked: so loud that its epsilon does not count.
LOUD = 1000.0
#: What models do to their logits after the unembedding, by the name in their configuration.
AFTERWARDS = {
    "final_logit_softcapping": "the model caps its logits softly at {}",
    "logits_scaling": "the model divides its logits by {}",
    "logit_scale": "the model multiplies its logits by {}",
}


@dataclass(frozen=True, eq=False)
class Readout:
    """``W (g * v)`` of directions, ``v`` centred if the norm centres.

    Attributes:
        gain: ``[d_model]`` float32, or None for the unembedding alone.
        centred: whether the norm subtracts the mean.
        unembedding: the output head.
        how, notes: in words.
    """

    gain: Tensor | None
    centred: bool
    unembedding: nn.Module
    how: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, model: SteeringModel, norm: Literal["gain", "none"]) -> Readout:
        """The readout of a model."""
        architecture = model.architecture
        final, notes = architecture.final_norm, _afterwards(architecture.hf)
        _check_width(model)
        if norm == "none":
            return cls(None, False, architecture.unembedding, "direct path, unembedding only", notes)
        if final is None:
            notes = (*notes, "the model has no final norm")
            return cls(None, False, architecture.unembedding, "direct path, unembedding only", notes)
        gain, centred = gain_of(final, model.d_model)
        return cls(gain, centred, architecture.unembedding, "direct path, weighed by the final norm's gain", notes)

    def __call__(self, direction: Tensor) -> Tensor:
        """The logits ``[vocab]`` of a direction ``[d_model]``, float32 on the CPU."""
        return self._unembed(self._weighed(direction)).cpu()

    def tops(self, directions: Tensor) -> Tensor:
        """The largest |logit| of each of several directions ``[n, d_model]``."""
        if not len(directions):
            return torch.empty(0)
        weighed = self._weighed(directions)
        plain = _plain_weight(self.unembedding)
        if plain is None:
            return torch.stack([self._unembed(one).abs().max() for one in weighed]).cpu()
        tops = torch.zeros(len(directions), device=plain.device)
        for start in range(0, len(plain), ROWS):
            part = plain[start : start + ROWS].float() @ weighed.to(plain.device).T
            tops = torch.maximum(tops, part.abs().amax(0))
        return tops.cpu()

    def _weighed(self, directions: Tensor) -> Tensor:
        if self.gain is None:
            return directions
        return self.gain * (directions - directions.mean(-1, keepdim=True) if self.centred else directions)

    @torch.no_grad()
    def _unembed(self, direction: Tensor) -> Tensor:
        plain = _plain_weight(self.unembedding)
        if plain is None:  # quantised, adapted or offloaded: what the module adds for the direction
            return _difference(self.unembedding, direction)
        if plain.dtype == torch.float32:
            return plain @ direction.to(plain.device)
        here = direction.to(plain.device)
        return torch.cat([plain[start : start + ROWS].float() @ here for start in range(0, len(plain), ROWS)])


def gain_of(norm: nn.Module, width: int) -> tuple[Tensor, bool]:
    """The gain ``[width]`` of a norm, and whether it subtracts the mean, as it answers.

    Asked rather than read, since models write their gain in several ways (Gemma's is one more than its weight). A norm
    turns ``x`` into ``g * x / rms(x) + b``; for values ``x`` without a mean, that is so with and without centring.

    Raises:
        UnsupportedError: when it does not answer like a norm.
    """
    asked = norm if any(p.is_meta for p in norm.parameters()) else copy.deepcopy(norm).float()
    parameter = next(norm.parameters(), None)
    device = torch.device("cpu") if parameter is None or parameter.is_meta else parameter.device
    dtype = torch.float32 if asked is not norm or parameter is None else parameter.dtype
    signs = torch.ones(width)
    signs[1::2] = -1
    if width % 2:
        signs[-3:] = torch.tensor([1.0, 1.0, -2.0]) if width >= 3 else 0
    probe = signs * LOUD
    with torch.no_grad():

        def answer(values: Tensor) -> Tensor:
            return asked(values.to(device, dtype)[None, None]).float().cpu()[0, 0]

        plus, minus, twice, shifted = (answer(v) for v in (probe, -probe, 2 * probe, probe + LOUD))
    gain = (plus - minus) / 2 * (signs.square().mean().sqrt() / signs)
    if not torch.allclose(plus, twice, rtol=1e-2, atol=1e-4):
        raise UnsupportedError(
            f'the final {type(norm).__name__} grows with its input, so it is no norm with a gain; use norm="none" or '
            "prompt="
        )
    return gain, bool(torch.allclose(plus, shifted, rtol=1e-2, atol=1e-3))


def _afterwards(hf: Any) -> tuple[str, ...]:
    config: Any = hf.config.get_text_config()
    found = {name: getattr(config, name, None) for name in AFTERWARDS}
    return tuple(AFTERWARDS[name].format(value) for name, value in found.items() if value and value != 1.0)


def _plain_weight(unembedding: nn.Module) -> Tensor | None:
    """The weight of an ordinary linear map without more to it, else None."""
    weight = unembedding.weight if type(unembedding) is nn.Linear else None
    plain = weight is not None and type(weight.data) is Tensor and weight.is_floating_point() and not weight.is_meta
    return weight.detach() if weight is not None and plain else None


def _difference(unembedding: nn.Module, direction: Tensor) -> Tensor:
    parameter = next((p for p in unembedding.parameters() if p.is_floating_point() and not p.is_meta), None)
    rows = torch.stack([direction, torch.zeros_like(direction)])
    rows = rows if parameter is None else rows.to(parameter.device, parameter.dtype)
    logits = unembedding(rows).float()
    return (logits[0] - logits[1]).cpu()


def _check_width(model: SteeringModel) -> None:
    width = getattr(model.architecture.unembedding, "in_features", model.d_model)
    if width != model.d_model:
        raise UnsupportedError(
            f"the unembedding of {model.shape.name} reads {width} values, not the {model.d_model} of the residual "
            "stream: a projection lies between them; use prompt= to measure"
        )
