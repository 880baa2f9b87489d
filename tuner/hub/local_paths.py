"""
Where this machine keeps things, taken out of what is published.

    roots = local_roots(run, recipe.base_model)
    clean = without_local_paths(text, roots)       # "/home/ann/runs/bot/x.csv" → "x.csv"
    named = first_local_path(text, roots)          # None where there is none

A path tells a name, a disk and how things lie on it, and helps nobody elsewhere.
Not covered: paths of other machines, which cannot be told from any text with slashes.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tuner.runs.run import Run

PROJECT_ROOT = Path(__file__).resolve().parents[2]
REST = r"(?:/[^\s\"'`<>|,;:)\]}]*)?"  # of a path, to the end of the word
SHORT = 2  # parts: "/root" and "/app" are words of a vocabulary, too


def local_roots(run: Run, *others: str) -> list[str]:
    """Folders that nothing published may name, the longest first.

    Args:
        others: Further names; those that are absolute paths count.
    """
    known = [run.dir, run.dir.parent, PROJECT_ROOT, Path.cwd(), _home(), *_folders(others)]
    both = {str(form) for path in known if path for form in (path.absolute(), path.resolve())}
    roots = [root for root in both if len(PurePosixPath(root).parts) >= SHORT]
    return sorted(roots, key=lambda root: (-len(root), root))


def long_roots(roots: Iterable[str]) -> list[str]:
    """Those that cannot be a word of a vocabulary."""
    return [root for root in roots if len(PurePosixPath(root).parts) > SHORT]


def without_local_paths(text: str, roots: Sequence[str]) -> str:
    """A text in which of every path under these folders only its last name is left.

    >>> without_local_paths("from /home/ann/runs/bot/x.csv, by /home/ann.", ["/home/ann"])
    'from x.csv, by ann.'
    """
    for root in (root for root in roots if root in text):
        text = _pattern(root).sub(lambda found: last_name(found[0].rstrip(".")) + _end(found), text)
    return text


def first_local_path(text: str, roots: Sequence[str]) -> str | None:
    """A folder of this machine that the text names."""
    return next((root for root in roots if root in text and _pattern(root).search(text)), None)


def clean_values(value: Any, roots: Sequence[str]) -> Any:
    """The same for every text inside lists and mappings.

    >>> clean_values({"a": ["/home/ann/x", 1]}, ["/home/ann"])
    {'a': ['x', 1]}
    """
    if isinstance(value, str):
        return without_local_paths(value, roots)
    if isinstance(value, dict):
        return {key: clean_values(inner, roots) for key, inner in value.items()}
    if isinstance(value, list):
        return [clean_values(inner, roots) for inner in value]
    return value


def last_name(path: str) -> str:
    """What a path's file is called, whichever system wrote it.

    >>> last_name("/data/my rows.csv"), last_name("C:\\\\rows\\\\a.csv"), last_name("~/models/x/")
    ('my rows.csv', 'a.csv', 'x')
    """
    return PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name


def _pattern(root: str) -> re.Pattern[str]:
    # A short one only where it begins a path: ".../root" and "x/app" are somebody else's.
    before = r"(?<![\w./~-])" if len(PurePosixPath(root).parts) <= SHORT else ""
    return re.compile(before + re.escape(root) + r"(?![\w-])" + REST)


def _end(found: re.Match[str]) -> str:
    """Full stops that ended a sentence, not a name."""
    return "." * (len(found[0]) - len(found[0].rstrip(".")))


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # nobody's, as in some containers
        return None


def _folders(names: Iterable[str]) -> list[Path]:
    found = []
    for name in names:
        try:
            path = Path(name).expanduser()
        except RuntimeError:  # ~nobody
            continue
        if path.is_absolute():
            found.append(path)
    return found
