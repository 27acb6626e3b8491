"""What jobs may be asked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ..sweeping.sweep import STRENGTHS
from .schema import Message, Steering, Strict, Text

Example = Text | Annotated[list[Message], Field(min_length=1, max_length=64)]
Examples = Annotated[list[Example], Field(min_length=1, max_length=4096)]
Prompts = Annotated[list[Text], Field(min_length=1, max_length=1024)]
Words = Annotated[list[Text], Field(min_length=1, max_length=64)]
Layers = Text | list[int]
Strengths = Annotated[list[Annotated[float, Field(ge=-1000, le=1000)]], Field(min_length=1, max_length=64)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Method = Literal[
    "mean_difference", "mean_centred", "pca", "repeng_compatible", "lda", "logistic", "iti", "response_mean"
]


class ExtractionRequest(Strict):
    """``POST /v1/extractions``."""

    name: Text
    positive: Examples
    negative: Examples
    method: Method = "mean_difference"
    layers: Layers = "all"
    site: Text | None = None
    read: Text | int | None = None
    seed: Seed = 0


class SweepRequest(Strict):
    """``POST /v1/sweeps``."""

    vector: Text
    prompts: Prompts
    positive: Words
    negative: Words
    layers: Layers = "auto"
    strengths: Strengths = Field(default_factory=lambda: list(STRENGTHS))
    operation: Literal["add", "ablate", "clamp", "affine", "rotate"] = "add"
    random: Annotated[int, Field(ge=0, le=1000)] = 100
    neutral: Prompts | None = None
    repetition: Annotated[list[int], Field(max_length=64)] = Field(
        default_factory=lambda: list[int](),
        description="Layers at which texts are generated too, to count what repeats: those of them that are swept, "
        "beside the best one and the vector's own.",
    )
    max_kl: Annotated[float, Field(gt=0)] = 0.1
    seed: Seed = 0
    positions: Text | None = None
    unit: Literal["norm", "gap"] | None = None
    site: Text | None = None
    value: float | None = None
    alpha: float | None = None
    angle: float | None = None

    def options(self) -> dict[str, Any]:
        """What belongs to the operation."""
        names = ("positions", "unit", "site", "value", "alpha", "angle")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class AblationRequest(Strict):
    """``POST /v1/ablations``: each head in turn."""

    prompts: Prompts
    target: Text
    foil: Text
    mode: Literal["zero", "mean", "resample"] = "mean"
    reference: Prompts | None = None
    seed: Seed = 0


class CheckpointRequest(Strict):
    """``POST /v1/checkpoints``."""

    name: Text
    steering: Steering
