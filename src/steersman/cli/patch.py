"""``steer patch``: where the difference between two prompts is held."""

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
    from ..studies import PatchingStudy

SCHEMA = "steersman.patch/1"


def patch(
    run: Run,
    model: Model,
    clean: Annotated[
        str | None, typer.Option("--clean", show_envvar=False, metavar="PROMPT", help="The prompt that works.")
    ] = None,
    corrupt: Annotated[
        str | None,
        typer.Option("--corrupt", show_envvar=False, metavar="PROMPT", help="Its counterpart, of equally many tokens."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs", show_envvar=False, metavar="FILE", help="A .jsonl file with clean, corrupt, target and foil."
        ),
    ] = None,
    sites: Annotated[
        str,
        typer.Option(
            "--sites",
            metavar="SITES",
            show_envvar=False,
            help="resid_post, resid_pre, attn_out, mlp_out, heads, ...; with :LAYERS, such as heads:4-6.",
        ),
    ] = "resid_post",
    direction: Annotated[
        str,
        typer.Option(
            "--direction",
            metavar="NAME",
            show_envvar=False,
            help="denoising (clean activations into the corrupt run) or noising (the reverse).",
        ),
    ] = "denoising",
    positions: Annotated[
        str | None,
        typer.Option(
            "--positions",
            metavar="WHERE",
            show_envvar=False,
            help="each, all, last, prompt\\[4], ...",
            show_default="each; all for heads",
        ),
    ] = None,
    attribution: Annotated[
        bool,
        typer.Option("--attribution", metavar="", show_envvar=False, help="Estimate every score to first order, too."),
    ] = False,
    screen: Annotated[
        int | None,
        typer.Option(
            "--screen",
            metavar="K",
            min=1,
            show_envvar=False,
            help="Measure only the K patches with the largest first-order scores.",
        ),
    ] = None,
    metric: options.MetricName = None,
    target: options.Target = None,
    foil: options.Foil = None,
    top: options.Top = 12,
    output: options.Output = None,
) -> None:
    """Patch activations from one run into another, and score what that restores.

    A score of 0 is the corrupt run, 1 the clean one.
    """
    outputs = options.checked_outputs(output)
    rows = _rows(run, clean, corrupt, pairs)
    wanted = options.sites_of(sites)
    how = options.metric_of(metric, options.answers(rows, "target", target), options.answers(rows, "foil", foil))
    if direction not in ("denoising", "noising"):
        raise InputError(f"--direction {direction} is unknown", fix="use denoising or noising")
    sides = [[row[name] for row in rows] for name in ("clean", "corrupt")]
    if run.dry_run:
        _plan(run, model, sides[0], wanted, positions, outputs)
        return
    loaded = run.load(model)
    from ..studies import patching_study

    with options.counting(run, direction) as progress:
        study = patching_study(
            loaded, *sides, sites=wanted, metric=how, direction=direction, positions=positions,
            attribution=attribution, screen=screen, seed=run.seed, progress=progress,
        )  # fmt: skip
    if not options.deliver(run, SCHEMA, study, loaded, outputs):
        _say(run, study, top, outputs)


def _rows(run: Run, clean: str | None, corrupt: str | None, pairs: Path | None) -> list[dict[str, str]]:
    if pairs is not None:
        if clean or corrupt:
            raise InputError("--pairs and --clean / --corrupt are two ways to give prompts", fix="use one of them")
        return options.rows_of(run, pairs, ["clean", "corrupt"])
    if clean is None or corrupt is None:
        raise InputError(
            "no pair of prompts given",
            why="patching puts activations of one run into another",
            fix="--clean PROMPT and --corrupt PROMPT, or --pairs FILE",
        )
    return [{"clean": clean, "corrupt": corrupt}]


def _say(run: Run, study: PatchingStudy, top: int, outputs: list[Path]) -> None:
    out = run.out
    out.print(
        f"[bold]{study.direction}[/]: {escape(study.metric)}, clean {study.clean.mean():.3f}, corrupt "
        f"{study.corrupt.mean():.3f} over {plural(len(study.clean), 'pair')}"
    )
    out.print()
    first = any(one.attribution is not None for one in study.patches)
    table = figures("component", "token", "position", "score", "95%", *(["first order"] if first else []), left=3)
    for one in study.top(top):
        score = one.score
        if score is None:
            continue
        cells = [
            one.component.label, escape(one.place.label), escape(one.place.positions), f"{score.value:.3f}",
            "" if score.low is None else f"{score.low:.3f} {score.high:.3f}",
        ]  # fmt: skip
        table.add_row(*cells, *([f"{one.attribution:.3f}"] if first and one.attribution is not None else []))
    show(out, table)
    out.print()
    if study.gap.low is None:
        out.print(f"No intervals: {study.gap.note}.", style="dim", soft_wrap=True)
    for path in outputs:
        out.print(f"saved {path}", markup=False, soft_wrap=True)


def _plan(run: Run, model: str, texts: list[str], sites: Any, positions: str | None, outputs: list[Path]) -> None:
    from ..extraction.activations import TOKEN_BUDGET
    from ..sites import RESIDUAL_WIDTH
    from ..studies.components import components
    from .dryrun import show_plan
    from .models import outline

    found = outline(model, device=run.device, dtype=run.dtype)
    parts = components(found.shape, sites, "--sites")
    lengths = [len(found.tokens.encode(text)) for text in texts]
    each = positions == "each" or (positions is None and all(part.kind in RESIDUAL_WIDTH for part in parts))
    patches = len(parts) * (max(lengths) if each else 1)
    show_plan(
        run, found,
        [
            ("pairs", f"{plural(len(texts), 'pair')}, the longest {max(lengths)} tokens"),
            ("work", f"{plural(patches, 'patch')} of {plural(len(texts), 'prompt')}, each from its own layer up"),
            ("writes", ", ".join(str(path) for path in outputs) + " and run.json" if outputs else "nothing (no -o)"),
        ],
        {"pairs": len(texts), "patches": patches},
        extra_bytes=TOKEN_BUDGET * found.shape.d_model * 4 * (found.shape.n_layers + 12),
    )  # fmt: skip
