"""The spec: one JSON form of a plan over named vectors, the same wherever a plan is written down.

    {"interventions": [{"vector": "happy", "strength": 1.5, "layers": [12], "operation": "add",
                        "positions": "last+generation", "when": {"vector": "harm", "layer": 9, "above": 0.3}}]}

Tensors (means, values, erasers) are named entries like vectors. Unknown keys are refused. ``json_schema()`` is the
schema; ``parse_token`` reads the command line's ``happy:1.5@10-14`` and ``from_flat_keys`` the keys of a server that
allows no nesting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from .conditions import When
from .errors import InterventionError, MismatchError, SpecError
from .operations import OPERATIONS, Custom, Intervention
from .operations.base import condition
from .sites import Sites, layer_indices
from .sites import site as whole_site

_TOKEN = re.compile(
    r"(?P<name>.+?)(?::(?P<strength>[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?))?(?:@(?P<layers>all|[-0-9, ]+))?"
)
#: The keys of an intervention that name entries.
NAMING = ("vector", "direction", "eraser", "values", "means", "reference", "plane")
_FLAT = ("vector", "strength", "layers", "positions", "operation")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class WhenSpec(_Strict):
    """A condition: a named direction, the layer it is read at, and one threshold."""

    vector: str
    layer: int
    above: float | None = None
    below: float | None = None
    measure: Literal["cosine", "projection"] = "cosine"


class IndexSpec(_Strict):
    """Positions as lists of indices."""

    prompt: list[int] = []
    generation: list[int] = []


class InterventionSpec(_Strict):
    """One intervention. ``vector`` and the tensor-bearing keys name entries kept beside the spec."""

    operation: Literal["add", "ablate", "clamp", "affine", "erase", "rotate", "replace", "zero", "mean", "resample"] = (
        "add"
    )
    vector: str | None = None
    direction: str | None = None
    eraser: str | None = None
    values: str | None = None
    means: str | None = None
    reference: str | None = None
    plane: str | None = None
    strength: float | list[float] = 1.0
    layers: list[int] | dict[str, float] | str | int | None = None
    site: str | None = None
    heads: list[tuple[int | Literal["all"], int]] | None = None
    neurons: list[tuple[int | Literal["all"], int]] | None = None
    positions: str | IndexSpec | None = None
    when: WhenSpec | None = None
    unit: Literal["norm", "gap"] | None = None
    value: float | None = None
    side: Literal["both", "above", "below"] | None = None
    alpha: float | None = None
    angle: float | None = None
    seed: int | None = None


class PlanSpec(_Strict):
    """A plan."""

    interventions: list[InterventionSpec]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a spec."""
    return PlanSpec.model_json_schema()


# -- interventions -> spec --------------------------------------------------------------------------------------


def write(interventions: Iterable[Intervention]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The spec of a plan's interventions and its named entries (vectors, tensors, values, erasers).

    Raises:
        UnsupportedError: when one of them holds a function.
    """
    entries: dict[str, Any] = {}
    items = [_to_spec(item, entries) for item in interventions]
    return {"interventions": items}, entries


def _to_spec(item: Intervention, entries: dict[str, Any]) -> dict[str, Any]:
    if isinstance(item, Custom):
        raise item.refuse_saving()
    found = item.parameters()
    for role, value in item.named_tensors().items():
        name = _name_for(value, role, entries)
        if role == "when":
            found["when"] = {"vector": name, **cast(dict[str, Any], condition(item.when))}
        else:
            found["vector" if role == "direction" else role] = name
    return found


def _name_for(value: Any, role: str, entries: dict[str, Any]) -> str:
    """The entry's own name if it is free or already means the same, else that name with a number."""
    wanted = getattr(value, "name", None) or {"when": "condition"}.get(role, role)
    number, name = 1, wanted
    while name in entries and not _same(entries[name], value):
        number += 1
        name = f"{wanted}-{number}"
    entries[name] = value
    return name


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a is b or (type(a) is type(b) and bool(a == b))


# -- spec -> interventions --------------------------------------------------------------------------------------


def validate(spec: Mapping[str, Any] | str) -> PlanSpec:
    """Check a spec against the schema; SpecError names each place that does not follow it."""
    try:
        text = spec if isinstance(spec, str) else json.dumps(spec)
        return PlanSpec.model_validate_json(text)
    except ValidationError as error:
        raise SpecError("; ".join(_explain(problem) for problem in error.errors())) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"the spec is not JSON: {error}") from error


_PARTS = {"when": WhenSpec, "positions": IndexSpec, "interventions": InterventionSpec}


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "the spec"
    if problem["type"] != "extra_forbidden":
        return f"{place}: {problem['msg']}"
    holder = next((_PARTS[part] for part in reversed(problem["loc"][:-1]) if part in _PARTS), PlanSpec)
    key, known = str(problem["loc"][-1]), list(holder.model_fields)
    close = get_close_matches(key, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"the keys here are {', '.join(known)}"
    return f"{place}: unknown key {key!r}; {hint}"


def read(spec: Mapping[str, Any] | str, vectors: Mapping[str, Any]) -> list[Intervention]:
    """The interventions of a spec over named entries.

    Raises:
        SpecError: unknown keys, values out of place, or a name that is not among ``vectors``.
    """
    items: list[Intervention] = []
    for number, item in enumerate(validate(spec).interventions):
        try:
            items.extend(_build(item, vectors))
        except (InterventionError, MismatchError, TypeError) as error:
            raise SpecError(f"interventions.{number}: {error}") from error
    return items


def _build(item: InterventionSpec, vectors: Mapping[str, Any]) -> list[Intervention]:
    cls = OPERATIONS[item.operation]
    given = {k: v for k, v in item.model_dump(exclude_unset=True).items() if v is not None and k != "operation"}
    if "direction" in cls.tensors and "vector" in given:
        given.setdefault("direction", given["vector"])
        if given["direction"] != given.pop("vector"):
            raise InterventionError('"vector" and "direction" say the same; give one')
    allowed = {*cls.tensors, *cls.plain, "strength", "layers", "site", "positions", "when"}
    by_place = "where" in cls.plain
    allowed |= {"heads", "neurons"} if by_place else set()
    stray = sorted(set(given) - allowed)
    if stray:
        raise InterventionError(
            f"{item.operation!r} takes no {', '.join(stray)}; it takes {', '.join(sorted(allowed))}"
        )
    required = [field.name for field in fields(cast(Any, cls)) if field.default is MISSING and field.name != "where"]
    for name in dict.fromkeys([*required, *cls.tensors]):
        if name not in given and name != "plane":
            wanted = "vector" if name == "direction" else name
            raise InterventionError(f"{item.operation!r} needs {wanted!r}")
    for role in cls.tensors:
        if role in given:
            given[role] = _entry(given[role], vectors)
    if isinstance(given.get("layers"), dict):
        given["layers"] = {_layer_key(key): weight for key, weight in given["layers"].items()}
    if "when" in given:
        when = dict(given["when"])
        given["when"] = When(_entry(when.pop("vector"), vectors), **when)
    if not by_place:
        return [cls(**given)]
    places = _places(given)
    return [cast(Any, cls)(where=place, **given) for place in places]


def _layer_key(key: str) -> int:
    try:
        return int(key)
    except ValueError:
        raise InterventionError(f"layers names {key!r}, which is no layer index") from None


def _entry(name: str, vectors: Mapping[str, Any]) -> Any:
    if name not in vectors:
        close = get_close_matches(name, vectors, 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(vectors)) or 'none'}"
        raise InterventionError(f"no vector named {name!r}{hint}")
    return vectors[name]


def _places(given: dict[str, Any]) -> list[Sites]:
    """The ``where`` of a component operation: heads, neurons, or a site in some layers."""
    ways = [key for key in ("heads", "neurons", "site") if key in given]
    if len(ways) != 1:
        raise InterventionError('name one of "heads", "neurons", or "site" with "layers"')
    if ways == ["site"]:
        layers = given.pop("layers", "all")
        if isinstance(layers, dict):
            raise InterventionError('"layers" weighs layers, which only operations with a vector do; give a list')
        return [whole_site(given.pop("site"), layers)]
    if "layers" in given:
        raise InterventionError(f'"{ways[0]}" names its own layers; leave "layers" out')
    pairs: Sequence[tuple[int | str, int]] = given.pop(ways[0])
    if not pairs:
        raise InterventionError(f'"{ways[0]}" is empty; name at least one [layer, index]')
    by_layer: dict[int | str, list[int]] = {}
    for layer, unit in pairs:
        by_layer.setdefault(layer, []).append(unit)
    by_units: dict[tuple[int, ...], list[int | str]] = {}
    for layer, units in by_layer.items():
        by_units.setdefault(tuple(units), []).append(layer)
    component = "z" if ways == ["heads"] else "mlp_post"
    return [
        Sites(component, None if "all" in layers else cast(tuple[int, ...], tuple(layers)), units)
        for units, layers in by_units.items()
    ]


# -- shorthands -------------------------------------------------------------------------------------------------


def parse_token(token: str) -> dict[str, Any]:
    """``NAME|PATH|ORG/REPO[:STRENGTH][@LAYERS]``, such as ``happy:1.5@10-14``, as one intervention's spec.

    Layers are ``10``, ``10-14``, ``6,8,10`` or ``all`` (all that the vector has). A drive letter
    (``C:\\happy.safetensors:2``) is part of the name.
    """
    match = _TOKEN.fullmatch(token.strip())
    if match is None or not match["name"].strip():
        raise SpecError(f"{token!r} is no vector token; write NAME[:STRENGTH][@LAYERS], for example happy:1.5@10-14")
    found: dict[str, Any] = {"vector": match["name"]}
    if match["strength"]:
        found["strength"] = float(match["strength"])
    if match["layers"]:
        try:
            layers = layer_indices(match["layers"])
            found["layers"] = "all" if layers is None else list(layers)
        except InterventionError as error:
            raise SpecError(f"{token!r}: {error}") from error
    return found


def from_flat_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """A spec of one intervention from ``steersman_vector``, ``steersman_strength``, ``_layers``, ``_positions``,
    ``_operation``, for servers that allow no nesting."""
    found: dict[str, Any] = {}
    for key, value in keys.items():
        name = key.removeprefix("steersman_")
        if name == key or name not in _FLAT:
            raise SpecError(f"unknown key {key!r}; the flat keys are {', '.join('steersman_' + n for n in _FLAT)}")
        found[name] = value
    if "vector" not in found:
        raise SpecError("steersman_vector is missing")
    return {"interventions": [found]}
