"""
How the page ends: on SIGTERM as on Ctrl-C, with everything that it started.

    with ending_well(services):
        launch(…)

Off a Space the page's end is nothing to its runs: they go on. A Space that restarts takes its whole
machine along, so there SIGTERM first of all stops the runs (service/stopping.py), while the page
still answers.

    TUNER_GRACE_SECONDS    how long they may take, where a machine is given more than the usual 30
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tuner.hub.space import is_space
from tuner.service.stopping import GRACE_SECONDS, stop_runs
from tuner.ui.services import Services

BECAUSE = "The Space restarts."


@contextmanager
def ending_well(services: Services) -> Iterator[None]:
    """End inside the block on SIGTERM, and after it let go of all that the page holds.

    Call it in the main thread: only that hears signals.
    """
    stopping = threading.Thread(target=_stop_everything, args=(services,), name="stopping")

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # said once is enough
        if is_space():
            stopping.start()
        raise KeyboardInterrupt  # which Gradio waits for

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:  # in a moment when Gradio does not wait yet
        pass
    finally:
        if stopping.ident:
            stopping.join()
        services.end()
        signal.signal(signal.SIGTERM, before)


def _stop_everything(services: Services) -> None:
    services.dispatcher.close()  # or it would start the next one in line
    stop_runs(services.store, BECAUSE, grace_seconds())


def grace_seconds() -> float:
    """Seconds from SIGTERM until a run is killed."""
    try:
        return max(1.0, float(os.environ.get("TUNER_GRACE_SECONDS") or GRACE_SECONDS))
    except ValueError:  # now is no time to refuse
        return GRACE_SECONDS
