"""
Uploaded files: kept beside the runs, because a run in line reads its data long after the upload.

    <runs>/.uploads/<16 hex digits of the contents>/support.csv
    <runs>/.uploads/<the same>-<16 hex digits of a name>/support.csv     of one who signed in

The same files are kept once, and of each who signed in apart, so that nobody reads another's.
What no run names is removed after a week, when the page starts.
Not covered: how large an upload may be (the server refuses it before it is written; options.py).
"""

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path, PurePosixPath, PureWindowsPath

from tuner.errors import DatasetError

FOLDER = ".uploads"
KEPT_SECONDS = 7 * 86400


def keep_uploads(files: Sequence[str | Path], runs_dir: Path, owner: str | None = None) -> Path:
    """Copy uploaded files to where runs can read them.

    Args:
        files: Where the server put them.
        owner: Who signed in and is not the owner of the page; None for that owner.

    Returns:
        The file, or the folder that holds the several files.

    Raises:
        DatasetError: None were given, or the disk is full.
    """
    paths = [Path(file) for file in files]
    if not paths:
        raise DatasetError("No file was given. Drop one here, or choose the sample data.")
    try:
        folder = runs_dir / FOLDER / (_digest(paths) + _mark(owner))
        if not folder.is_dir():
            _copy(paths, folder)
        os.utime(folder)  # used again: a week from now
    except OSError as error:
        raise DatasetError(
            f"The upload cannot be kept in {runs_dir}: {error.strerror}. Make room on the disk."
        ) from None
    names = _names(paths)
    return folder / names[0] if len(names) == 1 else folder


def is_upload_of(path: Path, runs_dir: Path, owner: str | None) -> bool:
    """Whether a path lies in what this person uploaded, having signed in."""
    uploads = (runs_dir / FOLDER).resolve()
    real = path.expanduser().resolve()
    if owner is None or not real.is_relative_to(uploads) or real == uploads:
        return False
    return real.relative_to(uploads).parts[0].endswith(_mark(owner))


def shown_source(source: str) -> str:
    """A data set's source for a person; of an upload the name that it had.

    >>> shown_source("/runs/.uploads/999240437fa86dbe/a.csv"), shown_source("namespace/name")
    ('a.csv', 'namespace/name')
    >>> shown_source("/runs/.uploads/999240437fa86dbe")
    'uploaded files'
    """
    parts = Path(source).parts
    if FOLDER not in parts:
        return source
    inside = parts[parts.index(FOLDER) + 2 :]
    return "/".join(inside) or "uploaded files"


def remove_old_uploads(runs_dir: Path, sources: Sequence[str]) -> None:
    """Remove uploads that no run's recipe names and nobody used for a week.

    Args:
        sources: dataset.source of every run.
    """
    named = {part for source in sources for part in Path(source).parts}
    for folder in (runs_dir / FOLDER).glob("*"):
        try:
            old = time.time() - folder.stat().st_mtime > KEPT_SECONDS
        except OSError:
            continue
        if old and folder.name not in named:
            shutil.rmtree(folder, ignore_errors=True)


def _mark(owner: str | None) -> str:
    """What tells somebody's uploads from others'; a name itself may hold what a path may not."""
    return "" if owner is None else f"-{hashlib.sha256(owner.encode()).hexdigest()[:16]}"


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path, name in zip(paths, _names(paths), strict=True):
        digest.update(name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _copy(paths: Sequence[Path], folder: Path) -> None:
    aside = folder.with_name(f".{uuid.uuid4().hex[:12]}")
    aside.mkdir(parents=True)
    try:
        for path, name in zip(paths, _names(paths), strict=True):
            shutil.copyfile(path, aside / name)
        os.rename(aside, folder)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if not (isinstance(error, OSError) and folder.is_dir()):
            raise
        # Else somebody uploaded the same at once.


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names, without any folder that a client may have put before them."""
    names: list[str] = []
    for path in paths:
        name = PurePosixPath(PureWindowsPath(path.name).name).name.lstrip(".") or "data"
        others = (f"{number}-{name}" for number in count(2))
        names.append(next(free for free in chain([name], others) if free not in names))
    return names
