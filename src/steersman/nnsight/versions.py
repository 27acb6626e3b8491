"""The nnsight that this package was tested with, checked when it is imported.

Tracing needs parts of nnsight that it does not promise to keep (how workers are run, how blocks are captured), so a
version outside the tested range is refused rather than tried.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from ..errors import VersionError

TESTED = ((0, 8, 1), (0, 9))
FIX = "pip install 'nnsight>=0.8.1,<0.9'"

#: module of nnsight -> what is used of it
_USED = {
    "nnsight.intervention.interleaver": ("Mediator._run", "Mediator.flush", "Mediator.start", "Interleaver.mediators"),
    "nnsight.intervention.tracer": ("InterleavingTracer.execute", "ScanningTracer.execute", "Invoker.execute"),
    "nnsight.intervention.editing": ("EditingTracer.execute",),
    "nnsight.intervention.iterator": ("Iterations.__iter__", "Iterations.execute"),
    "nnsight.intervention.envoy": ("Envoy._resolve_envoy_class", "Envoy._shallow_copy", "Envoy.interleave"),
    "nnsight.tracing.tracer": ("skip_context", "skippable", "Tracer.capture", "_local"),
    "nnsight.modeling.language": ("LanguageModel._load", "LanguageModel._load_meta", "LanguageModel._wrap"),
}


def check_version(found: str | None = None) -> None:
    """Raise VersionError, with the fix, unless nnsight is installed in the tested range.

    Args:
        found: the version, instead of the installed one.
    """
    if found is None:
        try:
            found = version("nnsight")
        except PackageNotFoundError:
            raise VersionError(f"steersman.nnsight needs nnsight, which is not installed: {FIX}") from None
    low, high = TESTED
    if not low <= _numbers(found) < high:
        raise VersionError(
            f"steersman.nnsight was tested with nnsight 0.8.1 up to, not including, 0.9, and nnsight {found} is "
            f"installed, whose tracing may work in other ways: {FIX}"
        )


def check_parts() -> None:
    """Raise VersionError if a part of nnsight that is used here is missing."""
    for module, names in _USED.items():
        for name in names:
            found: object = import_module(module)
            for step in name.split("."):
                # what a class sets on its instances only is not seen on the class
                if step == "mediators":
                    break
                found = getattr(found, step, None)
                if found is None:
                    raise VersionError(
                        f"steersman.nnsight uses {module}.{name}, which this nnsight {version('nnsight')} lacks: {FIX}"
                    )


def _numbers(text: str) -> tuple[int, ...]:
    """``0.8.1.post2`` as (0, 8, 1)."""
    numbers: list[int] = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:  # a pre-release is not its release
            break
    return tuple(numbers)
