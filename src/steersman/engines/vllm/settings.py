"""What an engine was told about steering, and how much it makes room for.

vLLM carries ``additional_config={"steersman": {...}}`` to all its processes; the environment variables are for servers
whose command line is fixed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from ...errors import SpecError
from .places import STEERED, Place
from .tables import Capacity

KEY = "steersman"
#: environment variable -> the setting it is for
VARIABLES = {
    "STEERSMAN_VECTORS": "vectors",
    "STEERSMAN_SITES": "sites",
    "STEERSMAN_RANK": "rank",
    "STEERSMAN_ROWS": "rows",
    "STEERSMAN_PROGRAMS": "programs",
}
#: Conditions that one request may have.
CONDITIONS = 4
#: Memory for rows, unless told otherwise.
BUDGET = 256 * 1024 * 1024


def switched_off() -> bool:
    """Whether ``STEERSMAN_VLLM=off`` asks for an engine that does not steer."""
    return os.environ.get("STEERSMAN_VLLM", "").lower() in ("0", "off", "no", "false")


def asked_for() -> bool:
    """Whether the environment asks for an engine that steers: by a setting, or by naming the plugin."""
    named = KEY in os.environ.get("VLLM_PLUGINS", "").split(",")
    return named or any(os.environ.get(variable) for variable in VARIABLES)


@dataclass(frozen=True)
class Settings:
    """The settings of one engine.

    Attributes:
        vectors: the folder of vectors that requests name, or None for an engine that knows none.
        sites: the components that can be steered. ``("resid_post",)`` is the leanest, one kernel a layer.
        rank: how many terms of the normal form one request may have at one place.
        rows: how many different vectors a request may use, counted over its layers; by default as many as fit in
            256 MiB for all requests together, at most eight more than the model has layers.
        programs: how many differently steered runs of tokens a request may have; every step of a schedule is one.
        capture: the places that are read out, as ``"component.layer"``; an engine that serves needs none.
    """

    vectors: Path | None = None
    sites: tuple[str, ...] = STEERED
    rank: int = 4
    rows: int | None = None
    programs: int = 16
    capture: tuple[Place, ...] = ()

    @classmethod
    def of(cls, vllm_config: Any) -> Settings:
        """Those of an engine: its ``additional_config``, then the environment, then the defaults.

        Raises:
            SpecError: an unknown setting, or a value that is none.
        """
        given: dict[str, Any] = {name: os.environ[key] for key, name in VARIABLES.items() if os.environ.get(key)}
        additional = getattr(vllm_config, "additional_config", None)
        if isinstance(additional, dict):
            given |= cast("dict[str, Any]", additional).get(KEY) or {}
        return cls.parse(given)

    @classmethod
    def parse(cls, given: dict[str, Any]) -> Settings:
        """From plain values, each checked."""
        known = {field.name for field in fields(cls)}
        for name in given:
            if name not in known:
                raise SpecError(f"unknown setting {name!r} of steersman; the settings are {', '.join(sorted(known))}")
        found = dict(given)
        if found.get("vectors") is not None:
            found["vectors"] = Path(found["vectors"]).expanduser().absolute()
        if "sites" in found:
            sites = found["sites"].split(",") if isinstance(found["sites"], str) else found["sites"]
            found["sites"] = tuple(dict.fromkeys(site.strip() for site in sites))
            for site in found["sites"]:
                if site not in STEERED:
                    raise SpecError(f"setting 'sites' names {site!r}; vLLM can be steered at {', '.join(STEERED)}")
        found["capture"] = tuple(_place(name) for name in found.get("capture") or ())
        for name in ("rank", "rows", "programs"):
            if found.get(name) is not None:
                found[name] = _count(name, found[name])
        return cls(**found)

    def rows_each(self, n_layers: int, width: int, requests: int) -> int:
        """How many rows one request may use."""
        if self.rows is not None:
            return self.rows
        return max(min(n_layers + 8, BUDGET // (4 * width * requests)), 8)

    def capacity(self, n_layers: int, width: int, requests: int, tokens: int) -> Capacity:
        """Room for every request of a step to use all that a request may use, so that none is ever turned away later.

        Args:
            requests, tokens: the most of a step.
        """
        slots = min(tokens, requests * (self.programs + 1))  # one more where conditions are decided
        rows = requests * self.rows_each(n_layers, width, requests)
        return Capacity(tokens, slots, rows, self.rank, requests * CONDITIONS)


def _place(name: object) -> Place:
    component, _, layer = str(name).rpartition(".")
    if component not in STEERED or not layer.isdecimal():
        raise SpecError(
            f"setting 'capture' names {name!r}; it must be a component ({', '.join(STEERED)}) and a layer, such as "
            "'resid_post.8'"
        )
    return component, int(layer)


def _count(name: str, value: object) -> int:
    try:
        found = int(str(value))
    except ValueError:
        found = 0
    if found < 1:
        raise SpecError(f"setting {name!r} of steersman must be a whole number of at least 1, got {value!r}")
    return found
