"""Writing a folder so that a reader meets the old one or the whole new one, never a part."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD


@contextmanager
def replacing_folder(path: str | Path) -> Generator[Path]:
    """A temporary folder beside ``path`` to write to; put in its place on success, removed on failure.

    On Linux a folder that is there is exchanged in one step, so that a process killed at any moment leaves the old one
    or the new one, whole. Elsewhere there is a moment between two renames in which the old one bears another name
    (``.<name>.<number>.part``). What an earlier process left behind when it was killed is removed.

    Raises:
        FileNotFoundError: when the parent folder does not exist, before anything is written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    _remove_abandoned(target)
    temporary = target.parent / f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part"
    temporary.mkdir()
    try:
        yield temporary
        _sync(temporary)
        _put(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(temporary: Path, target: Path) -> None:
    """Move a folder to ``target``; what was there is then at ``temporary``, or gone if it was empty."""
    if not target.exists() or not any(target.iterdir()):
        temporary.replace(target)  # renaming over an empty folder is one step, too
    elif not _exchanged(temporary, target):
        old = temporary.with_name(f"{temporary.name.removesuffix('.part')}.old.part")
        target.replace(old)
        try:
            temporary.replace(target)
        except OSError:
            old.replace(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync_entry(target.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, where the system can."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # this file system cannot
        return False
    raise OSError(code, os.strerror(code), str(other))


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as written:
                os.fsync(written.fileno())
    _sync_entry(folder)


def _sync_entry(folder: Path) -> None:
    with suppress(OSError):  # a folder cannot be opened everywhere
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_abandoned(target: Path) -> None:
    """Remove what a process that is no more left of its writing to ``target``."""
    if os.name != "posix":  # elsewhere there is no asking whether a process lives without ending it
        return
    for path in target.parent.iterdir():
        begins, ends = path.name.startswith(f".{target.name}."), path.name.endswith(".part")
        number = path.name.removeprefix(f".{target.name}.").partition(".")[0]
        saved = path.name.endswith(".old.part") and not target.exists()  # between the two renames: all there is
        if begins and ends and number.isdecimal() and not saved and not _alive(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
