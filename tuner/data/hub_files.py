"""
A Hub dataset reads its own files and no others.

    with only_files_of("namespace/name"):
        datasets.load_dataset("namespace/name")

The page of a dataset may say which files it consists of, and `datasets` takes every path and
address that stands there: a file of this machine, another person's run, a host inside its network.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_repository: ContextVar[str | None] = ContextVar("repository", default=None)
_installing = threading.Lock()


@contextmanager
def only_files_of(name: str) -> Iterator[None]:
    """While inside, `datasets` raises ValueError for a file that is not in this repository."""
    _install()
    before = _repository.set(name)
    try:
        yield
    finally:
        _repository.reset(before)


def is_file_of(name: str, path: str) -> bool:
    """Whether a path, as `datasets` writes them, lies in a repository.

    >>> is_file_of("a/b", "hf://datasets/a/b@main/data/*.csv"), is_file_of("a/b", "/etc/passwd")
    (True, False)
    """
    inside = path.startswith((f"hf://datasets/{name}@", f"hf://datasets/{name}/"))
    # "::" leads on to another file system, as in zip://*::http://….
    return inside and ".." not in path.split("/") and "::" not in path


def _install() -> None:
    from datasets import data_files

    with _installing:
        if not hasattr(data_files.resolve_pattern, "resolves_own_files_only"):
            data_files.resolve_pattern = _checked(data_files.resolve_pattern)


def _checked(resolve: Callable[..., list[str]]) -> Callable[..., list[str]]:
    from datasets.utils.file_utils import is_relative_path, xjoin

    def checked(pattern: str, base_path: str, *more: Any, **options: Any) -> list[str]:
        name = _repository.get()
        path = xjoin(base_path, pattern) if is_relative_path(pattern) else pattern
        if name is not None and not is_file_of(name, path):
            raise ValueError(f"it names {path[:80]}, which is no file of its own")
        return resolve(pattern, base_path, *more, **options)

    checked.resolves_own_files_only = True  # type: ignore[attr-defined]
    return checked
