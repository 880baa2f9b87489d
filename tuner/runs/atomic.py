"""
Files that are whole whenever somebody reads them, and changes that exclude one another.

POSIX only (flock), as process groups in launch.py are.
"""

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tuner.errors import RunError
from tuner.runs.plain import plain

LOCK_PATIENCE_SECONDS = 5.0
LOCK_POLL_SECONDS = 0.005


def replace_text(path: Path, text: str) -> None:
    """Put `text` into `path` at once: a reader sees the old content or the new, never half.

    Raises:
        OSError: The disk is full or the folder is gone; `path` is as it was.
    """
    # In the same folder, since os.replace is atomic on one filesystem only.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        with open(aside, "x", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with no content
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def replace_json(path: Path, value: Any) -> None:
    """Put one JSON document into `path` at once, for people to read too."""
    replace_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes and threads out of `folder` while its files are read and changed.

    Not reentrant. The kernel lets go of the lock when its holder dies.

    Raises:
        RunError: The folder is not there: the run was deleted.
    """
    try:  # the folder itself is locked: no lock file to leave behind
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"There is no run in {folder}.") from None
    try:
        _lock(descriptor)
        yield
    finally:
        # Closing is not enough: a child being forked right now shares the lock until it execs.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Wait for the lock, but not for ever.

    A holder that hangs (a suspended process, a dead network disk) must not take the rest with it:
    stopping that very process needs this lock. Files are whole without it too.
    """
    until = time.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                return
            time.sleep(LOCK_POLL_SECONDS)
        except OSError:  # a mounted bucket or network folder without locks
            return
