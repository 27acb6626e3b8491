"""What ``steer choose`` says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import escape, figures, plural, show
from .session import Run

if TYPE_CHECKING:
    from ..choosing import AblationChoice, ConditionChoice, LayerSearch, SideBySide
    from ..evaluation.statistics import Estimate
    from ..plan import Plan


def plan(run: Run, model: str, prompts: Sequence[Any], special: tuple[str, str], output: Path | None) -> None:
    """Print what choosing would take."""
    from .dryrun import show_plan
    from .models import outline

    found = outline(model, device=run.device, dtype=run.dtype)
    tokens = sum(len(found.tokens.encode(text)) for text in prompts)
    lines = [
        special,
        ("prompts", f"{plural(len(prompts), 'prompt')}, {plural(tokens, 'token')}"),
        ("writes", f"{output} and run.json" if output else "nothing (no -o)"),
    ]
    document = {special[0]: special[1], "prompts": len(prompts), "tokens": tokens,
                "output": str(output) if output else None}  # fmt: skip
    show_plan(run, found, lines, document, extra_bytes=16.0 * 4096 * found.shape.d_model)


def condition(run: Run, found: ConditionChoice, made: Plan | None, output: Path | None) -> None:
    """Print the best cut of each layer, the choice, and what random directions do."""
    if run.json_:
        return
    table = figures("layer", "threshold", "side", "F1", "margin", "", left=1)
    for row in found.layers:
        side = "above" if row.above else "below"
        chosen = "chosen" if row.layer == found.when.layer else ""
        table.add_row(str(row.layer), f"{row.threshold:.3g}", side, f"{row.f1:.2f}", f"{row.margin:.2g}", chosen)
    show(run.out, table)
    run.say(f"on prompts kept from the choice: F1 {_between(found.f1)}, always {found.always:.2f}"
              f"{_ranked(found.p_value, len(found.random))}")  # fmt: skip
    run.say(f"precision {_between(found.precision)}, recall {_between(found.recall)}")
    when = found.when
    side, threshold = ("above", when.above) if when.above is not None else ("below", when.below)
    run.say(f"when the {when.measure} at layer {when.layer} is {side} {threshold:.4g}")
    if made is not None and output is None:
        run.note("note: the plan is not saved; add -o FILE.safetensors")
    _saved(run, output)


def ablation(run: Run, found: AblationChoice, output: Path | None) -> None:
    """Print the candidates with their scores, and the choice on prompts kept from it."""
    if run.json_:
        return
    table = figures("layer", "token", "bypass", "induce", "KL", "", left=1)
    for row in found.candidates:
        here = (row.layer, row.position) == (found.layer, found.position)
        table.add_row(
            str(row.layer), str(row.position), f"{row.bypass:+.3f}", f"{row.induce:+.3f}", f"{row.kl:.4f}",
            "chosen" if here else "" if row.allowed else "not allowed",
        )  # fmt: skip
    show(run.out, table)
    run.say(f"ablated, on prompts kept from the choice: {_between(found.effect)} {found.facts['target']['unit']}"
              f"{_ranked(found.p_value, len(found.random))}")  # fmt: skip
    run.say(f"added where it is not: the target at {_between(found.induce)}; KL of the ablation {_between(found.kl)}")
    _saved(run, output)


def compare(run: Run, found: SideBySide, output: Path | None) -> None:
    """Print each way at the budget, and what asking in words does."""
    if run.json_:
        return
    table = figures("", "times", "KL", "effect", "beside the best", "p", "", left=1)
    best = found.best
    for one in found:
        behind = "" if one.behind is None else _between(one.behind)
        p = "-" if one.p_value is None else f"{one.p_value:.3f}"
        note = "best" if one is best else "" if one.reached else "in full"
        table.add_row(escape(one.name), f"{one.factor:.3g}", f"{one.kl:.3f}", _between(one.effect), behind, p, note)
    show(run.out, table)
    if not all(one.reached for one in found):
        run.say("in full: all that the operation can do, which costs less than the budget")
    if found.facts["random"]:
        run.say(f"p: the rank of the effect among {plural(found.facts['random'], 'random direction')} in its place")
    if found.words is not None:
        run.say(f"asking in words instead: {_between(found.words)}")
    n, unit = found.facts["report_items"], found.facts["target"]["unit"]
    run.say(f"effects in {unit} over {plural(n, 'item')} kept from the choice; the best was named by the others")
    _saved(run, output)


def layers(run: Run, found: LayerSearch, output: Path | None) -> None:
    """Print the trials that no other beats, the choice, and by how much it beats one layer alone."""
    if run.json_:
        return
    table = figures("layers", "effect", "KL", "", left=1)
    for one in found.pareto():
        weights = "  ".join(f"{layer}: {weight:+.2f}" for layer, weight in sorted(one.weights.items()))
        note = "chosen" if one is found.chosen else "single layer" if one is found.single else ""
        table.add_row(weights, f"{one.tune_effect:+.3f}", f"{one.kl:.4f}", note)
    show(run.out, table)
    ranked = _ranked(found.p_value, found.facts["random"])
    run.say(f"on items kept from the choice: {_between(found.effect)} {found.facts['target']['unit']}{ranked}")
    run.say(f"more than the best single layer by {_between(found.beyond)}")
    _saved(run, output)


def _ranked(p: float | None, n: int) -> str:
    return "" if p is None else f"; p = {p:.3f} among {plural(n, 'random direction')} searched alike"


def _between(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3g}"
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def _saved(run: Run, output: Path | None) -> None:
    if output is not None:
        run.say(f"saved {output}")
