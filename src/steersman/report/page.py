"""The report: what was found, which layer and how strong, what it breaks, how it reads, how to repeat it.

It is made from JSON documents, those that ``Sweep.as_json()`` and ``Evaluation.as_json()`` give and the commands write:

- an evaluation, schema ``steersman.evaluation/1``;
- a sweep, schema ``steersman.sweep/1``, of which these keys are read: ``rows``, each with ``layer``, ``strength`` and
  ``effect``, and if measured ``effect_low``, ``effect_high``, ``kl``, ``random_low``, ``random_high``, ``p_value``;
  ``best``, one of them or None; ``max_kl``; ``model``, ``vector``, ``target``, ``settings``, ``seed``, ``versions``;
  ``samples`` as an evaluation has them.

The file holds everything it shows: nothing is loaded, no script runs, and opening it tells nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files.atomic import replacing
from . import html
from .evaluation import change_table, dose, gates, headline_tiles
from .repeating import repeating
from .sweep import dose_at_best, maps, sweep_tiles
from .words import model_name, plan_words

Document = Mapping[str, Any]


def render(sweep: Any = None, evaluation: Any = None, *, title: str | None = None) -> str:
    """The report as HTML.

    Args:
        sweep: a sweep, or its JSON document; or None.
        evaluation: an evaluation, or its JSON document; or None.
        title: the heading; made from model and plan unless given.

    Raises:
        DataError: neither is given, or a document is of another kind.
    """
    swept = _document(sweep, "steersman.sweep/1")
    evaluated = _document(evaluation, "steersman.evaluation/1")
    if swept is None and evaluated is None:
        raise DataError("a report needs a sweep, an evaluation, or both")
    either = evaluated or swept or {}
    heading = title or f"Steering {model_name(either)} with {plan_words(evaluated, swept)}"
    parts = [
        f"<header>\n<h1>{html.text(heading)}</h1>\n{html.paragraph(_introduction(evaluated, swept), 'soft')}\n</header>",
        html.tiles(headline_tiles(evaluated) if evaluated else sweep_tiles(swept or {})),
        gates(evaluated) if evaluated else "",
        html.section("Which layer, how strong", maps(swept)) if swept else "",
        html.section("Dose and response", _doses(evaluated, swept)),
        html.section("What it does, and what it breaks", change_table(evaluated)) if evaluated else "",
        html.section("How it reads", [_continuations(either, swept)]),
        html.section("How to repeat it", repeating(evaluated, swept)),
    ]
    return html.document(heading, "\n".join(part for part in parts if part))


def write(path: str | Path, sweep: Any = None, evaluation: Any = None, *, title: str | None = None) -> str:
    """Write the report to one file, atomically; returns its path. Arguments and errors as :func:`render`."""
    if Path(path).suffix != ".html":
        raise DataError(f"a report is an HTML page, so {path} must end in .html")
    page = render(sweep, evaluation, title=title)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return str(path)


def _document(given: Any, schema: str) -> Document | None:
    if given is None:
        return None
    found: Any = given.as_json() if hasattr(given, "as_json") else given
    if not isinstance(found, Mapping) or found.get("schema") != schema:
        says = found.get("schema") if isinstance(found, Mapping) else type(given).__name__
        raise DataError(f"a document of the schema {schema} is needed, this is {says!r}")
    return found  # pyright: ignore[reportUnknownVariableType]


def _doses(evaluated: Document | None, swept: Document | None) -> list[str]:
    """The curves, side by side."""
    figures = [dose(evaluated) if evaluated else "", dose_at_best(swept) if swept else ""]
    return [f'<div class="figures">{"".join(figures)}</div>'] if any(figures) else []


def _introduction(evaluated: Document | None, swept: Document | None) -> str:
    target = (evaluated or swept or {}).get("target") or {}
    positive, negative = target.get("positive"), target.get("negative")
    if positive and negative:
        measured = f"how much likelier {_quoted(positive)} become than {_quoted(negative)}"
    elif target:
        measured = f"a target of the kind {target.get('kind')}, in {target.get('unit')}"
    else:
        return "No target was given: side effects alone were measured."
    return (
        f"Measured is {measured}. Intervals are 95%, bootstrapped over where items come from; an effect counts only beside "
        "that of random directions of the same length."
    )


def _quoted(texts: list[str], most: int = 3) -> str:
    shown = ", ".join(f"“{text.strip()}”" for text in texts[:most])
    return shown + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _continuations(either: Document, swept: Document | None) -> str:
    """Prompts with their texts side by side, each prompt a group of rows."""
    samples = either.get("samples") or (swept or {}).get("samples") or ()
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
