"""What ``steer eval`` says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import escape, figures, plural, show
from .session import Run

if TYPE_CHECKING:
    from ..evaluation import Evaluation
    from ..evaluation.statistics import Estimate


def plan(run: Run, model: str, against: str | None, options: dict[str, Any], output: Path | None) -> None:
    """Print what evaluating it would take."""
    from ..evaluation.neutral import default_texts
    from .dryrun import show_plan
    from .generate import describe
    from .models import outline
    from .vectors import sketch_plan

    found = outline(model, device=run.device, dtype=run.dtype)
    if against is not None:
        what = f"{against}, compared with {model}"
    else:
        made, packaged = sketch_plan(run, found.shape)
        what = describe(made) if made is not None else f"{', '.join(packaged)}, extracted first from packaged pairs"
    neutral = options.get("neutral") or default_texts(found.name)
    tokens = sum(len(found.tokens.encode(text)) for text in neutral)
    prompts = options.get("prompts") or []
    asked = sum(len(found.tokens.encode(prompt)) for prompt in prompts)
    random = options["random"] if against is None else 0
    work = {"neutral": tokens * (3 + min(10, random) + 4), "target": asked * (8 + random)}
    lines = [
        ("plan", what),
        ("target", "none: side effects only" if options["target"] is None else options["target"].kind),
        ("data", f"{plural(len(prompts), 'prompt')}, {plural(len(neutral), 'neutral text')} of {tokens} tokens"),
        ("controls", f"{plural(random, 'random direction')}, words, another seed"),
        (
            "work",
            f"about {sum(work.values())} tokens scored" + (", and texts generated" if options["generate"] else ""),
        ),
        ("writes", f"{output} and run.json" if output else "nothing"),
    ]
    document = {"plan": what, "prompts": len(prompts), "neutral_tokens": tokens, "random": random,
                "tokens": sum(work.values()), "gates": list(options["gates"])}  # fmt: skip
    vocabulary = found.hf.config.get_text_config().vocab_size
    show_plan(run, found, lines, document, extra_bytes=4096.0 * vocabulary * 4 * 2)


def result(run: Run, found: Evaluation, output: Path | None) -> None:
    """Print the table, what was left out and why, and the gates."""
    table = figures("", "base", "steered", "difference \\[95%]", "control", "")
    table.columns[-1].justify = "left"
    for column in (table.columns[0], table.columns[-1]):
        column.no_wrap = False
    for row in found.rows:
        estimate = row.difference
        table.add_row(
            escape(row.title), _figure(row.base), _figure(row.steered), _between(estimate),
            _figure(row.control.value if row.control else None), escape(row.verdict),
        )  # fmt: skip
    show(run.out, table)
    run.out.print()
    for line in _notes(found):
        run.out.print(escape(line), style="dim")
    for name, why in found.left_out.items():
        run.out.print(f"not measured: {name}, {escape(why)}", style="dim")
    for gate in found.gates:
        sign = "[green]met[/]" if gate.met else "[bold red]not met[/]"
        value = gate.why if gate.value is None else f"it is {gate.value:.4g}"
        run.out.print(f"{sign}: {escape(gate.gate.text)} ({escape(str(value))})")
    if output is not None:
        run.note(f"wrote {output} and {output.parent / 'run.json'}")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) >= 0.0005 or value == 0 else f"{value:.1e}"


def _between(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return _figure(estimate.value)
    return f"{_figure(estimate.value)} \\[{_figure(estimate.low)}, {_figure(estimate.high)}]"


def _notes(found: Evaluation) -> list[str]:
    """What the columns mean, for the controls that occur."""
    kinds = {row.control.kind: row.control.n for row in found.rows if row.control}
    lines = ["95%: bootstrap over the sources of items (Wilson for shares)."]
    if "kl" in found:
        facts = found["kl"].details
        lines.append(f"KL: nats per token, over {facts['affected_tokens']} affected tokens of {facts['texts']} texts.")
    if "random directions" in kinds and _ranked(found):
        lines.append(
            f"control of the effect: 95% of {_ranked(found)} random directions of the same length do less, either way; "
            "of KL and accuracy: the median of ten"
        )
    if "another seed" in kinds:
        lines.append("control of generated texts: unsteered texts with another seed.")
    return lines


def _ranked(found: Evaluation) -> int:
    """How many random directions the effect was ranked among."""
    row = next((row for row in found.rows if row.name == "effect" and row.control), None)
    return row.control.n if row is not None and row.control is not None else 0
