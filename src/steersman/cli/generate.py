"""``steer generate``: text under a plan, and beside it the text without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Model
from .console import escape, plural
from .failures import InputError
from .session import Run, as_json

if TYPE_CHECKING:
    from ..plan import Plan


def generate(
    run: Run,
    model: Model,
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT...", help="One or more prompts; - reads them from stdin, one a line.")
    ],
    system: Annotated[
        str | None,
        typer.Option("--system", show_envvar=False, metavar="TEXT", help="A system message; implies --chat."),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            metavar="",
            show_envvar=False,
            help="Each prompt is a user's message, put through the model's chat template.",
        ),
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            metavar="",
            show_envvar=False,
            help="Show the unsteered text beside the steered, drawn with the same seed.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", show_envvar=False, metavar="FILE", help="Also write the JSON document to this file."
        ),
    ] = None,
) -> None:
    """Continue prompts, steered by vectors or a saved plan."""
    texts = _read(prompts)
    asked = [_prompt(text, system, chat) for text in texts]
    settings = sampling(run)
    if output is not None and not output.parent.is_dir():
        raise InputError(f"there is no folder {output.parent}", fix=f"mkdir -p {output.parent}")
    if run.dry_run:
        _plan(run, model, asked, compare, output)
        return
    loaded = run.load(model)
    from .vectors import make_plan

    plan = make_plan(run, loaded)
    _check_compare(run, plan, compare)
    with run.working("generating"):
        steered = loaded.generate(asked, steer=plan, **settings)
        plain = loaded.generate(asked, **settings) if compare else None
    document = _document(run, texts, asked, plan, settings, steered, plain)
    if output is not None:
        _write(run, output, document)
    if run.json_:
        run.emit("steersman.generate/1", document)
    elif plain is None:
        _show(run, texts, steered)
    else:
        _show_beside(run, texts, plain, steered, describe(plan))
    if output is not None:
        run.note(f"wrote {output} and {output.parent / 'run.json'}")


def sampling(run: Run) -> dict[str, Any]:
    """The settings of generation, as the library takes them; greedy unless one of sampling is given."""
    given = {name: value for name, value in run.sampling.items() if value is not None}
    if set(given) & {"temperature", "top_p", "top_k"}:
        given["seed"] = run.seed
    return given


def describe(plan: Plan) -> str:
    """A plan in a few words: ``happy 1.5 @10``."""
    found: list[str] = []
    for intervention, item in zip(plan, plan.spec()["interventions"], strict=True):
        name = item.get("vector") or item["operation"]
        vector = intervention.named_tensors().get("vector")
        chosen = getattr(vector, "layer", None)
        layers = item.get("layers") or (None if chosen is None else [chosen])
        where = "" if layers is None else f" @{layers if isinstance(layers, str) else ','.join(map(str, layers))}"
        verb = "" if item["operation"] == "add" else f"{item['operation']} "
        strength = item["strength"]
        amount = "schedule" if isinstance(strength, list) else f"{strength:+g}"
        found.append(f"{verb}{name} {amount}{where}")
    return ", ".join(found) or "no plan"


def _read(prompts: list[str]) -> list[str]:
    if prompts == ["-"]:
        prompts = [line for line in sys.stdin.read().splitlines() if line.strip()]
        if not prompts:
            raise InputError("no prompt on stdin", fix="write one prompt a line")
    return prompts


def _prompt(text: str, system: str | None, chat: bool) -> Any:
    if system is not None:
        return [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return [{"role": "user", "content": text}] if chat else text


def _check_compare(run: Run, plan: Plan, compare: bool) -> None:
    if plan:
        return
    if compare:
        raise InputError(
            "--compare has nothing to compare",
            why="no vector and no plan is given",
            fix="add -v NAME:STRENGTH@LAYER or --plan FILE",
        )
    run.note("no vector and no plan given: this is the model unsteered")


def _document(
    run: Run,
    texts: list[str],
    asked: list[Any],
    plan: Plan,
    settings: dict[str, Any],
    steered: list[str],
    plain: list[str] | None,
) -> dict[str, Any]:
    from ..model.provenance import describe as describe_model

    assert run.model is not None
    results: list[dict[str, Any]] = []
    for number, (text, prompt) in enumerate(zip(texts, asked, strict=True)):
        row = {
            "prompt": text,
            "tokens": len(run.model.tokens.encode(prompt)),
            "steered" if plan else "unsteered": steered[number],
        }
        results.append(row | ({"unsteered": plain[number]} if plain is not None else {}))
    return {
        "model": describe_model(run.model),
        "plan": {"digest": plan.digest, **plan.spec()} if plan else None,
        "settings": settings,
        "seed": run.seed,
        "results": results,
    }


def _write(run: Run, output: Path, document: dict[str, Any]) -> None:
    from ..files.atomic import replacing

    with replacing(output) as temporary:
        temporary.write_text(as_json("steersman.generate/1", document) + "\n", encoding="utf-8")
    run.record(output)


def _show(run: Run, texts: list[str], found: list[str]) -> None:
    for number, (text, continuation) in enumerate(zip(texts, found, strict=True)):
        if number:
            run.out.print()
        run.out.print(f"[dim]{escape(text)}[/]{escape(_joined(run, continuation))}", soft_wrap=not run.out.is_terminal)


def _joined(run: Run, continuation: str) -> str:
    """An answer to a chat begins on a line of its own."""
    chat = run.settings.get("chat") or run.settings.get("system")
    return f"\n{continuation.strip()}" if chat else continuation


def _show_beside(run: Run, texts: list[str], plain: list[str], steered: list[str], label: str) -> None:
    if not run.out.is_terminal:
        for number, text in enumerate(texts):
            lines = (("prompt", text), ("unsteered", plain[number]), (f"steered ({label})", steered[number]))
            width = max(len(name) for name, _ in lines)
            body = "\n".join(f"{name:<{width}}  {' '.join(value.split())}" for name, value in lines)
            run.out.print(("\n" if number else "") + body, markup=False, soft_wrap=True)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim", expand=False)
    third = (run.out.width - 6) // 3
    table.add_column("prompt", style="dim", max_width=third)
    table.add_column("unsteered", width=third)
    table.add_column(escape(label), width=third)
    for number, text in enumerate(texts):
        table.add_row(escape(text), escape(plain[number].strip()), f"[cyan]{escape(steered[number].strip())}[/]")
        if number + 1 < len(texts):
            table.add_row("")
    run.out.print(table)


def _plan(run: Run, model: str, asked: list[Any], compare: bool, output: Path | None) -> None:
    from ..errors import PromptError
    from .dryrun import cache_bytes, show_plan
    from .models import max_positions, outline
    from .vectors import sketch_plan

    found = outline(model, device=run.device, dtype=run.dtype)
    plan, packaged = sketch_plan(run, found.shape)
    lengths = [len(found.tokens.encode(item)) for item in asked]
    new, limit = run.sampling["max_new_tokens"], max_positions(found.hf)
    if limit is not None and max(lengths) + new > limit:
        raise PromptError(
            f"a prompt of {max(lengths)} tokens and {new} new ones exceed the {limit} positions of {model}; "
            "shorten it, or lower --max-new-tokens"
        )
    runs = 2 if compare else 1
    text = describe(plan) if plan is not None else f"{', '.join(packaged)}, extracted first from packaged pairs"
    tokens = max(lengths) + new
    show_plan(
        run,
        found,
        [
            ("plan", text),
            ("prompts", f"{len(lengths)}, {sum(lengths)} tokens, the longest {max(lengths)}"),
            (
                "work",
                f"{plural(runs * new, 'forward pass')} at most: {new} new tokens"
                + (", with and without the plan" if compare else ""),
            ),
            ("writes", f"{output} and run.json" if output else "nothing"),
        ],
        {
            "plan": plan.spec() if plan is not None else None,
            "packaged": packaged,
            "prompts": len(lengths),
            "tokens": sum(lengths),
            "max_new_tokens": new,
            "passes": runs * new,
        },
        extra_bytes=cache_bytes(found, len(lengths), tokens)
        + len(lengths) * max(lengths) * found.hf.config.vocab_size * 4,
    )
