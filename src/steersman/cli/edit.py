"""``steer edit``: a plan that lasts, as a small folder beside its base, or baked into weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Model
from .console import escape
from .failures import InputError
from .inputs import read_lines
from .session import Run

if TYPE_CHECKING:
    from ..engines.weights import BakeReport
    from ..plan import Plan

_EDIT_FILE, _REPORT_FILE = "steersman_edit.json", "steersman_bake.json"


def edit(
    run: Run,
    model: Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", show_envvar=False, metavar="DIR", help="The folder to write.")
    ],
    bake: Annotated[
        bool,
        typer.Option(
            "--bake",
            metavar="",
            show_envvar=False,
            help="Write an ordinary checkpoint with the plan in its weights, verified against the hooks.",
        ),
    ] = False,
    adapter: Annotated[
        bool,
        typer.Option(
            "--adapter", metavar="", show_envvar=False, help="Write a PEFT adapter with the plan in it, verified too."
        ),
    ] = False,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="DTYPE",
            show_envvar=False,
            help="--bake: store the weights in float32, bfloat16 or float16.",
            show_default="as they are",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            show_envvar=False,
            help="Texts to verify on, one a line.",
            show_default="a few of our own",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", metavar="", show_envvar=False, help="Replace a folder that holds something else."),
    ] = False,
) -> None:
    """Make an edited model: vectors or a saved plan that always act.

    Without --bake, a few kilobytes that name the base and hold the plan. With it, a checkpoint that plain transformers
    loads: what weights cannot do exactly is refused before anything is written, and what is written is verified.
    """
    baked = bake or adapter
    _check(run, output, bake, adapter, store, overwrite)
    texts = _lines(run, prompts)
    if baked and run.steering["positions"] is None and run.steering["vector"]:
        run.steering["positions"] = "all"
        run.note("positions: all, as weights act at every token")
    if run.dry_run:
        _plan(run, model, output, baked, adapter)
        return
    loaded = run.load(model)
    from .vectors import make_plan

    plan = make_plan(run, loaded)
    if not plan.actions(loaded.shape):
        raise InputError(
            "there is nothing to edit with", why="no vector and no plan acts", fix="add -v NAME:STRENGTH@LAYER"
        )
    edited = loaded.edit(plan)
    if not baked:
        _save(run, edited, plan, output)
        return
    from ..engines.weights import bake as into_weights

    with run.working("baking"):
        report = into_weights(edited, output, adapter=adapter, dtype=store, prompts=texts or None, overwrite=overwrite)
    run.record(*_files(output), details={"bake": report.as_json()})
    if run.json_:
        run.emit("steersman.edit/1", {"plan": {"digest": plan.digest, **plan.spec()}, **report.as_json()})
        return
    _show(run, report)


def _check(run: Run, output: Path, bake: bool, adapter: bool, store: str | None, overwrite: bool) -> None:
    if bake and adapter:
        raise InputError("--bake and --adapter are two things to write", fix="use one of them")
    if store is not None and not bake:
        raise InputError("--store says how a checkpoint is stored", fix="add --bake, or leave --store out")
    if store not in (None, "float32", "bfloat16", "float16"):
        raise InputError(f"--store {store} is unknown", fix="use float32, bfloat16 or float16")
    if not run.steering["vector"] and run.steering["plan"] is None:
        raise InputError(
            "there is nothing to edit with", why="no vector and no plan is given", fix="add -v NAME:STRENGTH@LAYER"
        )
    if not output.parent.is_dir():
        raise InputError(f"there is no folder {output.parent}", fix=f"mkdir -p {output.parent}")
    if output.exists() and not output.is_dir():
        raise InputError(f"-o {output} is a file", fix="give a folder")
    own = _REPORT_FILE if bake or adapter else _EDIT_FILE
    if output.is_dir() and any(output.iterdir()) and not (output / own).is_file() and not overwrite:
        raise InputError(
            f"the folder {output} holds something else", why=f"it has no {own}", fix="give another, or --overwrite"
        )


def _lines(run: Run, path: Path | None) -> list[str]:
    if path is None:
        return []
    lines = read_lines(path)
    run.inputs.append(path)
    return lines


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != "run.json")


def _save(run: Run, edited: Any, plan: Plan, output: Path) -> None:
    edited.save_pretrained(output)
    run.record(*_files(output), details={"plan": {"digest": plan.digest, **plan.spec()}})
    document = {
        "kind": "edit",
        "folder": str(output),
        "base": edited.shape.name,
        "plan": {"digest": plan.digest, **plan.spec()},
        "files": {path.name: path.stat().st_size for path in _files(output)},
    }
    if run.json_:
        run.emit("steersman.edit/1", document)
        return
    from .generate import describe

    run.out.print(f"{escape(edited.shape.name)}, always with {escape(describe(plan))}", soft_wrap=True)
    run.out.print(f"saved {escape(str(output))}: its base by name, and the plan", soft_wrap=True)


def _show(run: Run, report: BakeReport) -> None:
    found, out = report.verification, run.out
    out.print(f"saved {escape(report.folder)}: {_kind(report)}", soft_wrap=True)
    out.print(f"{len(report.changed)} parameters rewritten, {len(report.added)} added")
    for name, value in report.settings.items():
        out.print(f"  {name} = {value}", markup=False)
    out.print(f"verified against the hooks on {found.prompts} prompts, {found.tokens} tokens, in {found.dtype}")
    out.print(f"  logits differ by at most {found.max_dlogit:.2g}; the plan moves them by up to {found.effect:.3g}")
    ties = f" but for {found.near_ties} near ties" if found.near_ties else ""
    out.print(f"  all {found.greedy} greedy tokens equal{ties}")


def _kind(report: BakeReport) -> str:
    return "an ordinary checkpoint" if report.kind == "checkpoint" else "a PEFT adapter"


def _plan(run: Run, model: str, output: Path, baked: bool, adapter: bool) -> None:
    from .dryrun import show_plan
    from .models import outline
    from .vectors import sketch_plan

    found = outline(model, device=run.device, dtype=run.dtype)
    plan, packaged = sketch_plan(run, found.shape)
    lines = [("plan", f"{len(plan)} interventions" if plan is not None else f"{', '.join(packaged)}, to be extracted")]
    document: dict[str, Any] = {"plan": plan.spec() if plan is not None else None, "packaged": packaged}
    if baked and plan is not None:
        from ..engines.weights import check_bakeable
        from ..model.architecture import find_architecture

        changes = check_bakeable(find_architecture(found.hf, name=model, prove=False), plan, adapter=adapter)
        settings = dict(changes.settings) | ({"tie_word_embeddings": False} if changes.untied else {})
        lines.append(("rewrites", f"{len(changes.changes)} parameters"))
        lines += [("sets", ", ".join(f"{name} = {value}" for name, value in settings.items()))] if settings else []
        document |= {"rewrites": sorted(changes.changes), "settings": settings}
    lines.append(("writes", f"{output}, {'then loads and verifies it' if baked else 'a few kilobytes'}"))
    show_plan(run, found, lines, document, extra_bytes=float(found.bytes) if baked and not adapter else 0.0)
