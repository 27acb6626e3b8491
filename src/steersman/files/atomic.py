"""Writing so that a reader meets the old file or the whole new one, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Generator[Path]:
    """A temporary path beside ``path`` to write to; moved over it on success, removed on failure.

    Raises:
        FileNotFoundError: when the folder does not exist, before anything is written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    temporary = target.parent / f".{target.name[:40]}.{secrets.token_hex(8)}.part"
    temporary.touch(0o666, exist_ok=False)
    mode = temporary.stat().st_mode  # what the umask left of it; whoever writes may put a file of its own in its place
    try:
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
