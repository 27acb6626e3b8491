"""What ``steer probe`` says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import escape, figures, plural, show
from .session import Run

if TYPE_CHECKING:
    from ..data import LabelledTexts
    from ..probe import LinearProbe


def plan(
    run: Run, model: str, texts: LabelledTexts, *, layers: Any, site: str, read: Any, outputs: Sequence[Path]
) -> None:
    """Print what fitting it would take."""
    from ..extraction.activations import TOKEN_BUDGET
    from ..extraction.reading import Encoded, Read
    from ..sites import Sites, layer_indices
    from .dryrun import passes, show_plan
    from .models import outline

    how = Read.parse(read)
    found = outline(model, device=run.device, dtype=run.dtype)
    chosen = [layer for layer, _ in found.shape.expand(Sites(site, layer_indices(layers)), "--layers")]
    lengths = [len(Encoded.of(found.tokens, item).ids) for item in texts.texts]
    width = found.shape.width(site, chosen[0])
    counts = _counts(texts.labels)
    written = f"{', '.join(map(str, outputs))} and run.json" if outputs else "nothing (no -o)"
    show_plan(
        run,
        found,
        [
            ("texts", f"{counts}, {sum(lengths)} tokens, the longest {max(lengths)}"),
            (
                "work",
                f"{plural(passes(lengths, TOKEN_BUDGET), 'forward pass')} up to layer {max(chosen)}; read at {how}, "
                f"{plural(len(chosen), 'layer')} of {site}; a probe fitted at each",
            ),
            ("writes", written),
        ],
        {"texts": len(texts), "tokens": sum(lengths), "layers": chosen, "passes": passes(lengths, TOKEN_BUDGET)},
        extra_bytes=len(lengths) * len(chosen) * width * 4 + TOKEN_BUDGET * found.shape.d_model * 4 * len(chosen),
    )


def result(run: Run, probe: LinearProbe, outputs: Sequence[Path]) -> None:
    """Print what a probe is worth at each layer, with its controls."""
    out, fitted = run.out, probe.fitted
    counts = ", ".join(f"{n} {label}" for label, n in zip(fitted.classes, fitted.counts, strict=True))
    read = "" if fitted.read is None else f", read {fitted.read}"
    out.print(f"[bold]linear probe[/]  at {fitted.site}{escape(read)}: {escape(counts)}")
    out.print()
    if probe.best_layer is None:
        out.print(f"{probe.notice}.", style="dim", markup=False)
    else:
        _show_layers(run, probe)
    said = f"saved {' and '.join(map(str, outputs))}" if outputs else "not saved (give -o FILE.safetensors)"
    out.print(said, markup=False, soft_wrap=True)


def _show_layers(run: Run, probe: LinearProbe) -> None:
    table = figures("layer", "accuracy", "95%", "shuffled", "AUROC", "")
    for layer in probe.layers:
        accuracy, interval = probe.accuracy[layer], probe.interval[layer]
        shuffled, auroc = probe.shuffled[layer], probe.auroc[layer]
        mark = "best" if layer == probe.best_layer else ""
        table.add_row(
            str(layer),
            "" if accuracy is None else f"{accuracy:.2f}",
            "" if interval is None else f"{interval[0]:.2f}-{interval[1]:.2f}",
            "" if shuffled is None else f"{shuffled:.2f}",
            "" if auroc is None else f"{auroc:.3f}",
            mark,
            style="bold" if mark else None,
        )
    show(run.out, table)
    run.out.print()
    counts = probe.fitted.counts
    run.out.print(
        f"Held out: n = {sum(counts)} in {probe.settings.cv} folds by source; shuffled: the same with labels "
        f"exchanged; always the largest class: {max(counts) / sum(counts):.2f}. The best of {len(probe.layers)} layers "
        "flatters itself a little; what a probe reads need not be what the model uses.",
        style="dim",
    )


def document(probe: LinearProbe) -> dict[str, Any]:
    """A probe's figures as values."""
    fitted = probe.fitted
    rows = probe.frame().reset_index().to_dict("records")
    return {
        "classes": list(fitted.classes),
        "counts": list(fitted.counts),
        "site": fitted.site,
        "read": fitted.read,
        "best_layer": probe.best_layer,
        "notice": probe.notice,
        "layers": rows,
    }


def _counts(labels: Sequence[Any]) -> str:
    from collections import Counter

    return ", ".join(f"{n} {label}" for label, n in Counter(map(str, labels)).items())
