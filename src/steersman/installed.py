"""What this package runs on, for records of how a result came about."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from . import __version__


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python, of this package, and of those of the named packages that are installed."""
    found = {"python": platform.python_version(), "steersman": __version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
