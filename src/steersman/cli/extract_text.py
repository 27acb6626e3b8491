"""What ``steer extract`` says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import escape, figures, plural, show
from .failures import InputError
from .session import Run

if TYPE_CHECKING:
    from ..data import ContrastPairs
    from ..vector import SteeringVector


def plan(
    run: Run,
    model: str,
    examples: ContrastPairs,
    *,
    method: str,
    layers: Any,
    site: str | None,
    read: Any,
    target: Path | None,
) -> None:
    """Print what extracting it would take."""
    from ..extraction.activations import TOKEN_BUDGET
    from ..extraction.methods import find_method
    from ..extraction.reading import Encoded, Read
    from ..sites import Sites, layer_indices
    from .dryrun import passes, show_plan
    from .models import outline

    how = find_method(method)
    site, read = site or how.site or "resid_post", Read.parse(read if read is not None else how.read or "last")
    found = outline(model, device=run.device, dtype=run.dtype)
    chosen = [layer for layer, _ in found.shape.expand(Sites(site, layer_indices(layers)), "--layers")]
    lengths = [len(Encoded.of(found.tokens, item).ids) for item in (*examples.positive, *examples.negative)]
    width = found.shape.width(site, chosen[0])
    show_plan(
        run,
        found,
        [
            (
                "examples",
                f"{len(examples.positive)} positive, {len(examples.negative)} negative, {sum(lengths)} tokens, "
                f"the longest {max(lengths)}",
            ),
            (
                "work",
                f"{plural(passes(lengths, TOKEN_BUDGET), 'forward pass')} up to layer {max(chosen)}; "
                f"read at {read}, {plural(len(chosen), 'layer')} of {site}",
            ),
            ("writes", f"{target} and run.json" if target else "nothing (no -o)"),
        ],
        {
            "examples": [len(examples.positive), len(examples.negative)],
            "tokens": sum(lengths),
            "layers": chosen,
            "passes": passes(lengths, TOKEN_BUDGET),
        },
        extra_bytes=len(lengths) * len(chosen) * width * 4 + TOKEN_BUDGET * found.shape.d_model * 4 * len(chosen),
    )


def result(run: Run, vector: SteeringVector, written: Sequence[Path]) -> None:
    """Print what a vector is worth at each layer, with its controls."""
    out, counts = run.out, vector.metadata
    examples = f"{counts['positive']} positive and {counts['negative']} negative examples"
    out.print(
        f"[bold]{escape(vector.name or 'vector')}[/]  {vector.method} at {vector.site}, read {escape(counts['read'])}, "
        f"{examples}"
    )
    out.print()
    if (vector.quality or {}).get("layers"):
        show_layers(run, vector)
    else:
        _show_unmeasured(run, vector)
    if vector.layer is not None:
        out.print(
            f"Chosen layer {vector.layer}: the best separation. Whether it steers best there, a sweep of layers tells.",
            style="dim",
        )
    said = f"saved {' and '.join(map(str, written))}" if written else "not saved (give -o FILE.safetensors)"
    out.print(said, markup=False, soft_wrap=True)


def show_layers(run: Run, vector: SteeringVector) -> None:
    """The table of held-out figures by layer, and what its columns are."""
    quality = dict(vector.quality or {})
    measured: dict[str, dict[str, Any]] = quality["layers"]
    agreement = any(figure.get("consistency") for figure in measured.values())
    table = figures("layer", "accuracy", "95%", "shuffled", "AUROC", "gap", "gap/norm", *["agree"] * agreement, "")
    for layer in (layer for layer in vector.layers if str(layer) in measured):
        figure = measured[str(layer)]
        low, high = figure["accuracy_interval"]
        mark = "chosen" if layer == vector.layer else ""
        shuffled, pairs = figure["shuffled"], figure.get("consistency")
        table.add_row(
            str(layer),
            f"{figure['accuracy']:.2f}",
            f"{low:.2f}-{high:.2f}",
            "" if shuffled is None else f"{shuffled:.2f}",
            f"{figure['auroc']:.3f}",
            *_gap(vector, layer),
            *([f"{pairs['cosine']:.2f}" if pairs else ""] if agreement else []),
            mark,
            style="bold" if mark else None,
        )
    show(run.out, table)
    run.out.print()
    n = sum(vector.metadata[side] for side in ("positive", "negative") if side in vector.metadata)
    count = f"n = {n} " if n else ""
    said = f"Held out: {count}in {quality['folds']} folds by source; shuffled: the same with labels exchanged"
    agreeing = "; agree: mean cosine of a pair's difference with the mean difference"
    run.out.print(said + (agreeing if agreement else "") + ".", style="dim")


def curve(vector: SteeringVector) -> str:
    """Held-out accuracy by layer, with its control, as an SVG.

    Raises:
        InputError: nothing was measured.
    """
    from ..charts import probe_curve

    measured = (vector.quality or {}).get("layers")
    if not measured:
        raise InputError(
            "--chart has nothing to draw", why="held-out figures need 8 examples (and sources) of each kind"
        )
    layers = [layer for layer in vector.layers if str(layer) in measured]
    found = [measured[str(layer)] for layer in layers]
    return probe_curve(
        layers,
        [figure["accuracy"] for figure in found],
        intervals=[tuple(figure["accuracy_interval"]) for figure in found],
        shuffled=[figure["shuffled"] for figure in found],
        best=vector.layer,
        title=f"How well {vector.name or 'the direction'} separates held-out examples",
    )


def _gap(vector: SteeringVector, layer: int) -> tuple[str, str]:
    """The gap, and its share of the residual's norm; nothing where the method or the site has none."""
    gap, norm = vector.gap.get(layer), vector.norms.get(layer)
    return ("" if gap is None else f"{gap:.2f}"), (f"{gap / norm:.2f}" if gap is not None and norm else "")


def _show_unmeasured(run: Run, vector: SteeringVector) -> None:
    table = figures("layer", "gap", "gap/norm")
    for layer in vector.layers:
        table.add_row(str(layer), *_gap(vector, layer))
    show(run.out, table)
    run.out.print()
    heads = (vector.quality or {}).get("heads")
    if heads:
        run.out.print(
            f"The method chose {len(heads)} single heads; add the vector at all of its layers: -v {vector.name}@all",
            style="dim",
        )
    else:
        run.out.print(
            "Held-out figures need 8 examples (and sources) of each kind: none were measured, no layer is chosen.",
            style="dim",
        )
