"""
Whether a repository on the Hub is open to everybody.

    PublicRepos().problem("somebody/model", "model")      a sentence, or None

This machine's own login may read private and gated repositories. Who is not the page's owner must
not reach those through it, so what they name has to be there for somebody without any token.
"""

import time
from collections.abc import Callable
from typing import Literal

from tuner.hub.api import machine_token

Kind = Literal["model", "dataset"]
SECONDS_KEPT = 300.0
MOST_KEPT = 500
TIMEOUT = 10.0


class PublicRepos:
    """Asks the Hub without a token; answers are kept for minutes, as the page asks often.

    Args:
        has_login: Whether this machine has a token at all; without one the Hub says no by itself.
    """

    def __init__(self, has_login: Callable[[], bool] = lambda: machine_token() is not None):
        self._has_login = has_login
        self._kept: dict[tuple[str, Kind], tuple[float, str | None]] = {}

    def problem(self, repo: str, kind: Kind) -> str | None:
        """Why somebody else may not use a repository through this machine; None if they may."""
        if not self._has_login():
            return None
        now = time.monotonic()
        until, found = self._kept.get((repo, kind), (0.0, None))
        if now < until:
            return found
        found = _ask(repo, kind)
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        self._kept[repo, kind] = (time.monotonic() + SECONDS_KEPT, found)
        return found


def _ask(repo: str, kind: Kind) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    told = f"There is no public {kind} {repo[:200]} on the Hub that everybody may read."
    try:
        found = HfApi(token=False).repo_info(repo, repo_type=kind, timeout=TIMEOUT)
    except (HfHubHTTPError, HFValidationError):
        return told
    except Exception:  # noqa: BLE001 (whatever the network does: what is not known is not used)
        return f"The Hub cannot be asked whether {repo[:200]} is public. Try again."
    return told if found.private or getattr(found, "gated", False) else None
