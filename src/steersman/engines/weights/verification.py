"""Holding what was baked to the hook engine: the same logits at every token, the same greedy text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ...errors import VerificationError
from ...model import SteeringModel

#: What is continued when no prompts are given: plain English, code, numbers, another language.
PROMPTS = (
    "The weather today is",
    "I think that the movie was",
    "def add(a, b):\n    return",
    "1, 2, 3, 4,",
    "Die Hauptstadt von Frankreich ist",
    "Once upon a time there was a",
)
#: Largest |dlogit| / max(1, |logit|) that rounding explains, by the coarsest precision that took part. Measured on
#: random models of fifty families in float32: 1e-6 to 1e-4, with linear recurrences 3e-4.
TOLERANCES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2.0**-6, torch.bfloat16: 2.0**-3}
#: Largest share of what the plan does that rounding explains, root mean squares, and the number of epsilons of the
#: logits' size below which it is not asked: a plan may do less than rounding.
SHARES = {torch.float64: (0.01, 64), torch.float32: (0.01, 64), torch.float16: (0.1, 16), torch.bfloat16: (0.25, 4)}


@dataclass(frozen=True)
class Verification:
    """What the comparison with the hook engine found.

    Attributes:
        prompts, tokens: how many were compared, generated tokens included.
        max_difference: largest ``|dlogit| / max(1, |logit|)`` between baked and hooked.
        max_dlogit: largest ``|dlogit|``.
        tolerance: what ``max_difference`` had to stay within.
        effect: largest ``|dlogit|`` between hooked and unsteered: what the plan does.
        relative: root mean square of baked - hooked over that of hooked - unsteered; None if the plan does nothing.
        greedy: tokens generated greedily and compared.
        near_ties: rows that went their own way where the two best tokens were within the tolerance.
        dtype: the precision both ran in.
    """

    prompts: int
    tokens: int
    max_difference: float
    max_dlogit: float
    tolerance: float
    effect: float
    relative: float | None
    greedy: int
    near_ties: int
    dtype: str

    def as_json(self) -> dict[str, Any]:
        """The same as values."""
        return asdict(self)

    def __str__(self) -> str:
        ties = f", {self.near_ties} near ties" if self.near_ties else ""
        return (
            f"{self.prompts} prompts, {self.tokens} tokens: max |dlogit| {self.max_dlogit:.2g} (the plan moves them by "
            f"up to {self.effect:.3g}), {self.greedy} greedy tokens equal{ties}, in {self.dtype}"
        )


@dataclass
class Reference:
    """What the hooks do over some prompts, and the model without them."""

    prompts: list[str]
    new_tokens: int
    logits: Tensor
    plain: Tensor
    mask: Tensor
    scores: Tensor
    greedy: Tensor


@dataclass
class _Scores(LogitsProcessor):
    """Keeps the logits of every step of a generation."""

    found: list[Tensor] = field(default_factory=list[Tensor])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.found.append(scores.detach().float().cpu())
        return scores


def reference(model: SteeringModel, prompts: Sequence[str] | None, new_tokens: int) -> Reference:
    """Run an edited model, and its base, over the prompts."""
    texts = list(PROMPTS if prompts is None else prompts)
    scores = _generated(model, texts, new_tokens)
    rows = [model.tokens.encode(text) for text in texts]
    columns = max(len(row) for row in rows)
    mask = torch.tensor([[column >= columns - len(row) for column in range(columns)] for row in rows])
    return Reference(
        texts,
        new_tokens,
        model.logits(texts).float().cpu(),
        model.base.edit([]).logits(texts).float().cpu(),
        mask,
        scores,
        scores.argmax(-1),
    )


def verify(baked: SteeringModel, expected: Reference, stored: torch.dtype, tolerance: float | None) -> Verification:
    """Compare a baked model, running without hooks, with the reference.

    Args:
        stored: the precision that the changed parameters are stored in.
        tolerance: instead of what :data:`TOLERANCES` says.

    Raises:
        VerificationError: they differ by more than rounding.
    """
    coarsest = max((stored, baked.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    allowed = TOLERANCES[coarsest] if tolerance is None else tolerance
    found = baked.logits(expected.prompts).float().cpu()
    steps = _generated(baked, expected.prompts, expected.new_tokens)
    kept = expected.mask[:, :, None]
    off, size = (found - expected.logits) * kept, (expected.logits.abs().clamp_min(1))
    moved = (expected.logits - expected.plain) * kept
    worst, worst_dlogit = float((off.abs() / size).max()), float(off.abs().max())
    ties = 0
    for row in range(len(expected.prompts)):
        for step in range(min(steps.shape[1], expected.scores.shape[1])):
            here, there = steps[row, step], expected.scores[row, step]
            real = there.isfinite() & here.isfinite()  # tokens that the generation settings forbid are -inf
            gap = (here - there)[real].abs()
            worst = max(worst, float((gap / there[real].abs().clamp_min(1)).max()))
            worst_dlogit = max(worst_dlogit, float(gap.max()))
            if int(here.argmax()) != int(there.argmax()):
                best = there.topk(2).values
                if float(best[0] - best[1]) > 2 * allowed * max(1.0, float(best.abs().max())):
                    raise _failed(f"prompt {expected.prompts[row]!r} is continued by another token at step {step + 1}")
                ties += 1
                break
    effect = float(moved.abs().max())
    relative = float(off.norm() / moved.norm()) if effect > 0 else None
    if not worst <= allowed:
        raise _failed(f"logits differ by up to {worst:.2g} of their size, and rounding explains {allowed:.1g}")
    share, roundings = SHARES[coarsest]
    above = float(off.norm()) > roundings * torch.finfo(coarsest).eps * float((expected.logits * kept).norm())
    if relative is not None and relative > share and above:
        raise _failed(f"the difference from the hooks is {relative:.0%} of what the plan does at all")
    return Verification(
        prompts=len(expected.prompts),
        tokens=int(expected.mask.sum()) + expected.greedy.numel(),
        max_difference=worst,
        max_dlogit=worst_dlogit,
        tolerance=allowed,
        effect=effect,
        relative=relative,
        greedy=expected.greedy.numel(),
        near_ties=ties,
        dtype=str(baked.dtype).removeprefix("torch."),
    )


def _generated(model: SteeringModel, prompts: list[str], new_tokens: int) -> Tensor:
    """The logits of each step of a greedy generation ``[rows, steps, vocab]``, texts that would end going on."""
    scores = _Scores()
    model.generate(
        prompts, max_new_tokens=new_tokens, min_new_tokens=new_tokens, min_length=None, logits_processor=[scores]
    )
    return torch.stack(scores.found, dim=1)


def _failed(what: str) -> VerificationError:
    return VerificationError(
        f"what was baked does not do what the hooks do: {what}. Nothing was kept. If the weights in memory are not "
        "those of the folder that the model was loaded from, bake from memory (from_memory=True); in low precision, "
        'store in float32 (dtype="float32") or allow more (tolerance=...)'
    )
