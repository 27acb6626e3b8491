"""``steer version``."""

from __future__ import annotations

from .. import __version__
from .session import Run


def version(run: Run) -> None:
    """Print the version of Steersman (and with --json, of what it runs on)."""
    if run.json_:
        from .record import versions

        run.emit("steersman.version/1", {"version": __version__, "versions": versions()})
        return
    run.out.print(f"steersman {__version__}")
