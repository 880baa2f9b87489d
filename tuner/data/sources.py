"""
Open what dataset.source names: a file, a zip or folder of files, a code repository, a Hub dataset.

    for row in open_source(DatasetSettings(source="support.csv")): ...

What it is, is found out here; what its columns mean, in formats.py.
"""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tuner.data.archives import folder_blobs, is_clutter, is_zip, zip_blobs
from tuner.data.blobs import Blob, local_blob, shown_name
from tuner.data.code_files import is_own_code
from tuner.data.file_types import ACCEPTED, type_by_name
from tuner.data.files import read_file
from tuner.data.repository import MEANING, read_repository
from tuner.data.rows import RawRow, ReadLog, Source
from tuner.errors import DatasetError
from tuner.recipe import DatasetSettings

PROJECT_ROOT = Path(__file__).resolve().parents[2]

# Parts of a data set that are kept from training by whoever made it.
_HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval")


def open_source(
    dataset: DatasetSettings, *, cache_dir: Path | None = None, token: str | None = None
) -> Source:
    """Open a data set without reading its rows yet.

    Args:
        dataset: `source`, `kind`, and for the Hub `config`, `split`, `revision`.
        cache_dir: For temporary copies and Hub downloads; None takes the libraries' own.
        token: For private and gated Hub datasets; never stored.

    Raises:
        DatasetError: It does not exist, cannot be reached, or holds nothing to read. A file's own
            faults come while iterating.
    """
    if not dataset.source.strip():
        raise DatasetError("dataset.source is empty. Give a file, a folder or a Hub dataset id.")
    path = None if dataset.kind == "hub" else local_path(dataset.source)
    if path is not None:
        return _open_path(path, dataset, cache_dir)
    # Only here, because the Hub's client is not needed for files.
    from tuner.data.hub import hub_id, open_hub_dataset

    if dataset.kind == "hub":
        return open_hub_dataset(dataset, cache_dir=cache_dir, token=token)
    if dataset.kind == "auto" and _may_be_hub_id(dataset.source):
        try:
            return open_hub_dataset(dataset, cache_dir=cache_dir, token=token)
        except DatasetError as error:
            raise DatasetError(f"{error} There is no file or folder of that name either.") from None
    hint = " A Hub dataset is written namespace/name." if hub_id(dataset.source) is None else ""
    raise DatasetError(f"There is no file or folder {dataset.source}.{_nearest(dataset)}{hint}")


def local_path(source: str) -> Path | None:
    """The file or folder meant, from the current directory or else the project's, if it exists."""
    try:
        given = Path(source).expanduser()
        candidates = (given, PROJECT_ROOT / given)
        return next((path for path in candidates if path.exists()), None)
    except (OSError, RuntimeError, ValueError):  # too long, ~nobody, a NUL
        return None


def _may_be_hub_id(source: str) -> bool:
    """`data/train.csv` looks like namespace/name, but means a file that is not there."""
    from tuner.data.hub import hub_id

    is_file_name = type_by_name(source) is not None or source.lower().endswith((".zip", ".gz"))
    return hub_id(source) is not None and not (is_file_name and "://" not in source)


def _nearest(dataset: DatasetSettings) -> str:
    folder = local_path(str(Path(dataset.source).parent))
    if folder is None or not folder.is_dir():
        return ""
    names = [path.name for path in folder.iterdir()]
    near = difflib.get_close_matches(Path(dataset.source).name, names, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _open_path(path: Path, dataset: DatasetSettings, cache_dir: Path | None) -> Source:
    try:
        if path.is_dir():
            blobs, notes = folder_blobs(path)
        elif is_zip(path):
            blobs, notes = zip_blobs(path)
        else:
            blobs, notes = [local_blob(path)], None
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}.") from error
    name = shown_name(path)
    if _is_repository(blobs, dataset.kind):
        return _repository_source(blobs, name, notes or [])
    if notes is None:
        return Source(
            name,
            lambda log: read_file(blobs[0], log, split=dataset.split, cache_dir=cache_dir),
        )
    return _bundle_source(blobs, name, dataset, notes, cache_dir)


def _is_repository(blobs: Sequence[Blob], kind: str) -> bool:
    """Left to decide, more files of code than files of rows make it one."""
    if kind != "auto":
        return kind == "repository"
    code = sum(is_own_code(blob) for blob in blobs)
    rows = sum(_holds_rows(blob) for blob in blobs)
    return code > rows


def _repository_source(blobs: Sequence[Blob], name: str, notes: list[str]) -> Source:
    return Source(
        f"code repository {name}",
        lambda log: read_repository(blobs, name, log),
        notes=notes,
        meaning=MEANING,
    )


def _bundle_source(
    blobs: Sequence[Blob],
    name: str,
    dataset: DatasetSettings,
    notes: list[str],
    cache_dir: Path | None,
) -> Source:
    chosen = [blob for blob in blobs if _holds_rows(blob)]
    chosen = chosen or [blob for blob in blobs if _is_document(blob)]
    if not chosen:
        raise DatasetError(f"{name} holds no file that Tuner reads. Give {ACCEPTED}.")
    chosen = _of_split(chosen, dataset.split)
    left = [blob.name for blob in blobs if blob not in chosen and not is_clutter(blob.name)]
    if left:
        more = " and others" if len(left) > 3 else ""
        notes = [*notes, f"{name}: not read: {', '.join(left[:3])}{more}."]

    def read(log: ReadLog) -> Iterator[RawRow]:
        for blob in chosen:
            yield from read_file(blob, log, split=dataset.split, cache_dir=cache_dir)

    files = chosen[0].name if len(chosen) == 1 else f"{len(chosen):,} files"
    return Source(f"{name} ({files})", read, notes=notes)


def _holds_rows(blob: Blob) -> bool:
    return type_by_name(blob.name) not in (None, "text") and not is_clutter(blob.name)


def _is_document(blob: Blob) -> bool:
    return type_by_name(blob.name) == "text" and not is_clutter(blob.name)


def _of_split(blobs: list[Blob], split: str) -> list[Blob]:
    """Without the files that are named after another split, if one is named after this one."""
    split = split.partition("[")[0]
    if not any(_words(blob) & {split} for blob in blobs):
        return blobs
    others = {word for word in (*_HELD_OUT, "train") if word != split}
    return [blob for blob in blobs if not _words(blob) & others]


def _words(blob: Blob) -> set[str]:
    """`data/train-00000-of-00002.parquet` → {"data", "train", "00000", …}."""
    stem = PurePosixPath(blob.name.lower()).as_posix().replace("/", "-")
    for mark in "._ ":
        stem = stem.replace(mark, "-")
    return set(stem.split("-"))
