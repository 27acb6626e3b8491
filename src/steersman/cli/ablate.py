"""``steer ablate``: what is lost without each head, neuron, attention or MLP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import study_options as options
from .arguments import Model
from .console import escape, figures, plural, show
from .failures import InputError
from .session import Run

if TYPE_CHECKING:
    from ..studies import AblationStudy

SCHEMA = "steersman.ablate/1"


def ablate(
    run: Run,
    model: Model,
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT]...", help="One or more prompts.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            show_envvar=False,
            help="Prompts, one a line; or .jsonl with prompt, and its own target and foil.",
        ),
    ] = None,
    sites: Annotated[
        str,
        typer.Option(
            "--sites",
            metavar="SITES",
            show_envvar=False,
            help="heads, attention, mlp, neurons, block, or a site; with :LAYERS, such as heads:4-6; joined by commas.",
        ),
    ] = "heads",
    mode: Annotated[
        str, typer.Option("--mode", metavar="NAME", show_envvar=False, help="zero, mean, or resample.")
    ] = "mean",
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="FILE",
            show_envvar=False,
            help="Texts for mean and resample, one a line.",
            show_default="the prompts",
        ),
    ] = None,
    by_position: Annotated[
        bool,
        typer.Option(
            "--by-position", metavar="", show_envvar=False, help="mean: one for each position, not one for all."
        ),
    ] = False,
    positions: Annotated[
        str, typer.Option("--positions", metavar="WHERE", show_envvar=False, help="The tokens at which to ablate.")
    ] = "all",
    kept: Annotated[
        Path | None,
        typer.Option(
            "--rows",
            metavar="FILE",
            show_envvar=False,
            help="Keep what is measured in this .jsonl, component by component; run again, it goes on from there.",
        ),
    ] = None,
    metric: options.MetricName = None,
    target: options.Target = None,
    foil: options.Foil = None,
    top: options.Top = 12,
    output: options.Output = None,
) -> None:
    """Ablate each component in turn, and measure what becomes of a metric.

    Prints the components with the largest effects, with intervals over prompts and the spread of the others beside.
    """
    outputs = options.checked_outputs(output)
    rows = _rows(run, prompts, file)
    wanted = options.sites_of(sites)
    how = options.metric_of(metric, options.answers(rows, "target", target), options.answers(rows, "foil", foil))
    if mode not in ("zero", "mean", "resample"):
        raise InputError(f"--mode {mode} is unknown", fix="use zero, mean or resample")
    if kept is not None and kept.suffix != ".jsonl":
        raise InputError(f"--rows {kept} is no .jsonl file", fix="name a file that ends in .jsonl")
    corpus = None if reference is None else [row["text"] for row in options.rows_of(run, reference, ["text"])]
    texts = [row["prompt"] for row in rows]
    if run.dry_run:
        _plan(run, model, texts, wanted, mode, outputs)
        return
    loaded = run.load(model)
    from ..studies import ablation_study

    with options.counting(run, f"{mode} ablation") as progress:
        study = ablation_study(
            loaded, texts, sites=wanted, mode=mode, reference=corpus, metric=how, positions=positions,
            by_position=by_position, seed=run.seed, rows=kept, progress=progress,
        )  # fmt: skip
    if not options.deliver(run, SCHEMA, study, loaded, outputs):
        _say(run, study, top, outputs)


def _rows(run: Run, prompts: list[str] | None, file: Path | None) -> list[dict[str, str]]:
    if prompts and file is not None:
        raise InputError("prompts and --prompts are two ways to give prompts", fix="use one of them")
    if file is not None:
        return options.rows_of(run, file, ["prompt"])
    if not prompts:
        raise InputError("no prompt given", fix='steer ablate MODEL "The capital of France is", or --prompts FILE')
    return [{"prompt": prompt} for prompt in prompts]


def _say(run: Run, study: AblationStudy, top: int, outputs: list[Path]) -> None:
    out, whole = run.out, study.whole
    interval = f" [{whole.low:.3f}, {whole.high:.3f}]" if whole.low is not None and whole.high is not None else ""
    out.print(
        f"[bold]{study.mode} ablation[/] of {plural(len(study), 'component')}: {escape(study.metric)}, whole model "
        f"{whole.value:.3f}{interval} over {plural(whole.n, 'prompt')}"
    )
    out.print()
    table = figures("component", "without it", "change", "95%", "others' 95%", "")
    for one in study.top(top):
        low, high = one.effect.low, one.effect.high
        table.add_row(
            one.component.label,
            f"{one.value:.3f}",
            f"{one.effect.value:+.3f}",
            "" if low is None else f"{low:+.3f} {high:+.3f}",
            "" if one.others is None else f"{one.others[0]:+.3f} {one.others[1]:+.3f}",
            "beyond the others" if one.beyond else "",
        )
    show(out, table)
    out.print()
    if whole.low is None:
        out.print(f"No intervals: {whole.note}.", style="dim", soft_wrap=True)
    for path in outputs:
        out.print(f"saved {path}", markup=False, soft_wrap=True)


def _plan(run: Run, model: str, texts: list[str], sites: Any, mode: str, outputs: list[Path]) -> None:
    from ..extraction.activations import TOKEN_BUDGET
    from ..studies.components import components
    from .dryrun import passes, show_plan
    from .models import outline

    found = outline(model, device=run.device, dtype=run.dtype)
    parts = components(found.shape, sites, "--sites")
    lengths = [len(found.tokens.encode(text)) for text in texts]
    blocks = sum(found.shape.n_layers - part.start for part in parts) / found.shape.n_layers
    whole = passes(lengths, TOKEN_BUDGET)
    show_plan(
        run, found,
        [
            ("prompts", f"{plural(len(texts), 'prompt')}, {sum(lengths)} tokens, the longest {max(lengths)}"),
            ("work", f"{mode} ablation of {plural(len(parts), 'component')}: about as much as "
                     f"{plural(round(whole * (1 + blocks)), 'forward pass')} of {TOKEN_BUDGET} tokens"),
            ("writes", ", ".join(str(path) for path in outputs) + " and run.json" if outputs else "nothing (no -o)"),
        ],
        {"prompts": len(texts), "tokens": sum(lengths), "components": len(parts)},
        extra_bytes=TOKEN_BUDGET * found.shape.d_model * 4 * (found.shape.n_layers + 12),
    )  # fmt: skip
