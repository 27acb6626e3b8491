"""From the ``steering`` of a request to a plan, and what the answer says was applied."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from .. import spec
from ..applied import told, touched
from ..errors import SpecError
from ..model import SteeringModel
from ..model.hooks import Row
from ..operations import Action, Intervention
from ..plan import Plan
from .errors import ApiError, did_you_mean
from .settings import Limits
from .vectors import Presets, Vectors

_REMEMBERED = 256
#: Items of a list, or characters of a text, in an intervention.
_LONGEST = 4096


@dataclass(frozen=True, eq=False)
class Item:
    """One intervention of a plan, on this model."""

    said: Mapping[str, Any]
    actions: Sequence[Action]
    digests: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Steered:
    """The steering of a request.

    Attributes:
        plan: what acts; empty for none.
        document: its spec.
        items: what each intervention comes to on this model.
        preset: the preset it came from, if it did.
    """

    plan: Plan
    document: Mapping[str, Any]
    items: Sequence[Item]
    preset: str | None = None

    def applied(self, row: Row, generated: int) -> dict[str, Any]:
        """What was done to a row that ended after that many generated tokens."""
        found = [_applied(item, row, generated) for item in self.items]
        return {"digest": self.plan.digest, "preset": self.preset, "interventions": found}


def _applied(item: Item, row: Row, generated: int) -> dict[str, Any]:
    found = told(item.said, item.actions, next(iter(item.digests.values()), None))
    none = {"prompt": 0, "generation": 0}
    if not item.actions:
        return found | {"tokens": none}
    first = item.actions[0]
    spans = row.spans(first.positions)
    held = None if first.when is None else row.gates.get(first.when)
    found["tokens"] = none if held is False else touched(spans, row.prompt_length, generated)
    return found if held is None else found | {"condition": held}


class Resolver:
    """Turns what requests say into plans, and remembers them."""

    def __init__(self, model: SteeringModel, vectors: Vectors, presets: Presets, name: str, limits: Limits) -> None:
        self.model, self.vectors, self.presets, self.name, self.limits = model, vectors, presets, name, limits
        self._known: OrderedDict[str, Steered] = OrderedDict()
        self._lock = threading.Lock()

    # -- models ---------------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        """The model, and its presets: those stored, and every vector with a chosen layer, at strength 1."""
        return [self.name, *(f"{self.name}:{preset}" for preset in self.preset_names())]

    def preset_names(self) -> list[str]:
        """The presets there are."""
        own = {name for name in self.vectors.names() if self._chosen(name)}
        return sorted({*self.presets.names(), *own})

    def _chosen(self, name: str) -> bool:
        described = self.vectors.describe(name)
        return described.get("layer") is not None and bool(described.get("fits"))

    def preset(self, model: str | None) -> str | None:
        """The preset in the name of a model; ApiError 404 for a model there is not."""
        if model is None or model == self.name:
            return None
        base, colon, preset = model.partition(":") if not model.startswith(f"{self.name}:") else (
            self.name, ":", model[len(self.name) + 1 :]
        )  # fmt: skip
        if base == self.name and colon and (preset in self.presets.names() or preset in self.vectors.names()):
            return preset
        raise ApiError(
            404, "model_not_found", f"there is no model {model[:140]!r}{did_you_mean(model, self.models())}",
            param="model",
        )  # fmt: skip

    # -- steering -------------------------------------------------------------------------------------------------

    def of(self, model: str | None, given: bool, steering: Any) -> Steered:
        """The steering of a request.

        Args:
            model: its model, perhaps with a preset.
            given: whether it has a ``steering`` at all; if not, the preset acts. ``null`` opts out of it.
            steering: what it says there.

        Raises:
            ApiError, SteersmanError: it makes no sense, or does not fit the model.
        """
        preset = self.preset(model)
        if given:
            preset = None
        elif preset is not None:
            steering = self.presets.get(preset)
            steering = [preset] if steering is None else steering
        document = read_steering(steering, self.limits)
        names = [name for item in document["interventions"] for name in _names(item)]
        digests = self.vectors.digests(names)
        key = json.dumps([document, digests, preset], sort_keys=True)
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
                return found
        found = self._build(document, digests, preset)
        with self._lock:
            found = self._known.setdefault(key, found)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return found

    def plan_over(self, item: Mapping[str, Any], digests: Mapping[str, str]) -> Plan:
        """The plan of one intervention over vectors as they were, by digest."""
        return self._build({"interventions": [item]}, digests, None).plan

    def _build(self, document: Mapping[str, Any], digests: Mapping[str, str], preset: str | None) -> Steered:
        entries = {name: self.vectors.entry(digest) for name, digest in digests.items()}
        interventions: list[Intervention] = []
        items: list[Item] = []
        for said in document["interventions"]:
            own = {name: digests[name] for name in _names(said)}
            built = spec.read({"interventions": [said]}, entries)
            actions = [action for one in built for action in one.actions(self.model.shape)]
            interventions += built
            items.append(Item({"operation": "add", **said}, actions, own))
        return Steered(Plan(interventions), document, items, preset)


def read_steering(steering: Any, limits: Limits) -> dict[str, Any]:
    """A spec, from any of the forms that requests may use.

    Raises:
        SpecError: none of them.
        ApiError: more than the limits allow.
    """
    if steering is None:
        found: Any = {"interventions": []}
    elif isinstance(steering, str):
        found = {"interventions": [spec.parse_token(steering)]}
    elif isinstance(steering, list):
        found = {"interventions": [_of_item(item) for item in cast("list[Any]", steering)]}
    elif isinstance(steering, Mapping) and "interventions" in steering:
        found = steering
    elif isinstance(steering, Mapping):
        found = {"interventions": [_of_pair(name, value) for name, value in steering.items()]}
    else:
        raise SpecError(
            'steering is a spec {"interventions": [...]}, {"happy": 1.5}, ["happy:1.5@12"] or null, not a '
            f"{type(steering).__name__}"
        )
    document = spec.validate(found).model_dump(mode="json", exclude_unset=True, exclude_none=True)
    _check_limits(document["interventions"], limits)
    return document


def _check_limits(items: list[dict[str, Any]], limits: Limits) -> None:
    if len(items) > limits.interventions:
        raise ApiError(
            400, "too_many_interventions",
            f"{len(items)} interventions; this server takes at most {limits.interventions}", param="steering",
        )  # fmt: skip
    for number, item in enumerate(items):
        _check_sizes(item, f"interventions.{number}")
        given: Any = item.get("strength", 1.0)
        weights = [*item["layers"].values()] if isinstance(item.get("layers"), dict) else [1.0]
        values = given if isinstance(given, list) else [given]
        most = max((abs(value * weight) for value in values for weight in weights), default=0.0)
        if most > limits.strength:
            raise ApiError(
                400, "strength_too_large",
                f"interventions.{number}: a strength of {most:g}; this server takes at most {limits.strength:g} either "
                "way", param="steering",
            )  # fmt: skip


def _check_sizes(value: Any, where: str) -> None:
    """Refuse texts and lists so long that they would be work for their own sake."""
    if isinstance(value, str | list | dict) and len(value) > _LONGEST:
        raise ApiError(400, "too_many_values", f"{where} has {len(value)} items; at most {_LONGEST} are taken",
                       param="steering")  # fmt: skip
    if isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            _check_sizes(inner, f"{where}.{key[:40]}")


def _names(item: Mapping[str, Any]) -> list[str]:
    found = [item[role] for role in spec.NAMING if role in item]
    return [*found, item["when"]["vector"]] if item.get("when") else found


def _of_item(item: Any) -> Any:
    if isinstance(item, str):
        return spec.parse_token(item)
    if isinstance(item, Mapping):
        return item
    raise SpecError(f'a list of steering holds "name:strength@layers" or interventions, not a {type(item).__name__}')


def _of_pair(name: Any, value: Any) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(
            f'steering: {name!r} has the value {value!r}; write {{name: strength}}, or a spec with "interventions"'
        )
    return {"vector": name, "strength": float(value)}
