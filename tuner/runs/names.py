"""
What a run is called: what a person may type, and the id that its folder gets.

    20261123-0915-support-bot       local time to the minute, then the name
"""

import re
import time
import unicodedata
from pathlib import PurePosixPath

from tuner.errors import RunError
from tuner.recipe import Recipe

MAX_NAME_LENGTH = 60
MAX_NAME_BYTES = 180  # a folder's name may have 255, and a letter takes up to four
RUN_ID = re.compile(r"\d{8}-\d{4}-\w[\w-]*")
STAMP_LENGTH = len("20261123-0915-")


def slug(name: str) -> str:
    """Turn a name that a person chose into the last part of an id.

    Letters of every script stay; whatever else a person types becomes a dash.

    Raises:
        RunError: Empty, too long, with a path or control characters in it, or without a letter.

    >>> slug("Support bot, 2nd try")
    'support-bot-2nd-try'
    """
    if not name.strip():
        raise RunError("The run's name is empty. Give it a word, such as support-bot.")
    shown = repr(name[:MAX_NAME_LENGTH])
    if len(name) > MAX_NAME_LENGTH:
        raise RunError(
            f"The run's name {shown}… has {len(name):,} characters. Use {MAX_NAME_LENGTH} or fewer."
        )
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise RunError(f"The run's name {shown} holds control characters. Use letters and digits.")
    if "/" in name or "\\" in name or ".." in name:
        raise RunError(
            f"The run's name {shown} reads as a path. Name the run only; "
            "--runs-dir says where runs are kept."
        )
    if not (made := _dashed(name)):
        raise RunError(f"The run's name {shown} has no letter or digit. Add one.")
    return made


def default_slug(recipe: Recipe) -> str:
    """Name a run after its preset, else its data, else what it is."""
    source = PurePosixPath(recipe.dataset.source)
    return _dashed(recipe.preset or "") or _dashed(source.stem) or "run"


def run_id(created: float, last_part: str) -> str:
    """Join a time (Unix seconds) and a slug."""
    # Local time, because people look for "this morning's run"; lists sort by the exact time.
    return f"{time.strftime('%Y%m%d-%H%M', time.localtime(created))}-{last_part}"


def slug_of(identifier: str) -> str:
    """The part of an id after its time."""
    return identifier[STAMP_LENGTH:]


def _dashed(text: str) -> str:
    # NFKC: the same name typed on two keyboards is the same sequence of characters.
    plain = unicodedata.normalize("NFKC", text).lower()
    dashed = re.sub(r"[\W_]+", "-", plain)[:MAX_NAME_LENGTH]
    return dashed.encode()[:MAX_NAME_BYTES].decode(errors="ignore").strip("-")
