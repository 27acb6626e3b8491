"""From an exception to a short message on stderr and an exit code."""

from __future__ import annotations

import traceback

from ..errors import BoundaryError, BusyError, JudgeError, SteersmanError
from .console import error_console

OK, FAILED, USAGE, GATE, INTERRUPTED = 0, 1, 2, 3, 130
#: ours, but not the user's: something could not be done with what was given rightly
_NOT_USAGE = (BusyError, BoundaryError, JudgeError)


class InputError(SteersmanError):
    """Something wrong with what the command line was given.

    Attributes:
        what, why, fix: the three lines of the message; the last two may be missing.
        code: the exit code.
    """

    def __init__(self, what: str, *, why: str | None = None, fix: str | None = None, code: int = USAGE) -> None:
        super().__init__(what)
        self.what, self.why, self.fix, self.code = what, why, fix, code


def report(error: BaseException, *, verbose: bool = False) -> int:
    """Say what went wrong, why and what to do; return the exit code.

    A traceback is shown with ``--verbose`` only.
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        error_console().print("interrupted")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return FAILED
    if verbose:
        traceback.print_exception(error)
    what, why, fix, code = explain(error)
    console = error_console()
    console.print(f"[bold red]error[/]: {_plain(what)}", soft_wrap=True)
    for name, text in (("why", why), ("fix", fix)):
        if text:
            console.print(f"  [bold]{name}[/]: {_plain(text)}", soft_wrap=True)
    return code


def explain(error: BaseException) -> tuple[str, str | None, str | None, int]:
    """What, why and fix of an error, and its exit code."""
    if isinstance(error, InputError):
        return error.what, error.why, error.fix, error.code
    if isinstance(error, SteersmanError):
        what, fix = _parted(str(error))
        return what, None, fix, FAILED if isinstance(error, _NOT_USAGE) else USAGE
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's own
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "steer"
        return error.format_message().rstrip("."), None, f"{path} --help", USAGE  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    if isinstance(error, FileNotFoundError | FileExistsError):
        return str(error), None, None, USAGE
    if isinstance(error, OSError):
        return str(error), None, None, FAILED
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
        return "out of memory", str(error) or None, "a smaller --dtype, fewer prompts, or another --device", FAILED
    lines = (str(error) or "no message").strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}", None, "run again with --verbose for the traceback", FAILED


def _parted(message: str) -> tuple[str, str | None]:
    """A message of the library, whose last clause often is the remedy."""
    what, mark, rest = message.rpartition("; ")
    imperative = rest.split(" ")[0] in _REMEDIES
    return (what, rest) if mark and imperative else (message, None)


_REMEDIES = (
    "give",
    "use",
    "name",
    "write",
    "shorten",
    "create",
    "take",
    "make",
    "load",
    "save",
    "upgrade",
    "leave",
    "extract",
    "look",
    "count",
    "sample",
    "unset",
    "did",
    "for",
    "pass",
    "set",
    "call",
    "squeeze",
    "choose",
)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
