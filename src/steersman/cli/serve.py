"""``steer serve``: the OpenAI-compatible server, and the page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Model
from .failures import InputError
from .session import Run

if TYPE_CHECKING:
    from ..serve import Settings

#: Where secrets are looked for: never on the command line, where others on the machine could read them.
API_KEY, ADMIN_KEY, UPSTREAM_KEY = "STEERSMAN_API_KEY", "STEERSMAN_ADMIN_KEY", "STEERSMAN_UPSTREAM_KEY"
_SERVER, _LIMITS = "Server", "Limits"


def _option(*names: str, panel: str = _SERVER, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, show_envvar=False, **more)


def serve(
    run: Run,
    model: Model,
    vectors: Annotated[
        Path | None,
        _option("--vectors", metavar="DIR", help="Vectors, presets and jobs are kept here.",
                show_default="~/.local/share/steersman/MODEL"),
    ] = None,
    engine: Annotated[
        str, _option("--engine", metavar="NAME", help="hf, or vllm: in front of a vLLM server with the plugin.")
    ] = "hf",
    upstream: Annotated[
        str, _option("--upstream", metavar="URL", help="The vLLM server, with --engine vllm.")
    ] = "http://127.0.0.1:8001",
    ui: Annotated[bool, _option("--ui", metavar="", help="Serve the page, and print where it is.")] = False,
    host: Annotated[
        str, _option("--host", metavar="HOST", help="Where to listen; others than this machine need a key.")
    ] = "127.0.0.1",
    port: Annotated[
        int, _option("--port", metavar="PORT", min=0, max=65535, help="Where to listen; 0 finds one.")
    ] = 8000,
    allow_host: Annotated[
        list[str] | None, _option("--allow-host", metavar="NAME", help="Another name it is addressed by; repeat.")
    ] = None,
    served_name: Annotated[
        str | None, _option("--served-name", metavar="NAME", help="What requests call the model.",
                            show_default="as given")
    ] = None,
    batch: Annotated[int, _option("--batch", panel=_LIMITS, metavar="N", min=1, help="Rows generated together.")] = 32,
    queue: Annotated[int, _option("--queue", panel=_LIMITS, metavar="N", min=1, help="Rows that may wait.")] = 256,
    max_new_tokens: Annotated[
        int, _option("--max-new-tokens", panel=_LIMITS, metavar="N", min=1, help="Tokens of one row.")
    ] = 4096,
    timeout: Annotated[
        float, _option("--timeout", panel=_LIMITS, metavar="SECONDS", min=1, help="From a request to its answer's end.")
    ] = 120.0,
) -> None:  # fmt: skip
    """Serve a model behind OpenAI's API, steered by each request.

    Keys are read from STEERSMAN_API_KEY and STEERSMAN_ADMIN_KEY. Without one, the server listens on this machine only.
    """
    _require()
    if engine not in ("hf", "vllm"):
        raise InputError(f"--engine {engine} is unknown", fix="use hf or vllm")
    limits = {"batch": batch, "queue": queue, "new_tokens": max_new_tokens, "timeout": timeout}
    settings = _settings(run, model, vectors, ui, host, port, allow_host, served_name, limits)
    if run.dry_run:
        _plan(run, model, engine, settings, batch)
        return
    listening = _bound(settings)
    settings = _with_port(settings, listening.getsockname()[1])
    if engine == "vllm":
        from ..serve.vllm import create_proxy

        key = os.environ.get(UPSTREAM_KEY) or None
        app, said = create_proxy(settings, upstream, key), f"{upstream} behind it"
    else:
        from ..serve import create_app

        loaded = run.load(model)
        with run.working("preparing the vectors"):
            _prepare(run, model, loaded, settings)
        app, said = create_app(loaded, settings), f"{loaded.n_layers} layers on {loaded.device}"
    _announce(run, app, settings, said)
    from ..serve import run as listen

    listen(app, settings, listening)


def _require() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise InputError(f"the server needs {', '.join(missing)}", fix="pip install 'steersman[serve]'", code=1)


def _settings(
    run: Run, model: str, vectors: Path | None, ui: bool, host: str, port: int, hosts: list[str] | None,
    name: str | None, limits: dict[str, Any],
) -> Settings:  # fmt: skip
    from ..errors import DataError
    from ..serve import Limits, Settings

    called = name or (Path(model).name if Path(model).is_dir() else model)
    if ":" in called:
        raise InputError(f"the model cannot be called {called!r}", why="what follows a colon names a preset",
                         fix="--served-name NAME")  # fmt: skip
    folder = vectors or _home(called)
    try:
        return Settings(
            folder, host, port, os.environ.get(API_KEY) or None, os.environ.get(ADMIN_KEY) or None,
            tuple(hosts or ()), ui, called, Limits(**limits),
        )  # fmt: skip
    except DataError as error:
        raise InputError(str(error), fix=f"{API_KEY}=... steer serve {model}") from None


def _home(name: str) -> Path:
    base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "steersman" / name.replace("/", "--")


def _bound(settings: Settings) -> Any:
    from ..serve.running import bound

    try:
        return bound(settings)
    except OSError as error:
        raise InputError(
            f"cannot listen on {settings.host} port {settings.port}", why=error.strerror or str(error),
            fix="another --port, or 0 to find one", code=1,
        ) from None  # fmt: skip


def _with_port(settings: Settings, port: int) -> Settings:
    from dataclasses import replace

    return replace(settings, port=port)


def _prepare(run: Run, name: str, model: Any, settings: Settings) -> None:
    """The packaged vectors of the embedded model, extracted into a folder that has none."""
    if name != "demo":
        return
    from ..serve.packaged import prepare

    prepare(model, settings)


def _announce(run: Run, app: Any, settings: Settings, said: str) -> None:
    url = _url(settings)
    token = getattr(getattr(app.state, "gate", None), "token", None)
    page = f"{url}/?token={token}" if settings.ui and token else None
    if run.json_:
        document = {"url": url, "page": page, "model": settings.name, "folder": str(settings.folder)}
        run.emit("steersman.serve/1", document)
        run.out.file.flush()
        return
    if page:
        run.out.print(page, markup=False, soft_wrap=True)
        run.out.file.flush()
    run.note(f"{settings.name} ({said}) at {url}/v1; vectors in {settings.folder}; Ctrl-C ends it")


def _url(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _plan(run: Run, model: str, engine: str, settings: Settings, batch: int) -> None:
    lines = [
        ("listens", f"{_url(settings)}, {'with a key' if settings.api_key else 'no key, this machine only'}"),
        ("keeps", f"vectors, presets and jobs in {settings.folder}"),
        ("batch", f"{batch} rows at once, {settings.limits.queue} may wait"),
    ]
    document = {
        "url": _url(settings), "folder": str(settings.folder), "engine": engine, "batch": batch,
        "queue": settings.limits.queue, "keys": bool(settings.api_key), "ui": settings.ui,
    }  # fmt: skip
    if engine == "vllm":  # whose model is another server's
        if run.json_:
            run.emit("steersman.dry-run/1", {"command": run.command, **document})
        for name, value in () if run.json_ else lines:
            run.out.print(f"{name:<10}{value}", markup=False, soft_wrap=True)
        return
    from .dryrun import cache_bytes, show_plan
    from .models import max_positions, outline

    found = outline(model, device=run.device, dtype=run.dtype)
    tokens = min(max_positions(found.hf) or settings.limits.new_tokens, settings.limits.new_tokens)
    show_plan(run, found, lines, document, extra_bytes=cache_bytes(found, batch, tokens))
