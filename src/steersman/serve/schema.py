"""What requests may say. Unknown keys are refused, by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from ..spec import json_schema


def _encodable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, which is no text") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]

_SHORT = {"type": "object", "additionalProperties": {"type": "number"}, "examples": [{"happy": 1.5}]}
_TOKENS = {"type": "array", "items": {"type": "string"}, "examples": [["happy:1.5@6"]]}
Steering = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": 'A spec ({"interventions": [...]}), {name: strength}, ["name:strength@layers"], or null '
            "to opt out of the model's preset.",
            "anyOf": [{"$ref": "#/components/schemas/PlanSpec"}, _SHORT, _TOKENS, {"type": "string"}, {"type": "null"}],
        }
    ),
]


def plan_schemas() -> dict[str, Any]:
    """The schemas that :data:`Steering` refers to."""
    whole = json_schema()
    parts: dict[str, Any] = whole.pop("$defs", {}) | {"PlanSpec": whole}
    return {name: _moved(part) for name, part in parts.items()}


def _moved(part: Any) -> Any:
    if isinstance(part, dict):
        return {
            key: value.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _moved(value)
            for key, value in part.items()
        }
    return [_moved(item) for item in part] if isinstance(part, list) else part


class Strict(BaseModel):
    """A request, or a part of one."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """What a stream says besides."""

    include_usage: bool = False


class Sampled(Strict):
    """What both kinds of completions take."""

    model: Text | None = Field(None, description="The model, or one of its presets: demo:happy.")
    steering: Steering = Field(None, description="What acts on this request.")
    baseline: bool = Field(False, description="Also generate without steering, from the same seed.")
    n: Annotated[int, Field(ge=1, le=32)] = 1
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None, description="Greedy unless this, top_p or top_k is given; 0 is greedy."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    ignore_eos: bool = Field(False, description="Go on past the end of the text, to max_tokens.")
    user: Text | None = None


class CompletionRequest(Sampled):
    """``POST /v1/completions``."""

    prompt: Text | list[Text] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False


class Part(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class Message(Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]
    name: Text | None = None

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(Sampled):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
