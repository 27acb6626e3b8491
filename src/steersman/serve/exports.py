"""``/v1/export``: what a request does, as something to keep: code, commands, files."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from .analysis_routes import TextRequest, sweeps_of
from .errors import ApiError
from .job_routes import report_of
from .schema import Steering, Text
from .state import State, state_of
from .steering import Steered

router = APIRouter(tags=["export"])

#: Keys of an intervention that the command line has options for.
_OPTIONS = ("value", "alpha", "angle", "unit", "positions")
_SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "seed")


class ExportRequest(TextRequest):
    """``POST /v1/export``."""

    format: Literal["python", "cli", "curl", "recipe", "spec", "safetensors", "gguf", "html"]
    model: Text | None = None
    steering: Steering = None
    max_tokens: Annotated[int, Field(ge=1)] = 40
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    def settings(self) -> dict[str, Any]:
        """Those of generation that were given; greedy where the temperature is 0."""
        found = {name: getattr(self, name) for name in _SETTINGS if getattr(self, name) is not None}
        return {
            k: v for k, v in found.items() if not (self.temperature == 0 and k in ("temperature", "top_p", "top_k"))
        }


@router.post("/v1/export")
async def export(body: ExportRequest, request: Request) -> Response:
    """A request as code, commands or files. Files of vectors are at ``/v1/vectors/{name}/file``."""
    state = state_of(request)
    given = "steering" in body.model_fields_set
    steered = await run_in_threadpool(state.resolver.of, body.model, given, body.steering)
    if body.format in ("safetensors", "gguf"):
        content = await run_in_threadpool(_file, steered, body.format)
        told = {"Content-Disposition": f'attachment; filename="plan.{body.format}"'}
        return Response(content, media_type="application/octet-stream", headers=told)
    if body.format == "html":
        page = await state.analyse(lambda: _report(state, steered))
        told = {"Content-Disposition": 'attachment; filename="report.html"'}
        return Response(page, media_type="text/html; charset=utf-8", headers=told)
    if body.format == "curl":
        return _text(_curl(body, state, steered, str(request.base_url).rstrip("/")))
    made = {"python": _python, "cli": _cli, "recipe": _recipe}
    if body.format == "spec":
        return _text(json.dumps(steered.document, indent=2) + "\n")
    return _text(made[body.format](body, state, steered))


def _text(content: str) -> Response:
    return Response(content, media_type="text/plain; charset=utf-8")


def _file(steered: Steered, kind: str) -> bytes:
    _require(steered)
    with tempfile.TemporaryDirectory() as folder:
        return Path(steered.plan.save(Path(folder) / f"plan.{kind}")).read_bytes()


def _require(steered: Steered) -> None:
    if not steered.plan:
        raise ApiError(400, "invalid_steering", "there is nothing to export: nothing steers", param="steering")


def _report(state: State, steered: Steered) -> str:
    """The report of the last sweep of the one vector that steers."""
    named = [item.digests for item in steered.items]
    if len(named) != 1 or len(named[0]) != 1:
        raise ApiError(400, "invalid_steering", "a report is about one vector", param="steering")
    found = sweeps_of(state, next(iter(named[0].values())))
    if not found:
        raise ApiError(409, "not_measured", "a report needs measurements: sweep the vector first (POST /v1/sweeps)")
    return report_of(state, found[0])


# -- code and commands ------------------------------------------------------------------------------------------------


def _asked(body: ExportRequest) -> Any:
    if body.text is None and body.messages is None:
        return "Once upon a time"
    return body.prompt()


def _names(steered: Steered) -> list[str]:
    return sorted({name for item in steered.items for name in item.digests})


def _python(body: ExportRequest, state: State, steered: Steered) -> str:
    name = state.model.shape.name
    load = "sm.demo_model()" if name == "demo" else f"sm.SteeringModel.from_pretrained({name!r})"
    settings = {("max_new_tokens" if k == "max_tokens" else k): v for k, v in body.settings().items()}
    if not {"temperature", "top_p", "top_k"} & set(settings):
        settings.pop("seed", None)
    called = "".join(f", {key}={value!r}" for key, value in settings.items())
    vectors = "".join(f'    {one!r}: sm.SteeringVector.load("{one}.safetensors"),\n' for one in _names(steered))
    return (
        "import steersman as sm\n\n"
        f"model = {load}\n"
        f"vectors = {{\n{vectors}}}\n"
        f"plan = sm.Plan.from_spec({_literal(steered.document)}, vectors)\n"
        f"print(model.generate({_asked(body)!r}, steer=plan{called}))\n"
    )


def _literal(document: Mapping[str, Any]) -> str:
    return repr(json.loads(json.dumps(document)))


def _cli(body: ExportRequest, state: State, steered: Steered) -> str:
    words = ["steer", "generate", state.model.shape.name, *_chat(body)]
    tokens, options = _tokens(steered)
    if tokens is None:
        words += ["--plan", "plan.safetensors"]
    else:
        words += [word for token in tokens for word in ("-v", token)]
        words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    for name, value in body.settings().items():
        words += ["--max-new-tokens" if name == "max_tokens" else f"--{name.replace('_', '-')}", str(value)]
    prompt = _one_prompt(body)
    words[3:3] = [] if prompt.startswith("-") else [prompt]
    words += ["--", prompt] if prompt.startswith("-") else []  # or it would be read as an option
    line = shlex.join(words) + "\n"
    return line if tokens is not None else f"# plan.safetensors is the export of the format safetensors\n{line}"


def _recipe(body: ExportRequest, state: State, steered: Steered) -> str:
    settings = body.settings()
    seed = settings.pop("seed", None)
    lines = ["# What was asked of the server, done again: steer run recipe.toml"]
    lines += [f"# {name}.safetensors, the vector, belongs beside this file" for name in _names(steered)]
    lines += ["", f"model = {_toml(state.model.shape.name)}"]
    dtype = str(state.model.dtype).removeprefix("torch.")
    lines += [f"dtype = {_toml(dtype)}"] if dtype in ("float32", "bfloat16", "float16") else []
    lines += [] if seed is None else [f"seed = {seed}"]
    if steered.plan:
        lines += ["", "[plan]  # and the digest of what its vectors hold and do"]
        lines += [f"digest = {_toml(steered.plan.digest)}"]
    for item in steered.document["interventions"] if steered.plan else ():
        lines += ["", "[[plan.interventions]]", *(f"{name} = {_toml(value)}" for name, value in item.items())]
    lines += ["", "[generate]", f"prompts = [{_toml(_one_prompt(body))}]"]
    system = _system(body)
    if body.messages is not None:
        lines.append("chat = true" if system is None else f"system = {_toml(system)}")
    for name, value in settings.items():
        lines.append(f"{'max-new-tokens' if name == 'max_tokens' else name.replace('_', '-')} = {_toml(value)}")
    lines += ["compare = true"] if steered.plan else []
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A value of JSON as one of TOML, in a line."""
    if isinstance(value, Mapping):
        inner = cast("Mapping[str, Any]", value)
        return "{" + ", ".join(f"{_toml(str(name))} = {_toml(one)}" for name, one in inner.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in cast("Sequence[Any]", value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _curl(body: ExportRequest, state: State, steered: Steered, url: str) -> str:
    chat = body.messages is not None
    document: dict[str, Any] = {"model": state.settings.name}
    document |= {"messages": _asked(body)} if chat else {"prompt": _asked(body)}
    document |= {**body.settings(), "steering": steered.document}
    key = " \\\n  -H 'Authorization: Bearer '\"$STEERSMAN_API_KEY\"" if state.settings.api_key else ""
    return (
        f"curl {url}/v1/{'chat/completions' if chat else 'completions'} \\\n"
        f"  -H 'Content-Type: application/json'{key} \\\n"
        f"  -d {shlex.quote(json.dumps(document, ensure_ascii=False))}\n"
    )


def _tokens(steered: Steered) -> tuple[Sequence[str] | None, Mapping[str, Any]]:
    """The plan as ``-v`` tokens and the options they share; no tokens where the command line cannot say it so."""
    tokens: list[str] = []
    shared: dict[str, Any] | None = None
    for item in steered.document["interventions"]:
        options = {name: item[name] for name in ("operation", *_OPTIONS) if name in item}
        if options.get("operation") == "add":
            del options["operation"]
        layers, strength = item.get("layers"), item.get("strength", 1.0)
        said = set(item) <= {"vector", "strength", "layers", "operation", *_OPTIONS}
        plain = isinstance(layers, str | int | list | None) and isinstance(strength, int | float)
        words = isinstance(options.get("positions", ""), str)
        if not (said and plain and words and "vector" in item and shared in (None, options)):
            return None, {}
        if options.get("operation") == "ablate" and layers is not None and layers != "all":
            return None, {}
        shared = options
        where = ",".join(map(str, layers)) if isinstance(layers, list) else layers
        tokens.append(f"{item['vector']}:{strength:g}" + ("" if where is None else f"@{where}"))
    return tokens, shared or {}


def _one_prompt(body: ExportRequest) -> str:
    asked = _asked(body)
    if isinstance(asked, str):
        return asked
    users = [message["content"] for message in asked if message["role"] == "user"]
    if len(users) != 1 or any(message["role"] == "assistant" for message in asked):
        raise ApiError(
            400, "unsupported", "the command line asks one question; export python or curl", param="messages"
        )
    return users[0]


def _chat(body: ExportRequest) -> list[str]:
    system = _system(body)
    return [] if body.messages is None else ["--chat"] if system is None else ["--system", system]


def _system(body: ExportRequest) -> str | None:
    """The system's message of a chat, if it has one."""
    said = [message.plain() for message in body.messages or ()]
    return next((one["content"] for one in said if one["role"] == "system"), None)
