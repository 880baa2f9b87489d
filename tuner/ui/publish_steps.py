"""
What is done when something is published or merged, as steps that are told while they are taken.

The hub's and the export's modules are imported when they are needed.
"""

import threading
from collections.abc import Generator
from contextlib import closing
from typing import Any

from tuner.errors import HubError
from tuner.hub.target import Target
from tuner.runs.run import Run
from tuner.ui.publish import MERGED

Steps = Generator[Any, None, None]  # progress, and at last what came of it

CARD = ("README.md", None)
BYTES_16_BIT = 2  # per parameter
BUSY_MERGING = "Weights are being merged already, which takes much memory. Try again after that."

_merging = threading.Lock()  # each merge holds a whole model in memory


def one_merge(merging: Steps) -> Steps:
    """Let weights be merged, unless others are being merged on this machine.

    Raises:
        HubError: They are.
    """
    if not _merging.acquire(blocking=False):
        raise HubError(BUSY_MERGING)
    try:
        with closing(merging):
            yield from merging
    finally:
        _merging.release()


def planned_files(run: Run, what: str) -> list[tuple[str, int | None]]:
    """Names and bytes of what would be sent; None for what is made only then."""
    if what == MERGED:
        count = (run.result() or {}).get("total_parameters")
        size = BYTES_16_BIT * count if isinstance(count, int) else None
        return [("weights (safetensors)", size), ("configuration and tokenizer", None), CARD]
    from tuner.hub.bundle import bundle_files

    return bundle_files(run)


def pushing_steps(run: Run, target: Target, token: str, card: str, what: str) -> Steps:
    """Publish a run, or its merged weights where no others are being merged."""
    from tuner.hub.publish import publish_run

    pushing = publish_run(run, target, token, card, what == MERGED)
    return one_merge(pushing) if what == MERGED else pushing
