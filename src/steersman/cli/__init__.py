"""The command ``steer``: thin faces over the library, one module per command.

Nothing here is imported by the library, and no command imports torch or transformers before it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def run(arguments: Sequence[str] | None = None) -> int:
    """Run ``steer`` with these arguments (those of the process by default) and return its exit code.

    0 ok, 1 failed, 2 usage or mismatch, 3 a gate not met, 130 interrupted.
    """
    from .app import build
    from .failures import report

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = build().main(given, prog_name="steer", standalone_mode=False)
    except BaseException as error:
        return report(error, verbose="--verbose" in given)
    return code if isinstance(code, int) else 0


def main() -> None:
    """The entry point of the ``steer`` script."""
    sys.exit(run())


__all__ = ["main", "run"]
