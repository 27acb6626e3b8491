"""What a report is made from, brought into one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from ..errors import DataError
from ..sweeping.result import Row, Sweep
from ..sweeping.stages import said
from .words import Document


def read_evaluation(given: Any) -> Document:
    """The JSON document of an evaluation, or of the object.

    Raises:
        DataError: it is something else.
    """
    found: Any = given.as_json() if hasattr(given, "as_json") else given
    if not isinstance(found, Mapping) or cast(Document, found).get("schema") != "steersman.evaluation/1":
        raise DataError(f"a report takes an evaluation or its JSON document, not {_what(found)}")
    return cast(Document, found)


def read_sweep(given: Any, max_kl: float) -> Document:
    """A sweep with the choice made in it: ``rows``, ``best`` (or None), ``max_kl``, ``target``, ``model``,
    ``settings``.

    Args:
        given: a sweep, the document it is saved as, or that which ``steer sweep --json`` prints.
        max_kl: the budget.

    Raises:
        DataError: it is something else.
    """
    sweep = given if isinstance(given, Sweep) else _loaded(given)
    try:
        best = asdict(sweep.best(max_kl))
    except DataError:
        best = None
    facts = dict(sweep.facts)
    controls: Any = facts.pop("controls", {})
    own = {name: facts.pop(name, None) for name in ("model", "target", "seed", "versions")}
    facts.pop("split", None)
    stages: Any = {"dropped": sweep.dropped, "stages": said(facts.pop("stages", {}), facts.pop("dropped", []))}
    return {**own, **stages, "rows": [asdict(row) for row in sweep.rows], "best": best, "max_kl": max_kl,
            "settings": facts, "prompt": controls.get("prompt"), "notes": facts.pop("notes", [])}  # fmt: skip


def _loaded(given: Any) -> Sweep:
    if isinstance(given, Mapping):
        document = cast(Document, given)
        if "steersman.sweep" in (document.get("format"), str(document.get("schema")).partition("/")[0]):
            try:
                return Sweep(tuple(Row(**row) for row in document["rows"]), document["facts"], {})
            except (KeyError, TypeError) as error:
                raise DataError(f"a document that is no sweep: {error}") from error
    raise DataError(f"a report takes a sweep or its JSON document, not {_what(given)}")


def _what(given: Any) -> str:
    if isinstance(given, Mapping):
        document = cast(Document, given)
        return f"a document of {document.get('schema') or document.get('format')!r}"
    return f"a {type(given).__name__}"
