"""From what the command line names (``-v happy:1.5@10``, ``--plan p.safetensors``) to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import lookup
from .failures import InputError

if TYPE_CHECKING:
    from ..model import SteeringModel
    from ..plan import Plan
    from ..shape import ModelShape
    from ..vector import SteeringVector
    from .session import Run

#: operation -> the option that it needs
OPERATIONS = {"add": None, "ablate": None, "clamp": "value", "affine": "alpha", "rotate": "angle"}


def make_plan(run: Run, model: SteeringModel) -> Plan:
    """The plan that the steering options of a run mean on a model, checked against it."""
    document, entries = parts(run, model)
    plan = assemble(run, document, entries)
    plan.actions(model.shape)
    return plan


def sketch_plan(run: Run, shape: ModelShape) -> tuple[Plan | None, list[str]]:
    """The same without a model's weights, and the names of packaged vectors that only a run can extract.

    The plan is None if there are any.
    """
    names = [name for name in _named(run) if lookup.is_packaged(name, run.steering["vectors"])]
    if names:
        check_operation(run)
        return None, names
    document, entries = parts(run, None)
    plan = assemble(run, document, entries)
    plan.actions(shape)
    return plan, []


def parts(run: Run, model: SteeringModel | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The vectors of a run as a spec, and the named vectors it speaks of."""
    from .. import spec

    check_operation(run)
    items: list[dict[str, Any]] = []
    entries: dict[str, Any] = {}
    for token in run.steering["vector"] or []:
        item = spec.parse_token(token)
        vector = find(run, item["vector"], model)
        name = vector.name or Path(item["vector"]).stem
        if name in entries and entries[name] != vector:
            name = item["vector"]
        items.append({**item, "vector": name, **_operation(run)})
        entries[name] = vector
        if run.steering["operation"] == "ablate" and "layers" not in item:
            entries[name] = _chosen_direction(vector)
    return {"interventions": items}, entries


def assemble(run: Run, document: Mapping[str, Any], entries: Mapping[str, Any]) -> Plan:
    """The plan of ``--plan``, then that of the vectors."""
    from ..plan import Plan

    saved = run.steering["plan"]
    before = Plan()
    if saved is not None:
        before = Plan.load(saved)
        run.inputs.append(Path(saved))
    return before + Plan.from_spec(document, entries)


def check_operation(run: Run) -> None:
    """Raise InputError unless the operation exists and has the options it needs, and no others."""
    operation = run.steering["operation"]
    if operation not in OPERATIONS:
        close = get_close_matches(operation, OPERATIONS, 1)
        raise InputError(
            f"--operation {operation} is unknown",
            fix=f"did you mean {close[0]}?" if close else f"use one of {', '.join(OPERATIONS)}",
        )
    for other, option in OPERATIONS.items():
        given = option is not None and run.steering[option] is not None
        if given and other != operation:
            raise InputError(
                f"--{option} belongs to --operation {other}, not to {operation}",
                fix=f"add --operation {other}, or leave --{option} out",
            )
        if option is not None and other == operation and not given:
            raise InputError(f"--operation {operation} needs --{option}", fix=f"for example --{option} 1.0")
    if run.steering["unit"] is not None and (operation != "add" or run.steering["unit"] not in ("norm", "gap")):
        raise InputError(
            "--unit counts the strength of --operation add", fix="use --unit norm or --unit gap, with --operation add"
        )


def only_vector(run: Run, what: str) -> str:
    """The one vector that ``what`` (such as ``"a sweep"``) tries at layers and strengths of its own, as it is called.

    Raises:
        InputError: none or several are given, with a strength or layers, or a plan, or an operation lacks its option.
    """
    from .. import spec

    check_operation(run)
    tokens = run.steering["vector"] or []
    if len(tokens) != 1 or run.steering["plan"] is not None:
        raise InputError(f"{what} tries one vector", fix="give one -v NAME, without strength and layers, and no --plan")
    item = spec.parse_token(tokens[0])
    if "strength" in item or "layers" in item:
        raise InputError(f"-v {tokens[0]} names a strength or layers", why=f"{what} tries many",
                         fix=f"-v {item['vector']}, and the options of {what}")  # fmt: skip
    return str(item["vector"])


def find(run: Run, name: str, model: SteeringModel | None) -> SteeringVector:
    """A vector by what ``-v`` calls it; see :mod:`.lookup`."""
    return lookup.find(run, name, run.steering["vectors"], model)


def _operation(run: Run) -> dict[str, Any]:
    names = ("operation", "value", "alpha", "angle", "unit", "positions")
    return {name: run.steering[name] for name in names if run.steering[name] is not None}


def _named(run: Run) -> list[str]:
    from .. import spec

    return [spec.parse_token(token)["vector"] for token in run.steering["vector"] or []]


def _chosen_direction(vector: SteeringVector) -> Any:
    """The one direction of a vector that is removed everywhere."""
    if vector.layer is None:
        raise InputError(
            f"{vector.label} has no chosen layer", why="its quality was not measured", fix="name one: NAME@LAYER"
        )
    return vector[vector.layer]
