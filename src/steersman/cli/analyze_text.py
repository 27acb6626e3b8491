"""What ``steer analyze`` says and draws."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import escape, figures, plural, show
from .session import Run

if TYPE_CHECKING:
    from ..analysis import CosineMatrix, Lens, Projections
    from ..vector import SteeringVector
    from .analyze import Analysis

Drawn = dict[str, str]


def plan(
    run: Run,
    model: str,
    vectors: Sequence[str],
    texts: Sequence[str],
    prompt: str | None,
    pairs: str | None,
    target: Path | None,
) -> None:
    """Print what looking would take."""
    from .dryrun import show_plan
    from .models import outline

    found = outline(model, device=run.device, dtype=run.dtype)
    work = [f"the tokens of {plural(len(vectors), 'vector')}" + (", measured on a prompt" if prompt else "")]
    work += [f"{plural(len(texts), 'text')} token by token"] if texts else []
    work += [f"where the pairs of {pairs} lie"] if pairs else []
    work += [f"{len(vectors)} vectors compared"] if len(vectors) > 1 else []
    lines = [
        ("vectors", ", ".join(vectors)),
        ("work", "; ".join(work)),
        ("writes", f"charts, analysis.json and run.json into {target}" if target else "nothing (no -o)"),
    ]
    vocabulary = int(found.hf.config.vocab_size)
    show_plan(run, found, lines, {"vectors": list(vectors), "texts": len(texts)}, extra_bytes=vocabulary * 128 * 4.0)


def result(run: Run, found: Analysis) -> None:
    """Print everything that was found."""
    for name, vector in found.vectors.items():
        _headline(run, name, vector)
        _lengths(run, vector, found.layers[name])
        if name in found.lenses:
            _tokens(run, found.lenses[name])
        for lying in found.projections[name]:
            _along(run, lying)
        if name in found.geometries:
            _plane(run, found, name)
    if found.cosines is not None:
        _cosines(run, found.cosines, found.layers)


def _headline(run: Run, name: str, vector: SteeringVector) -> None:
    made = f", made for {vector.origin.model}" if vector.origin else ""
    how = f"{vector.method} " if vector.method else ""
    run.out.print(f"[bold]{escape(name)}[/]  {escape(f'{how}at {vector.site}{made}')}", soft_wrap=True)
    run.out.print()


def _lengths(run: Run, vector: SteeringVector, chosen: int) -> None:
    table = figures("layer", "length", "gap", "residual", "length/residual", "cosine to previous", "")
    before: int | None = None
    for layer in vector.layers:
        length, norm = float(vector[layer].norm()), vector.norms.get(layer)
        mark = "looked at" if layer == chosen else ""
        table.add_row(
            str(layer),
            f"{length:.2f}",
            f"{vector.gap[layer]:.2f}" if layer in vector.gap else "",
            "" if norm is None else f"{norm:.2f}",
            f"{length / norm:.2f}" if norm else "",
            "" if before is None or before != layer - 1 else f"{cosine(vector, before, layer):.2f}",
            mark,
            style="bold" if mark else None,
        )
        before = layer
    show(run.out, table)
    run.out.print()


def cosine(vector: SteeringVector, one: int, other: int) -> float:
    """Of a vector's directions at two layers; zero where one of them is zero or they differ in width."""
    import torch

    a, b = (vector[layer].flatten().double() for layer in (one, other))
    return float(torch.cosine_similarity(a, b, dim=0)) if len(a) == len(b) else 0.0


def _tokens(run: Run, lens: Lens) -> None:
    table = figures("boosts", "logit", "", "suppresses", "logit", "", left=1)
    table.columns[3].justify = "left"
    for (up, more), (down, less) in zip(lens.boosted, lens.suppressed, strict=True):
        table.add_row(_token(up), f"{more:+.2f}", _mark(lens, more), _token(down), f"{less:+.2f}", _mark(lens, less))
    run.out.print(f"tokens at layer {lens.layer}: {escape(lens.how)}", style="dim", soft_wrap=True)
    show(run.out, table)
    if lens.control is not None:
        run.out.print(
            f"*: beyond {lens.control:.2f}, which the strongest token of 95% of {lens.controls} random directions of "
            "the same length does not exceed.",
            style="dim",
        )
    for note in lens.notes:
        run.out.print(f"left out: {escape(note)}", style="dim", soft_wrap=True)
    run.out.print()


def _mark(lens: Lens, logit: float) -> str:
    return "*" if lens.control is not None and abs(logit) > lens.control else ""


def _token(token: str) -> str:
    from ..charts.tokens import visible

    return escape(visible(token))


def _along(run: Run, lying: Projections) -> None:
    run.out.print(f"projection at layer {lying.layer}, token by token", style="dim")
    between = lying.between is not None
    table = figures("token", "projection", *["between the classes"] * between, "")
    low, high = min(lying.values[1:] or lying.values), max(lying.values[1:] or lying.values)
    for number, (token, value) in enumerate(zip(lying.tokens, lying.values, strict=True)):
        share = [f"{lying.between[number]:.2f}"] if lying.between is not None else []
        table.add_row(_token(token), f"{value:+.2f}", *share, _bar(run, value, low, high))
    table.columns[-1].justify = "left"
    show(run.out, table)
    if between:
        run.out.print("0 is the mean of the negative class, 1 that of the positive.", style="dim")
    run.out.print()


def _bar(run: Run, value: float, low: float, high: float, width: int = 24) -> str:
    """A bar from the least to the greatest projection of the text; the first token may lie outside."""
    from .console import fancy

    filled = round(width * min(1.0, max(0.0, (value - low) / (high - low or 1.0))))
    return ("━" if fancy(run.out) else "=") * filled


def _plane(run: Run, found: Analysis, name: str) -> None:
    plane = found.geometries[name]
    run.out.print(
        f"geometry at layer {plane.layer}: {len(plane.positive)} positive and {len(plane.negative)} negative examples; "
        f"the first two principal components hold {plane.explained[0]:.0%} and {plane.explained[1]:.0%} of the "
        f"variance, and {plane.in_plane:.0%} of the difference of means lies in their plane.",
        style="dim",
    )
    run.out.print()


def _cosines(run: Run, cosines: CosineMatrix, layers: dict[str, int]) -> None:
    names = [str(name) for name in cosines.columns]
    run.out.print(
        f"cosines, at {', '.join(f'layer {layer} of {escape(name)}' for name, layer in layers.items())}", style="dim"
    )
    table = figures("", *(escape(name) for name in names))
    for name, row in zip(names, cosines.to_numpy().tolist(), strict=True):
        table.add_row(escape(name), *(f"{value:+.2f}" for value in row))
    show(run.out, table)
    run.out.print(
        f"Two random directions of this width: 0 ± {cosines.random_sd:.2f}; within twice that there is no likeness.",
        style="dim",
    )
    run.out.print()


def figures_of(found: Analysis) -> Drawn:
    """File name -> chart."""
    drawn: Drawn = {}
    several = len(found.vectors) > 1
    for name, vector in found.vectors.items():
        end = f"-{_slug(name)}" if several else ""
        drawn[f"lengths{end}.svg"] = _lengths_chart(name, vector)
        if name in found.lenses:
            drawn[f"lens{end}.svg"] = found.lenses[name].svg()
        for number, lying in enumerate(found.projections[name], 1):
            count = f"-{number}" if len(found.projections[name]) > 1 else ""
            drawn[f"projections{end}{count}.svg"] = lying.svg()
        if name in found.geometries:
            drawn[f"geometry{end}.svg"] = found.geometries[name].svg()
    if found.cosines is not None:
        drawn["cosines.svg"] = found.cosines.svg()
    return drawn


def _lengths_chart(name: str, vector: SteeringVector) -> str:
    from ..charts import bars

    lengths = {layer: float(vector[layer].norm()) for layer in vector.layers}
    whole = all(vector.norms.get(layer) for layer in vector.layers)
    values = [length / vector.norms[layer] if whole else length for layer, length in lengths.items()]
    return bars(
        [f"layer {layer}" for layer in lengths],
        values,
        title=f"Length of {name} by layer",
        value_label="share of the residual's median norm" if whole else "residual units",
        subtitle="strength 1 adds this much" if whole else "",
    )


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "vector"


def document(run: Run, found: Analysis) -> dict[str, Any]:
    """Everything that was found, as values."""
    from ..model.provenance import describe

    assert run.model is not None
    vectors: list[dict[str, Any]] = []
    for name, vector in found.vectors.items():
        lens, plane = found.lenses.get(name), found.geometries.get(name)
        vectors.append(
            {
                "name": name,
                "method": vector.method,
                "site": vector.site,
                "layer": found.layers[name],
                "lengths": {str(layer): float(vector[layer].norm()) for layer in vector.layers},
                "gap": {str(layer): gap for layer, gap in vector.gap.items()},
                "residual_norms": {str(layer): norm for layer, norm in vector.norms.items()},
                "lens": lens and {"how": lens.how, "control": lens.control, "controls": lens.controls,
                                  "boosted": lens.boosted, "suppressed": lens.suppressed, "notes": lens.notes},
                "projections": [
                    {"tokens": lying.tokens, "values": lying.values, "between": lying.between}
                    for lying in found.projections[name]
                ],
                "geometry": plane and {"explained": plane.explained, "in_plane": plane.in_plane,
                                       "positive": plane.positive.tolist(), "negative": plane.negative.tolist()},
            }
        )  # fmt: skip
    names = list(found.vectors)
    cosines = found.cosines
    return {
        "model": describe(run.model),
        "vectors": vectors,
        "cosines": None
        if cosines is None
        else {"names": names, "values": cosines.to_numpy().tolist(), "random_sd": cosines.random_sd},
        "seed": run.seed,
    }
