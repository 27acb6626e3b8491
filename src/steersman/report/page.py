"""The report: what was found, which layer and how strong, what it breaks, how it reads, how to repeat it.

It is made from a sweep and an evaluation, or from the JSON documents that they are saved as.

The file holds everything it shows: nothing is loaded, no script runs, and opening it tells nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files.atomic import replacing
from . import html
from .documents import read_evaluation, read_sweep
from .evaluation import change_table, dose, gates, headline_tiles
from .repeating import repeating
from .sweep import dose_at_best, maps, sweep_tiles
from .words import Document, model_name, plan_words


def render(
    sweep: Any = None,
    evaluation: Any = None,
    *,
    max_kl: float = 0.1,
    samples: Sequence[Document] = (),
    title: str | None = None,
) -> str:
    """The report as HTML.

    Args:
        sweep: a sweep, or its JSON document; or None.
        evaluation: an evaluation, or its JSON document; or None.
        max_kl: the budget within which the sweep's choice is made.
        samples: prompts and their continuations, as :func:`steersman.evaluation.continuations` gives them; those of the
            evaluation unless given.
        title: the heading; made from model and plan unless given.

    Raises:
        DataError: neither is given, or a document is of another kind.
    """
    swept = None if sweep is None else read_sweep(sweep, max_kl)
    evaluated = None if evaluation is None else read_evaluation(evaluation)
    if swept is None and evaluated is None:
        raise DataError("a report needs a sweep, an evaluation, or both")
    either = evaluated or swept or {}
    heading = title or f"Steering {model_name(either)} with {plan_words(evaluated, swept)}"
    parts = [
        f"<header>\n<h1>{html.text(heading)}</h1>\n{html.paragraph(_introduction(either), 'soft')}\n</header>",
        html.tiles(headline_tiles(evaluated) if evaluated else sweep_tiles(swept or {})),
        gates(evaluated) if evaluated else "",
        html.section("Which layer, how strong", maps(swept)) if swept else "",
        html.section("Dose and response", _doses(evaluated, swept)),
        html.section("What it does, and what it breaks", change_table(evaluated)) if evaluated else "",
        html.section("How it reads", [_continuations(samples or either.get("samples") or ())]),
        html.section("How to repeat it", repeating(evaluated, swept)),
    ]
    return html.document(heading, "\n".join(part for part in parts if part))


def write(path: str | Path, sweep: Any = None, evaluation: Any = None, **options: Any) -> str:
    """Write the report to one file, atomically; returns its path. Arguments and errors as :func:`render`."""
    if Path(path).suffix != ".html":
        raise DataError(f"a report is an HTML page, so {path} must end in .html")
    page = render(sweep, evaluation, **options)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return str(path)


def _doses(evaluated: Document | None, swept: Document | None) -> list[str]:
    """The curves, side by side."""
    figures = [dose(evaluated) if evaluated else "", dose_at_best(swept) if swept else ""]
    return [f'<div class="figures">{"".join(figures)}</div>'] if any(figures) else []


def _introduction(either: Document) -> str:
    target = either.get("target") or {}
    positive, negative = target.get("positive"), target.get("negative")
    if positive and negative:
        measured = f"how much likelier {_quoted(positive)} become than {_quoted(negative)}"
    elif target:
        measured = f"a target of the kind {target.get('kind')}, in {target.get('unit')}"
    else:
        return "No target was given: side effects alone were measured."
    return (
        f"Measured is {measured}. Intervals are 95%, bootstrapped over where items come from; an effect counts only "
        "beside that of random directions of the same length."
    )


def _quoted(texts: list[str], most: int = 3) -> str:
    shown = ", ".join(f"“{text.strip()}”" for text in texts[:most])
    return shown + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _continuations(samples: Sequence[Document]) -> str:
    """Prompts with their texts side by side, each prompt a group of rows."""
    if not samples:
        return ""
    names = {"-": "minus the plan", "0": "unsteered", "+": "steered"}
    signs = [sign for sign in names if sign in samples[0]["texts"]]
    kinds = {"-": "minus", "0": "soft", "+": "plus"}
    head = "".join(f'<th scope="col" class="text {kinds[sign]}">{names[sign]}</th>' for sign in signs)
    groups = "".join(
        f'<tbody><tr><th scope="rowgroup" colspan="{len(signs)}">{html.text(sample["prompt"])} …</th></tr><tr>'
        + "".join(f'<td class="text">{html.text(sample["texts"].get(sign, ""))}</td>' for sign in signs)
        + "</tr></tbody>\n"
        for sample in samples
    )
    caption = "Drawn with the same seed in every column; not chosen."
    return (
        f'<div class="scroll" role="region" aria-label="continuations" tabindex="0"><table class="continuations">'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead>{groups}</table></div>"
    )
